# SPDX-License-Identifier: Apache-2.0
"""From Verilog to the program of a simulated board."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nomul.sim.verilate import verilate

__all__ = ["build_board"]

_HERE = Path(__file__).parent


def build_board(
    verilog: str, *, traced: bool = False, progress: Callable[[str], None] = lambda line: None
) -> Path:
    """Compiles the simulated board of a chip; a second time it is there at once.

    Parameters
    ----------
    verilog : str
        Text whose top module ``top`` has the ports of :class:`nomul.hw.top.Top`.
    traced : bool
        Able to write a VCD file, as :meth:`~nomul.sim.board.BoardProcess.trace` asks for.
    progress : callable
        Called with a line when work begins.

    Returns
    -------
    Path
        The program, for :class:`~nomul.sim.board.BoardProcess`.

    Raises
    ------
    NomulError
        If a compiler is missing, or fails; with the first error and where the log lies.
    """
    files = {"top.v": verilog} | {name: (_HERE / name).read_text() for name in ("board.v", "main.cpp")}
    return verilate("board", files, what="simulated board", traced=traced, progress=progress)
