# SPDX-License-Identifier: Apache-2.0
"""The simulated board of a streamed core, its memory included."""

from __future__ import annotations

from pathlib import Path

from nomul.hw.build.design import NOMINAL_CLOCK_HZ, cached_verilog, design_hash, identity
from nomul.hw.dram.boards import DramBoard
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.streamed.memory import core_with_memory, memory_files

from .build import Progress, build_board, quiet

__all__ = ["build_streamed_board"]


def build_streamed_board(
    config: StreamedConfig, *, dram: DramBoard | None = None, hosted: bool = False, progress: Progress = quiet
) -> Path:
    """Compiles the simulated board of a streamed core and its memory; a second time it is there at once.

    Parameters
    ----------
    config : StreamedConfig
    dram : DramBoard, optional
        The memory controller of this board, over its model of the memory, at the board's clock; by default a
        memory that gives a word in every cycle.
    hosted : bool
        The host has to bring the memory of the controller up, as on a board (:mod:`nomul.host.bringup`).
    progress : callable

    Raises
    ------
    NomulError
        If the core is not made for the board's memory, or a compiler is missing or fails.
    """
    files = memory_files(config, dram)
    clock = dram.clock_hz if dram else NOMINAL_CLOCK_HZ

    def top() -> Top:
        link = Link(identity=identity(config, clock, hosted=hosted))
        return Top(core=core_with_memory(config, dram, hosted=hosted), link=link)

    memory = (dram.name if dram else "simulated") + " hosted" * hosted
    verilog = cached_verilog(f"{design_hash(config).hex()} {clock} {memory}", top)
    defines = {"MEMORY_BYTES": config.memory_bytes, "WORD": config.word_bytes}
    if dram is not None:
        defines["DRAM"] = 1
    if hosted:
        defines["HOSTED"] = 1
    return build_board(verilog, files=files, defines=defines, progress=progress)
