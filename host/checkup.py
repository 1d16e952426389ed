# SPDX-License-Identifier: Apache-2.0
"""Is a board what it says? Its clock against this machine's, its external memory against patterns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import EXTERNAL

from .session import Session

__all__ = ["ClockReading", "check_memory", "measure_clock"]

_WRAP = 1 << 32  # of the board's count of cycles
_LINE = 64  # bytes: the largest word of a memory's port
_BLOCK = 1 << 12
_BLOCKS = 16


@dataclass(frozen=True, kw_only=True)
class ClockReading:
    """A board's clock, measured over the link against this machine's.

    Attributes
    ----------
    hz : float
    error_hz : float
        How far off it may be: the board reads its count at some time between request and answer.
    seconds : float
        Over which cycles were counted.
    """

    hz: float
    error_hz: float
    seconds: float


def measure_clock(
    board: Session,
    *,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ClockReading:
    """Counts a board's cycles for some time.

    Parameters
    ----------
    board : Session
    seconds : float
        More than 0; short enough that the count does not wrap twice: 2³² cycles are 10 s at 400 MHz.
    clock, sleep : callable
        For tests.
    """
    if not 0 < seconds <= 10:
        raise ValueError(f"measure_clock: seconds is {seconds}; more than 0 and at most 10")

    def read() -> tuple[float, float, int]:
        """Middle and half length of the request, and the count."""
        board.retries = 0
        while True:
            before = clock()
            count = board.statistics().cycles
            after = clock()
            if board.retries == 0:  # one that was repeated may have been counted at any of its tries
                return (before + after) / 2, (after - before) / 2, count
            board.retries = 0

    kept = board.retries
    read()  # so that both are read with everything warm
    first, off_first, begin = read()
    sleep(seconds)
    last, off_last, end = read()
    board.retries += kept
    took, off = last - first, off_first + off_last
    hz = (end - begin) % _WRAP / took
    return ClockReading(hz=hz, error_hz=hz * off / max(took - off, 1e-9), seconds=took)


def check_memory(
    board: Session,
    size: int,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Tests external memory with patterns that find wires that are open, shorted or swapped, and cells that forget.

    It is overwritten in places: load the model afterwards.

    - Data lines: each of the 512 bits of a word alone set, then alone clear, in a word of its own.
    - Address lines: a word of its own at 0 and at every power of two; all are written before any is read.
    - Blocks of 4 KB of random bytes, at the beginning, the end and places between; all are written before any
      is checked, so the first have had to be refreshed.

    Parameters
    ----------
    board : Session
    size : int
        Bytes of external memory.
    rng : numpy.random.Generator
    progress : callable
        Called with the steps done and those there are.

    Returns
    -------
    int
        Bytes that were written and found again.

    Raises
    ------
    NomulError
        With the address and the bits of the first difference.
    """
    if size < _LINE:
        raise NomulError(f"memory: {size} bytes; the test wants at least {_LINE}")
    steps = [*_data_lines(size), list(_address_lines(size)), _blocks(size, rng)]
    tested = 0
    for number, patterns in enumerate(steps):
        for place, data in patterns:
            board.write(EXTERNAL | place, data)
        for place, data in patterns:
            _compare(place, data, board.read(EXTERNAL | place, len(data)))
            tested += len(data)
        progress(number + 1, len(steps))
    return tested


def _data_lines(size: int) -> Iterator[list[tuple[int, bytes]]]:
    one = np.packbits(np.eye(8 * _LINE, dtype=np.uint8), axis=1, bitorder="little").tobytes()
    for data in (one, bytes(byte ^ 0xFF for byte in one)):
        yield [(0, data[:size])]


def _address_lines(size: int) -> Iterator[tuple[int, bytes]]:
    places = [0]
    step = _LINE
    while step + _LINE <= size:
        places.append(step)
        step <<= 1
    for number, place in enumerate(places):
        yield place, bytes((number * 37 + k * 11 + 1) & 0xFF for k in range(_LINE))


def _blocks(size: int, rng: np.random.Generator) -> list[tuple[int, bytes]]:
    block = min(_BLOCK, size)
    room = (size - block) // _LINE
    places = {0, room, *(int(place) for place in rng.integers(0, room + 1, _BLOCKS))}
    found: list[tuple[int, bytes]] = []
    for place in sorted(places):
        at = place * _LINE
        if not found or at >= found[-1][0] + block:  # what overlaps would be overwritten
            found.append((at, rng.bytes(block)))
    return found


def _compare(place: int, wanted: bytes, found: bytes) -> None:
    if wanted == found:
        return
    at = next(k for k, (a, b) in enumerate(zip(wanted, found, strict=True)) if a != b)
    wrong = np.frombuffer(wanted, np.uint8) ^ np.frombuffer(found, np.uint8)
    bits = int(np.bitwise_or.reduce(wrong))
    raise NomulError(
        f"memory: address {place + at:#010x} holds {found[at]:#04x}, {wanted[at]:#04x} was written; "
        f"{int(np.count_nonzero(wrong)):,} of {len(wanted):,} bytes there differ, in bits {bits:#04x} of a byte"
    )
