# SPDX-License-Identifier: Apache-2.0
"""The sizes of a core that streams its model from external memory, and whether a model fits it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from . import isa
from .errors import NomulError
from .fold import Model
from .geometry import Geometry
from .image import plane_bits
from .memory_map import BLOCK
from .placement import NORM_WORD_BYTES, streamed_norm_words
from .program import WHOLE, Image, Section, Streaming, compile_model
from .protocol import EXTERNAL, LOGIT_BYTES, SLOT_BITS, Region
from .ternary import TRITS_PER_BYTE

__all__ = ["PLACES", "PORTS", "StreamedConfig"]

PLACES = ("chip", "memory")
PORTS = ("native", "axi")

_WIDTH = {name: width for name, _, width, _ in (*isa.layout(isa.Tile), *isa.layout(isa.Pass))}
_OUTPUTS = 1 << _WIDTH["outputs"]
_CHUNKS = (1 << _WIDTH["chunks"]) - 1
_STATE = 1 << _WIDTH["address"]  # what a pass can address

_SMALLEST_TABLE = 256  # outputs in which a table engine hides the building of its tables


@dataclass(frozen=True, kw_only=True)
class StreamedConfig:
    """Parameters of a streamed core: what it can run, not what it runs.

    Parameters
    ----------
    bytes_per_beat : int
        ``G``, weight bytes a cycle; a power of two, at least 8.
    lanes : int
        ``L``, tokens that share each weight byte.
    tile_outputs : int
        Accumulators of a lane: outputs of a tile. Even.
    hidden, intermediate, vocab : int
        Largest model.
    state_elements : int
        Recurrent state of one text, ``layers · hidden``; needed only where it stays on the chip.
    norm_words : int
        Words of norm memory: norms of a layer or so.
    word_bytes : int
        Bytes of a word of memory, 4 to 64, a power of two.
    memory_bytes : int
        Size of the memory, at most 2³¹.
    slots : int
        Recurrent states, at least as many as lanes.
    state, logits : str
        ``"chip"`` or ``"memory"``: where they lie.
    port : str
        ``"native"`` (LiteDRAM's) or ``"axi"`` (AXI4): the memory's.

    Raises
    ------
    NomulError
        Naming the parameter and its value.
    """

    bytes_per_beat: int = 8
    lanes: int = 1
    tile_outputs: int = 1024
    hidden: int = 1024
    intermediate: int = 2816
    vocab: int = 32000
    state_elements: int = 24 * 1024
    norm_words: int = 2048
    word_bytes: int = 16
    memory_bytes: int = 1 << 29
    slots: int = 1
    state: str = "chip"
    logits: str = "memory"
    port: str = "native"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, str):
                choices = PORTS if field.name == "port" else PLACES
                if value not in choices:
                    raise NomulError(f"core: {field.name} is {value!r}; one of {', '.join(choices)}")
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise NomulError(f"core: {field.name} is {value!r}; it must be a positive integer")

        def power(name: str, least: int, most: int) -> None:
            value = getattr(self, name)
            if value & (value - 1) or not least <= value <= most:
                raise NomulError(f"core: {name} is {value}; it must be a power of two from {least} to {most}")

        power("bytes_per_beat", NORM_WORD_BYTES, 128)
        power("word_bytes", 8 if self.port == "axi" else 4, BLOCK)
        if self.tile_outputs % 2 or not 16 <= self.tile_outputs < _OUTPUTS:
            raise NomulError(
                f"core: tile_outputs is {self.tile_outputs}; it must be even, from 16 to {_OUTPUTS - 2}"
            )
        if self.slots < self.lanes or self.slots > 1 << SLOT_BITS:
            raise NomulError(
                f"core: slots is {self.slots}; from the number of lanes, {self.lanes}, to {1 << SLOT_BITS}"
            )
        if self.lanes > 16:
            raise NomulError(f"core: lanes is {self.lanes}; at most 16")
        for name, limit in (("hidden", 1 << 14), ("intermediate", 1 << 14), ("vocab", 1 << 16)):
            if getattr(self, name) >= limit:
                raise NomulError(f"core: {name} is {getattr(self, name)}; it must be below {limit}")
        if self.memory_bytes > 1 << 31:
            raise NomulError(f"core: memory_bytes is {self.memory_bytes:,}; at most {1 << 31:,}")
        if self.logits == "memory" and self.word_bytes > 32:
            raise NomulError(
                f"core: logits go to memories of at most 32 bytes a word, not {self.word_bytes}; "
                f"keep them on the chip"
            )
        longest = _CHUNKS * self.trits_per_cycle
        if self.longest_row > longest:
            raise NomulError(
                f"core: a row of {self.longest_row} inputs; {self.bytes_per_beat} bytes a beat take rows of "
                f"up to {longest}: take a larger bytes_per_beat"
            )
        states = self.slots * self.state_elements
        if self.state == "chip" and states > _STATE:
            raise NomulError(
                f"core: {self.slots} slots of {self.state_elements} elements of state; the chip holds at most "
                f"{_STATE} in all: keep states in memory"
            )

    @property
    def sections(self) -> bool:
        """Whether it runs sections of models too: residual streams go the way of logits, to memory."""
        return self.logits == "memory"

    @property
    def longest_row(self) -> int:
        """Inputs of the longest row: what accumulators are sized for."""
        return max(self.hidden, self.intermediate)

    @property
    def trits_per_cycle(self) -> int:
        """Weights a cycle, of one lane."""
        return TRITS_PER_BYTE * self.bytes_per_beat

    @classmethod
    def for_geometry(cls, geometry: Geometry, **overrides: Any) -> StreamedConfig:
        """A core for models up to a size; tiles large enough to hide what is done between chunks."""
        beat = overrides.get("bytes_per_beat", cls.bytes_per_beat)
        lanes = overrides.get("lanes", cls.lanes)
        # A chunk's activations go into the engine one a cycle.
        least = max(_SMALLEST_TABLE, lanes * TRITS_PER_BYTE * beat)
        tile = 1 << max(9 if lanes > 2 else 10, (least - 1).bit_length())
        return cls(
            **{
                "hidden": geometry.hidden,
                "intermediate": geometry.intermediate,
                "vocab": geometry.vocab,
                "state_elements": geometry.state_values,
                "norm_words": streamed_norm_words(geometry, beat),
                "tile_outputs": tile,
                "slots": lanes,
                **overrides,
            }
        )

    @property
    def streaming(self) -> Streaming:
        """What an image for this core is compiled for."""
        return Streaming(lanes=self.lanes, slots=self.slots if self.state == "memory" else 0)

    def compile(self, model: Model, section: Section = WHOLE) -> Image:
        """The image of a model, or of a section of one, for this core.

        Raises
        ------
        NomulError
            If it does not fit: see :meth:`check`.
        """
        image = compile_model(
            model, bytes_per_beat=self.bytes_per_beat, tile_outputs=self.tile_outputs,
            streaming=self.streaming, section=section,
        )  # fmt: skip
        self.check(image)
        return image

    def check(self, image: Image) -> None:
        """Refuses an image that this core cannot run.

        Raises
        ------
        NomulError
            Naming what is too large, and by how much.
        """
        if image.bytes_per_beat != self.bytes_per_beat or image.map is None:
            raise NomulError(
                f"image: compiled for {image.bytes_per_beat} bytes a beat"
                f"{', on the chip' if image.map is None else ''}; the core streams {self.bytes_per_beat}: "
                f"compile it again for this core"
            )
        made = (image.tile_outputs, image.streaming)
        if made != (self.tile_outputs, self.streaming):
            raise NomulError(
                f"image: compiled for tiles of {image.tile_outputs} and {image.streaming}; the core has tiles of "
                f"{self.tile_outputs} and {self.streaming}: compile it again for this core"
            )
        if image.section != WHOLE and not self.sections:
            raise NomulError(
                "image: of a section of a model; a core with its logits on the chip runs whole ones: keep logits in "
                "memory"
            )
        g = image.geometry
        sizes = [
            ("hidden", g.hidden, "elements"),
            ("intermediate", g.intermediate, "elements"),
            ("vocab", g.vocab, "tokens"),
            ("norm_words", len(image.norms), "words of 8 bytes"),
        ]
        if self.state == "chip":
            sizes.append(("state_elements", g.state_values, "elements of recurrent state"))
        for name, needed, unit in sizes:
            held = getattr(self, name)
            if needed > held:
                raise NomulError(
                    f"model: needs {needed:,} {unit} ({name}), the core has {held:,}: {needed - held:,} too "
                    f"many; generate a core with {name} of at least {needed}"
                )
        if image.map.size > self.memory_bytes:
            raise NomulError(
                f"model: needs {image.map.size:,} bytes of memory, the board has {self.memory_bytes:,}: "
                f"{image.map.size - self.memory_bytes:,} too many; a model of about "
                f"{int(self.memory_bytes * g.ternary_weights / image.map.size):,} ternary weights would fit"
            )

    def logits_place(self, image: Image) -> tuple[int, int]:
        """Address of lane 0's logits of an image, 32 bits each, and bytes from one lane's to the next."""
        if self.logits == "chip":
            return Region.LOGITS.base, LOGIT_BYTES << plane_bits(self.vocab)
        assert image.map is not None
        return EXTERNAL | image.map.logits * BLOCK, image.map.logits_stride * BLOCK

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True)
