# SPDX-License-Identifier: Apache-2.0
"""From Verilog to the program of a simulated board."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from nomul.sim.verilate import VCD_HEADER, verilate

__all__ = ["Progress", "build_board", "quiet"]

_HERE = Path(__file__).parent

Progress = Callable[[str], None]


def quiet(line: str) -> None:
    """No progress."""


def build_board(
    verilog: str,
    *,
    files: Mapping[str, str] = MappingProxyType({}),
    defines: Mapping[str, int] = MappingProxyType({}),
    traced: bool = False,
    progress: Progress = quiet,
) -> Path:
    """Compiles the simulated board of a chip; a second time it is there at once.

    Parameters
    ----------
    verilog : str
        Text whose top module ``top`` has the ports of :class:`nomul.hw.top.Top`.
    files : mapping
        Text by name of what is compiled beside it: the external memory.
    defines : mapping
        What ``board.v`` and ``main.cpp`` must know of that.
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
    head = "".join(f"`define {name} {value}\n" for name, value in defines.items())
    return verilate(
        "board",
        {
            **files,
            "top.v": verilog,
            "board.v": head + (_HERE / "board.v").read_text(),
            "main.cpp": (_HERE / "main.cpp").read_text(),
            VCD_HEADER.name: VCD_HEADER.read_text(),
            "config.h": head.replace("`", "#"),
        },
        what="simulated board",
        traced=traced,
        progress=progress,
    )
