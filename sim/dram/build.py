# SPDX-License-Identifier: Apache-2.0
"""From a controller to the program that simulates it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from nomul.hw.build.tools import build_folder, verilator_environment, versions
from nomul.hw.build.verilog import convert
from nomul.hw.dram.controller import Controller
from nomul.hw.dram.wrapper import DramController
from nomul.model.errors import NomulError

__all__ = ["DRAM_SOURCES", "build_dram"]

_HERE = Path(__file__).parent

#: What a program with a simulated memory in it compiles besides the model's Verilog: ``memory.h``.
DRAM_SOURCES = (_HERE / "memory.h",)

_MAIN = _HERE / "main.cpp"
_WRAPPER = _HERE / "bench.v"
_OPTIONS = [
    "--cc", "--exe", "--build", "-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert",
    "--no-timing", "--top-module", "bench", "--prefix", "Vdram", "--Mdir", ".", "-o", "dram",
    "-Wno-fatal", "-Wno-lint", "-Wno-style", "-CFLAGS", f"-std=c++17 -I{_HERE}",
]  # fmt: skip
_OPTIMISE = "OPT_FAST=-O2 OPT_SLOW=-O1 OPT_GLOBAL=-O2"
_LIMIT_S = 600


def build_dram(controller: Controller) -> Path:
    """Compiles the program of ``main.cpp`` around a controller's model; a second time it is there at once.

    Raises
    ------
    NomulError
        If a compiler is missing, or fails; with where the log lies.
    """
    top = convert(DramController(controller=controller), "dram")
    options = [*_OPTIONS, f"-GBITS={8 * controller.word_bytes}"]
    texts = [top, controller.verilog, *(p.read_text() for p in (_MAIN, _WRAPPER, *DRAM_SOURCES))]
    parts = [*texts, *options, _OPTIMISE, str(versions().get("verilator"))]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = build_folder("dram-sim", key)
    program = folder / "dram"
    with open(folder / "lock", "w") as lock:  # two processes may want the same program
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "built").is_file() and program.is_file():
            return program
        (folder / "dram.v").write_text(top)
        (folder / "controller.sv").write_text(controller.verilog)
        environment = os.environ | verilator_environment()
        environment["MAKEFLAGS"] += f" {_OPTIMISE}"
        log = folder / "build.log"
        jobs = str(min(os.cpu_count() or 1, 8))
        with open(log, "w") as output:
            try:
                status = subprocess.run(
                    ["verilator", *options, "-j", jobs, "dram.v", "controller.sv", str(_WRAPPER), str(_MAIN)],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=_LIMIT_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise NomulError(f"simulated DRAM: not compiled within {_LIMIT_S} s; see {log}") from None
        if status:
            raise NomulError(f"simulated DRAM: the compiler failed ({status}); see {log}")
        (folder / "built").touch()
    return program
