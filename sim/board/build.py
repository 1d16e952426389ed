# SPDX-License-Identifier: Apache-2.0
"""From Verilog to the program of a simulated board."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from nomul.hw.build.tools import build_folder, verilator_environment, versions
from nomul.model.errors import NomulError

__all__ = ["build_board"]

_MAIN = Path(__file__).with_name("main.cpp")
_WRAPPER = Path(__file__).with_name("board.v")
_OPTIONS = [
    "--cc",
    "--exe",
    "--build",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "--no-timing",
    "--top-module",
    "board",
    "--prefix",
    "Vboard",
    "--Mdir",
    ".",
    "-o",
    "board",
    "-Wno-fatal",
    "-Wno-lint",
    "--output-split",
    "20000",  # files that two compilers can share, and that stay small in memory
    "-CFLAGS",
    "-std=c++17",
]
_OPTIMISE = "OPT_FAST=-O2 OPT_SLOW=-O1 OPT_GLOBAL=-O2"
_LIMIT_S = 900


def build_board(verilog: str, *, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Compiles the simulated board of a chip; a second time it is there at once.

    Parameters
    ----------
    verilog : str
        Text whose top module ``top`` has the ports of :class:`nomul.hw.top.Top`.
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
    # Every input of the program, so that an old one is never taken for a new one.
    key = hashlib.sha256(
        "\0".join(
            [
                verilog,
                _MAIN.read_text(),
                _WRAPPER.read_text(),
                *_OPTIONS,
                _OPTIMISE,
                str(versions().get("verilator")),
            ]
        ).encode()
    ).hexdigest()[:16]
    folder = build_folder("board", key)
    program = folder / "board"
    with open(folder / "lock", "w") as lock:  # two processes may want the same board
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "built").is_file() and program.is_file():
            return program
        environment = os.environ | verilator_environment()
        progress(f"compiling the simulated board ({len(verilog) // 1024} KB of Verilog)")
        (folder / "top.v").write_text(verilog)
        # Options of make in MAKEFLAGS reach the make that Verilator calls.
        environment["MAKEFLAGS"] += f" {_OPTIMISE}"
        log = folder / "build.log"
        with open(log, "w") as output:
            try:
                status = subprocess.run(
                    [
                        "verilator",
                        *_OPTIONS,
                        "-j",
                        str(min(os.cpu_count() or 1, 8)),
                        "top.v",
                        str(_WRAPPER),
                        str(_MAIN),
                    ],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=_LIMIT_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise NomulError(
                    f"simulated board: not compiled within {_LIMIT_S} s; see {log}"
                ) from None
        if status:
            found = re.search(
                r"^.*(?:[Ee]rror|killed|Killed).*$", log.read_text(errors="replace"), re.M
            )
            raise NomulError(
                f"simulated board: the compiler failed: {found[0].strip() if found else status}; "
                f"see {log}"
            )
        (folder / "built").touch()
    return program
