# SPDX-License-Identifier: Apache-2.0
"""A point of a sweep: what is generated, for which model, on which chip."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from nomul.hw.boards.board import NEXTPNR_DEVICES, Board
from nomul.hw.boards.configurations import CONFIGURATIONS, find_configuration
from nomul.hw.boards.registry import find_board
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.numbers import VECTOR_LANES
from nomul.model.streamed_config import StreamedConfig
from nomul.model.ternary import TRITS_PER_BYTE

from .clocks import check_clock
from .sizes import onchip_depths

__all__ = ["SCOPES", "WEIGHTS", "Point"]

#: What is routed: the engine or the core with its link, out of context; all of a board's chip, with pins and clocks.
SCOPES = ("engine", "core", "board")
WEIGHTS = ("chip", "memory")
_MEMORY = 16, 1 << 29  # word and size where no board has one


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point, the placement seed left out.

    Attributes
    ----------
    scope : str
        One of :data:`SCOPES`.
    board : str
        Whose chip, by name.
    model : str
        Name of the shape.
    hidden, intermediate, layers, vocab : int
        The shape.
    weights : str
        ``"chip"`` or ``"memory"``: where weights lie.
    engine : str
        ``"select"`` or ``"table"``.
    trits : int
        Weights a cycle, five for each byte of a beat.
    lanes : int
        Tokens that share each weight byte.
    tile : int
        Accumulators; 0: as the core has them by default.
    word_bytes : int
        Width of the memory's words; 0: as the board's memory has them, 16 without.
    clock_mhz : float
        Aimed at; of a board's chip, what it must reach. 0: the board's own.
    """

    scope: str
    board: str
    model: str
    hidden: int
    intermediate: int
    layers: int
    vocab: int
    weights: str
    engine: str
    trits: int
    lanes: int
    tile: int
    word_bytes: int
    clock_mhz: float

    @cached_property
    def geometry(self) -> Geometry:
        """The model's shape."""
        return Geometry(hidden=self.hidden, intermediate=self.intermediate, layers=self.layers, vocab=self.vocab)

    @property
    def bytes_per_beat(self) -> int:
        """``G``."""
        return self.trits // TRITS_PER_BYTE

    @cached_property
    def chip(self) -> Board:
        """The board, on the clock that is aimed at."""
        board = find_board(self.board)
        return replace(board, clock_hz=round(self.clock_mhz * 1e6)) if self.clock_mhz else board

    @property
    def aim_mhz(self) -> float:
        """Clock that placement aims at, or the board's chip must reach."""
        if self.scope == "board" and self.weights == "memory" and self.chip.memory is not None:
            return self.chip.memory.clock_hz / 1e6
        return self.chip.clock_hz / 1e6

    @cached_property
    def config(self) -> CoreConfig | StreamedConfig:
        """The core's sizes.

        Raises
        ------
        NomulError
            If it can't be: why.
        """
        if self.trits % TRITS_PER_BYTE:
            raise NomulError(f"trits is {self.trits}; it must be a multiple of {TRITS_PER_BYTE}, a byte's")
        tile = {"tile_outputs": self.tile} if self.tile else {}
        if self.weights == "chip":
            if self.lanes != 1:
                raise NomulError(f"lanes is {self.lanes}; a core with its weights on the chip has one so far")
            if self.word_bytes:
                raise NomulError(f"word_bytes is {self.word_bytes}; a core with its weights on the chip has no memory")
            config = CoreConfig.for_geometry(
                self.geometry, engine=self.engine, bytes_per_beat=self.bytes_per_beat, **tile
            )
            depths: Any = onchip_depths(self.geometry, self.bytes_per_beat, config.tile_outputs)
            return replace(config, **depths)
        if self.engine != "table":
            raise NomulError(f"engine is {self.engine}; streamed cores have the table engine")
        dram = self.chip.memory
        word, size = (dram.word_bytes, dram.part.capacity) if dram is not None else _MEMORY
        if dram is not None and self.word_bytes not in (0, word):
            raise NomulError(f"word_bytes is {self.word_bytes}; the memory of {self.board} has words of {word}")
        word = self.word_bytes or word
        config_ = StreamedConfig.for_geometry(
            self.geometry, bytes_per_beat=self.bytes_per_beat, lanes=self.lanes, word_bytes=word, memory_bytes=size,
            slots=1 if self.lanes == 1 else 2 * self.lanes, state="chip" if self.lanes == 1 else "memory",
            logits="chip" if word > 32 else "memory", **tile,
        )  # fmt: skip
        needed = self.geometry.ternary_weights // TRITS_PER_BYTE + self.vocab * self.hidden
        if needed > size:
            raise NomulError(f"the model needs {needed:,} bytes of memory at least, {self.board} has {size:,}")
        return config_

    @property
    def tile_outputs(self) -> int:
        """Accumulators of a lane."""
        return self.config.tile_outputs

    def check(self) -> None:
        """Refuses what cannot be generated or is not there.

        Raises
        ------
        NomulError
            With the reason.
        """
        if self.lanes < 1:
            raise NomulError(f"lanes is {self.lanes}; it must be a positive integer")
        if self.scope == "engine":
            if self.trits % TRITS_PER_BYTE or self.bytes_per_beat % VECTOR_LANES:
                raise NomulError(f"trits is {self.trits}; it must be a multiple of {TRITS_PER_BYTE * VECTOR_LANES}")
            longest = max(self.hidden, self.intermediate)
            if longest > 255 * self.trits:
                raise NomulError(f"a row of {longest} inputs; {self.trits} trits a cycle take up to {255 * self.trits}")
            if self.tile and self.tile % 2:
                raise NomulError(f"tile is {self.tile}; it must be even")
        else:
            assert self.config
        if self.chip.device not in NEXTPNR_DEVICES:
            raise NomulError(f"{self.board}: nextpnr has no {self.chip.device}")
        if self.scope == "board":
            if self.weights == "chip":
                find_configuration("onchip", self.chip)
                check_clock(self.board, self.chip.clock_hz)
            else:
                find_configuration(next(n for n, c in CONFIGURATIONS.items() if c.lanes), self.chip)
                if self.clock_mhz and self.clock_mhz != self.aim_mhz:
                    raise NomulError(
                        f"clock_mhz is {self.clock_mhz:g}; the controller of {self.board} runs at {self.aim_mhz:g}"
                    )

    @property
    def label(self) -> str:
        """In a few words."""
        parts = [self.board, self.model, f"{self.engine} {self.trits}"]
        if self.lanes > 1:
            parts.append(f"{self.lanes} lanes")
        if self.tile:
            parts.append(f"tile {self.tile}")
        if self.word_bytes:
            parts.append(f"words of {self.word_bytes}")
        if self.clock_mhz:
            parts.append(f"{self.clock_mhz:g} MHz")
        return ", ".join(parts) + (", streamed" if self.weights == "memory" and self.scope != "engine" else "")

    def as_dict(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of its fields."""
        return tuple(field.name for field in fields(cls))
