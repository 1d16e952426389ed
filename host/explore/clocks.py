# SPDX-License-Identifier: Apache-2.0
"""Clocks that a board has for a core: those that its PLL makes beside its link's, and that its link can go with."""

from __future__ import annotations

from functools import cache

from nomul.hw.boards.pll import OUTPUT_HZ, plan
from nomul.hw.boards.registry import find_board
from nomul.hw.boards.surroundings import byte_stream
from nomul.model.errors import NomulError

__all__ = ["check_clock", "clock_below"]

_MHZ = 1_000_000


@cache
def _refused(board: str, clock_hz: int) -> str | None:
    there = find_board(board)
    try:
        plan(there.input_hz, [clock_hz, *_link(board)])
        byte_stream(there, clock_hz)
    except NomulError as error:
        return str(error)
    return None


@cache
def _link(board: str) -> tuple[int, ...]:
    """Clocks of its link's own, which do not hang on the core's."""
    there = find_board(board)
    return tuple(byte_stream(there, there.clock_hz).domains.values())


def check_clock(board: str, clock_hz: int) -> None:
    """Refuses a clock of a core with its weights on the chip that a board can not make.

    Raises
    ------
    NomulError
        With the nearest ones.
    """
    why = _refused(board, clock_hz)
    if why is not None:
        raise NomulError(why)


def clock_below(board: str, most_mhz: float) -> float | None:
    """The highest clock of whole MHz, at most so many, that a board can make; None if there is none."""
    for mhz in range(int(most_mhz), OUTPUT_HZ[0] // _MHZ, -1):
        if _refused(board, mhz * _MHZ) is None:
            return float(mhz)
    return None
