# SPDX-License-Identifier: Apache-2.0
"""What area goes with: every memory of a core and the block RAMs that it takes; terms that logic is fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nomul.model.core_config import CoreConfig
from nomul.model.isa import INSTRUCTION_BYTES
from nomul.model.numbers import (
    NORM_BITS,
    SIGMA_FRAC,
    SOURCE_BITS,
    STATE_BITS,
    VECTOR_LANES,
    acc_bits,
)
from nomul.model.streamed_config import StreamedConfig

from .blockram import block_rams

__all__ = ["Memory", "engine_memories", "engine_terms", "memories", "multipliers_of", "rest_terms", "total_block_rams"]

_ENTRY = 11  # bits of a sum in a table
_BLOCK = 8  # outputs of a lane's turn
_EMBED_BANK = 2048
_MULTIPLIERS, _WIDE_SUMS, _MULTIPLIER_BITS = 37, 4, 18
_LANES = {1: 0, 2: 2, 4: 4}  # more multipliers, for addresses by lane
_READERS = {"program": 64, "rows": 64}  # words
_MOVER = 128
_WEIGHTS_AHEAD = 8192  # bytes


@dataclass(frozen=True)
class Memory:
    """``count`` memories of ``depth`` words of ``width`` bits.

    Attributes
    ----------
    forced : bool
        Marked as block RAM.
    both : bool
        A port reads and writes.
    """

    depth: int
    width: int
    count: int = 1
    forced: bool = False
    both: bool = False

    @property
    def block_rams(self) -> int:
        """That all of them take."""
        return self.count * block_rams(self.depth, self.width, forced=self.forced, both=self.both)


def total_block_rams(found: Mapping[str, Memory]) -> int:
    """Of all memories."""
    return sum(memory.block_rams for memory in found.values())


def engine_memories(kind: str, g: int, lanes: int, outputs: int, sum_bits: int) -> dict[str, Memory]:
    """An engine's; ``g`` bytes a beat."""
    depth = 1 << max(1, (outputs - 1).bit_length())
    found = {"sums": Memory(depth, lanes * sum_bits)}
    if kind == "table":
        found["tables"] = Memory(512, lanes * _ENTRY, g)
        found["activations"] = Memory(16, 32, -(-lanes * g // 4), forced=True)
        found["steps"] = Memory(256, 12, forced=True)
    return found


def _common(config: CoreConfig | StreamedConfig, states: int) -> dict[str, Memory]:
    """Link, scalar unit and vector unit."""
    lanes, bits = config.lanes, acc_bits(config.longest_row)
    kept = config.hidden if lanes == 1 else _BLOCK * -(-config.hidden // _BLOCK) * lanes
    kept = max(kept, 2)
    longest = max(config.hidden, config.intermediate)
    rows = lanes * (-(-config.hidden // VECTOR_LANES) - (-longest // VECTOR_LANES))
    return {
        "link": Memory(1024, 8), "tokens": Memory(512, 16), "inverses": Memory(512, 36, forced=True),
        "sigmas": Memory(512, 36, 2, forced=True),
        "vectors": Memory(rows, SOURCE_BITS, VECTOR_LANES),
        "keep": Memory(kept, SIGMA_FRAC + 1),
        "states": Memory(max(states, 2), STATE_BITS),
        "activated": Memory(kept, STATE_BITS),
        **({"turns": Memory(config.tile_outputs, lanes * bits)} if lanes > 1 else {}),
    }  # fmt: skip


def memories(config: CoreConfig | StreamedConfig) -> dict[str, Memory]:
    """All of a core and its link that may become block RAM."""
    g, bits = config.bytes_per_beat, acc_bits(config.longest_row)
    if isinstance(config, CoreConfig):
        engine = engine_memories(config.engine, g, config.lanes, config.tile_outputs, bits)
        return engine | _common(config, config.layers * config.hidden) | {
            "program": Memory(config.program_words, 9 * INSTRUCTION_BYTES, forced=True),
            "weights": Memory(config.weight_beats, 8, g, forced=True),
            "norms": Memory(config.norm_words, 8, VECTOR_LANES * NORM_BITS // 8, forced=True, both=True),
            "embeddings": Memory(_EMBED_BANK, 8, -(-config.embedding_bytes // _EMBED_BANK), forced=True),
            "logits": Memory(config.vocab, bits, forced=True),
        }  # fmt: skip
    engine = engine_memories("table", g, config.lanes, config.tile_outputs, bits)
    on_chip = config.state == "chip"
    states = config.slots * config.state_elements if on_chip else config.lanes * config.hidden
    row, word = g // 8, 8 * config.word_bytes
    found = engine | _common(config, states) | {
        "norms": Memory(max(2, -(-config.norm_words // row)), VECTOR_LANES * NORM_BITS * row, 2, forced=True),
        "ahead": Memory(max(128, _WEIGHTS_AHEAD // config.word_bytes), word, forced=True),
        **{name: Memory(depth, word, forced=True) for name, depth in _READERS.items()},
    }  # fmt: skip
    if not on_chip:
        found["mover"] = Memory(_MOVER, word, forced=True)
    if config.logits == "chip":
        plane = 1 << max(1, (config.vocab - 1).bit_length())
        found["logits"] = Memory((config.lanes - 1) * plane + config.vocab, bits, forced=True)
    return found


def multipliers_of(config: CoreConfig | StreamedConfig, *, alone: bool = False) -> int:
    """MULT18X18D of a core: sums of more than 18 bits take four more, a slot's address that is no shift one a lane."""
    found = _MULTIPLIERS + _WIDE_SUMS * (acc_bits(config.longest_row) > _MULTIPLIER_BITS)
    if isinstance(config, CoreConfig):
        return found
    slots = alone or config.slots > 1  # behind the link, one slot is always number 0
    if config.state == "chip" and slots and config.state_elements & (config.state_elements - 1):
        found += config.lanes
    return found + _LANES.get(config.lanes, _LANES[4])


def _lut_ram(found: Mapping[str, Memory]) -> float:
    """LUTs of memories that are too small for block RAM: RAM and what chooses among its parts."""
    total = 0.0
    for memory in found.values():
        if not memory.block_rams:
            banks = -(-memory.depth // 16)
            total += memory.count * (4 * banks * -(-memory.width // 4) + (banks - 1) * memory.width / 2)
    return total


def engine_terms(g: int, lanes: int, outputs: int, sum_bits: int) -> dict[str, float]:
    """What an engine's logic goes with; all but ``lut_ram`` is fitted."""
    sums = {"sums": engine_memories("select", g, lanes, outputs, sum_bits)["sums"]}
    return {
        "one": 1.0, "bytes": g, "lane_bytes": lanes * g, "sum_bits": lanes * sum_bits, "lut_ram": _lut_ram(sums),
    }  # fmt: skip


def rest_terms(config: CoreConfig | StreamedConfig, *, alone: bool = False) -> dict[str, float]:
    """What the logic of all but the engine goes with; ``alone``: of a streamed core without link and port."""
    lut_ram = _lut_ram({name: memory for name, memory in memories(config).items() if name != "sums"})
    if isinstance(config, CoreConfig):
        return {"one": 1.0, "bytes": config.bytes_per_beat, "lut_ram": lut_ram}
    several = float(config.lanes > 1)
    return {
        "one": 1.0, "link": float(not alone), "several": several, "lanes": several * config.lanes, "lut_ram": lut_ram,
    }  # fmt: skip
