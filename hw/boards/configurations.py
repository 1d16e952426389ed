# SPDX-License-Identifier: Apache-2.0
"""What a board can be built as."""

from __future__ import annotations

from dataclasses import dataclass

from nomul.hw.build.design import design, design_hash
from nomul.hw.build.sources import hash_sources
from nomul.hw.build.tools import versions
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.names import nearest
from nomul.model.protocol import REGIONS, Identity
from nomul.model.streamed_config import StreamedConfig

from .alone import NoCore
from .board import Board
from .memory import MemoryTop, memory_design
from .top import BoardTop

__all__ = ["CONFIGURATIONS", "Configuration", "board_top", "find_configuration", "identity_hash"]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What is built.

    Attributes
    ----------
    name, what : str
        For the command line; in a few words.
    lanes : int
        Of a core that streams its model; 0 where there is none.
    onchip : bool
        The model is on the chip.
    """

    name: str
    what: str
    lanes: int = 0
    onchip: bool = False


#: By name.
CONFIGURATIONS = {
    one.name: one
    for one in (
        Configuration(name="onchip", what="the model on the chip, one lane", onchip=True),
        Configuration(name="lanes1", what="the model in external memory, one lane", lanes=1),
        Configuration(name="lanes8", what="the model in external memory, eight lanes", lanes=8),
        Configuration(name="link", what="link, clock and lights without a core, to try a board"),
    )
}


def find_configuration(name: str, board: Board) -> Configuration:
    """A configuration of a board.

    Raises
    ------
    NomulError
        If it has none of this name; with the names that are nearest.
    """
    if name not in CONFIGURATIONS:
        raise NomulError(f"{board.name}: no configuration is called {name!r}; {nearest(name, CONFIGURATIONS)}")
    chosen = CONFIGURATIONS[name]
    if chosen.lanes and board.memory is None:
        raise NomulError(
            f"{board.name}: configuration {name} wants external memory for which there is a controller; this board "
            f"has onchip and link"
        )
    return chosen


def identity_hash(config: CoreConfig | StreamedConfig | None, board: Board) -> bytes:
    """The 8 bytes by which a board says what it is; without a core, those of its link.

    Of a core with its model on the chip they are the same on all boards.
    """
    if isinstance(config, StreamedConfig):
        return memory_design(board, config)
    if config is not None:
        return design_hash(config)
    modules = (NoCore.__module__, Link.__module__, Top.__module__)
    return hash_sources(*modules, salt=versions()["amaranth"])[:8]


def board_top(board: Board, config: CoreConfig | StreamedConfig | None) -> BoardTop | MemoryTop:
    """All of a chip; without a core, the link alone."""
    clock = board.clock_hz
    if isinstance(config, StreamedConfig):
        return MemoryTop(board=board, config=config)
    if config is not None:
        return BoardTop(board=board, top=design(config, clock), clock_hz=clock)
    identity = Identity(
        design=identity_hash(None, board), bytes_per_beat=1, lanes=1, slots=1, clock_hz=clock,
        memory_bytes=0, region_bytes=(0,) * REGIONS,
    )  # fmt: skip
    return BoardTop(board=board, top=Top(core=NoCore(), link=Link(identity=identity)), clock_hz=clock)
