# SPDX-License-Identifier: Apache-2.0
"""From a controller to the program that simulates it."""

from __future__ import annotations

from pathlib import Path

from nomul.hw.build.verilog import convert
from nomul.hw.dram.controller import Controller
from nomul.hw.dram.wrapper import DramController
from nomul.sim.verilate import verilate

__all__ = ["DRAM_SOURCES", "build_dram"]

_HERE = Path(__file__).parent

#: What a program with a simulated memory in it compiles besides the model's Verilog: ``memory.h``.
DRAM_SOURCES = (_HERE / "memory.h",)


def build_dram(controller: Controller) -> Path:
    """Compiles the program of ``main.cpp`` around a controller's model; a second time it is there at once.

    Raises
    ------
    NomulError
        If a compiler is missing, or fails; with the first error and where the log lies.
    """
    files = {
        "memory.v": convert(DramController(controller=controller), "memory"),
        "controller.sv": controller.verilog,
        "dram.v": f"`define BITS {8 * controller.word_bytes}\n" + (_HERE / "dram.v").read_text(),
        "main.cpp": (_HERE / "main.cpp").read_text(),
        **{path.name: path.read_text() for path in DRAM_SOURCES},
    }
    return verilate("dram", files, what="simulated DRAM")
