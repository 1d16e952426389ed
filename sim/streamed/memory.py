# SPDX-License-Identifier: Apache-2.0
"""What a simulated memory needs: a core whose memory C++ keeps, or a controller behind which it does."""

from __future__ import annotations

from pathlib import Path

from nomul.hw.dram.boards import DramBoard
from nomul.hw.dram.control import Controlled
from nomul.hw.dram.controller import generate
from nomul.hw.dram.wrapper import DramController
from nomul.hw.streamed import StreamedCore
from nomul.hw.streamed.joined import Joined
from nomul.model.errors import NomulError
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.dram import DRAM_SOURCES

__all__ = ["core_with_memory", "memory_files"]

_HEADER = Path(__file__).parent / "external.h"


def memory_files(config: StreamedConfig, dram: DramBoard | None = None) -> dict[str, str]:
    """What a program with ``external.h`` in it compiles beside the core, text by name.

    Parameters
    ----------
    config : StreamedConfig
    dram : DramBoard, optional
        The memory controller of this board, over its model of the memory; by default a memory that gives
        a word in every cycle.

    Raises
    ------
    NomulError
        If the core is not made for the board's memory.
    """
    files = {_HEADER.name: _HEADER.read_text()}
    if dram is None:
        return files
    if dram.word_bytes != config.word_bytes or dram.part.capacity != config.memory_bytes:
        raise NomulError(
            f"core: {config.memory_bytes:,} bytes in words of {config.word_bytes}; {dram.name} has "
            f"{dram.part.capacity:,} in words of {dram.word_bytes}"
        )
    files["controller.sv"] = generate(dram, model=True).verilog
    return files | {path.name: path.read_text() for path in DRAM_SOURCES}


def core_with_memory(
    config: StreamedConfig, dram: DramBoard | None = None, *, hosted: bool = False
) -> StreamedCore | Joined | Controlled:
    """The core that goes with these files; ``hosted``: the host has to bring the memory up, as on a board."""
    core = StreamedCore(config=config)
    if dram is None:
        return core
    adaptor = DramController(controller=generate(dram, model=True), hosted=hosted)
    joined = Joined(core=core, adaptor=adaptor)
    return Controlled(core=joined) if hosted else joined
