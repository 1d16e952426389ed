# SPDX-License-Identifier: Apache-2.0
"""The sizes that a core is generated with, and whether an image fits them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from . import isa
from .errors import NomulError
from .geometry import Geometry
from .image import plane_bits
from .numbers import VECTOR_LANES
from .program import Image
from .protocol import REGION_SHIFT

__all__ = ["ENGINES", "CoreConfig"]

ENGINES = ("select", "table")


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


@dataclass(frozen=True, kw_only=True)
class CoreConfig:
    """Parameters of the generated core: what it can hold, not what it holds.

    Parameters
    ----------
    engine : str
        ``"select"`` or ``"table"``.
    bytes_per_beat : int
        ``G``, weight bytes a cycle; a multiple of 4, because activations come four at a time.
    lanes : int
        Vectors that share each weight byte.
    tile_outputs : int
        Accumulators: outputs of a tile of several chunks.
    hidden, intermediate, layers, vocab : int
        Largest model.
    weight_beats, norm_words, embedding_bytes, program_words : int
        Depth of the on-chip memories.

    Raises
    ------
    NomulError
        Naming the parameter and its value.
    """

    engine: str = "select"
    bytes_per_beat: int = 36
    lanes: int = 1
    tile_outputs: int = 256
    hidden: int = 180
    intermediate: int = 540
    layers: int = 3
    vocab: int = 256
    weight_beats: int = 8192
    norm_words: int = 2048
    embedding_bytes: int = 49152
    program_words: int = 512

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise NomulError(f"core: engine is {self.engine!r}; one of {', '.join(ENGINES)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "engine" and (not isinstance(value, int) or value < 1):
                raise NomulError(f"core: {field.name} is {value!r}; it must be a positive integer")
        if self.bytes_per_beat % VECTOR_LANES:
            raise NomulError(
                f"core: bytes_per_beat is {self.bytes_per_beat}; it must be a multiple of {VECTOR_LANES}"
            )
        if self.tile_outputs % 2:
            raise NomulError(f"core: tile_outputs is {self.tile_outputs}; it must be even")
        for name, limit in (("hidden", 1 << 14), ("intermediate", 1 << 14), ("vocab", 1 << 16)):
            if getattr(self, name) >= limit:
                raise NomulError(f"core: {name} is {getattr(self, name)}; it must be below {limit}")
        region = 1 << REGION_SHIFT
        for name, needed in (
            ("weight_beats", self.bytes_per_beat << plane_bits(self.weight_beats)),
            ("norm_words", 2 * VECTOR_LANES * self.norm_words),
            ("embedding_bytes", self.embedding_bytes),
            ("program_words", isa.INSTRUCTION_BYTES * self.program_words),
        ):
            if needed > region:
                raise NomulError(
                    f"core: {name} of {getattr(self, name)} takes {needed:,} bytes on chip, a memory holds "
                    f"at most {region:,}: take a smaller model"
                )

    @property
    def longest_row(self) -> int:
        """Inputs of the longest row: what accumulators are sized for."""
        return max(self.hidden, self.intermediate)

    @classmethod
    def for_geometry(cls, geometry: Geometry, **overrides: Any) -> CoreConfig:
        """The default core with the sizes of a model; memory depths as given or by default."""
        return cls(
            **{
                "hidden": geometry.hidden,
                "intermediate": geometry.intermediate,
                "layers": geometry.layers,
                "vocab": geometry.vocab,
                **overrides,
            }
        )

    def grown_for(self, image: Image) -> CoreConfig:
        """This core with memories that hold an image, each a whole number of block RAMs deep."""
        return replace(
            self,
            weight_beats=_up(len(image.weights), 1024),
            norm_words=_up(len(image.norms), 512),
            embedding_bytes=_up(image.embeddings.size, 2048),
            program_words=_up(len(image.program), 512),
        )

    def check(self, image: Image) -> None:
        """Refuses an image that this core cannot run.

        Raises
        ------
        NomulError
            Naming what is too large, and by how much.
        """
        if image.bytes_per_beat != self.bytes_per_beat:
            raise NomulError(
                f"image: compiled for {image.bytes_per_beat} bytes a beat, the core takes "
                f"{self.bytes_per_beat}; compile it again for this core"
            )
        g = image.geometry
        sizes = (
            ("hidden", g.hidden, "elements"),
            ("intermediate", g.intermediate, "elements"),
            ("layers", g.layers, "layers"),
            ("vocab", g.vocab, "tokens"),
            ("weight_beats", len(image.weights), f"beats of {self.bytes_per_beat} bytes"),
            ("norm_words", len(image.norms), "words of 8 bytes"),
            ("embedding_bytes", image.embeddings.size, "bytes"),
            ("program_words", len(image.program), "instructions"),
        )
        for name, needed, unit in sizes:
            held = getattr(self, name)
            if needed > held:
                raise NomulError(
                    f"model: needs {needed} {unit} ({name}), the core has {held}: {needed - held} too many; "
                    f"generate a core with {name} of at least {needed}"
                )

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)
