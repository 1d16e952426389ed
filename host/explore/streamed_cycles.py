# SPDX-License-Identifier: Apache-2.0
"""Cycles of a step of a streamed core with an ideal memory, computed; what :mod:`.cycles` follows, and besides:

norms in the weight stream, rows of embeddings and the program from memory, lanes in turns. Moves of recurrent states
are taken to hide behind the FORGET pass, and the weight stream to be ahead of the engine.
"""

from __future__ import annotations

from nomul.hw.ports import BURST_WORDS, EMBED
from nomul.hw.scalar import ScalarUnit
from nomul.hw.vector.turns import Turns
from nomul.hw.vector.unit import VectorUnit
from nomul.model.geometry import Geometry
from nomul.model.memory_map import BLOCK, MemoryMap
from nomul.model.placement import load_beats
from nomul.model.program import embedding_stride
from nomul.model.streamed_config import StreamedConfig

from .cycles import OPCODES, Walk
from .sizes import Matrix, Step, program, stream_bytes

__all__ = ["streamed_cycles"]

# Behind an ideal memory that answers after 20 cycles, as simulation has it.
_FIRST = 36  # from a token's being taken to its first instruction
_STREAM = 34  # from the instruction that begins the weight stream to its first beat
_ROW = 41  # of a row of embeddings, beyond one an element
_QUEUED = 97  # the same from a token's being taken, when memory has other words to give before
_NEXT_ROW = 35  # the same of the next lane's
_ORDER = 3  # from an instruction to its order's being at work


def streamed_cycles(g: Geometry, config: StreamedConfig) -> int:
    """Cycles of a step in which every lane has a token, from its being taken to its End.

    Parameters
    ----------
    g : Geometry
        The model.
    config : StreamedConfig
        A core that it fits.
    """
    steps = [*program(
        g, bytes_per_beat=config.bytes_per_beat, tile_outputs=config.tile_outputs, streamed=True,
        moved=config.state == "memory",
    )]  # fmt: skip
    size = stream_bytes(config, g)[0]
    where = MemoryMap.of(
        g, instructions=len(steps), stream_bytes=size,
        embedding_bytes=g.vocab * embedding_stride(g.hidden, streamed=True), lanes=config.lanes,
        results=g.vocab, slots=config.streaming.slots,
    )  # fmt: skip
    walk = _StreamedWalk(config, where.stream * BLOCK // config.word_bytes, -(-size // config.word_bytes))
    for step in steps:
        walk.step(step)
    return walk.now


class _StreamedWalk(Walk):
    """A step, instruction by instruction."""

    def __init__(self, config: StreamedConfig, begins: int, words: int):
        super().__init__("table", config.bytes_per_beat, config.lanes)
        self.lanes = config.lanes
        self.word_bytes = config.word_bytes
        self.ahead = max(128, 8192 // config.word_bytes)
        self.begins = begins  # the word of memory
        self.words = words  # of the whole stream
        self.taken = 0  # bytes of the weight stream before the first row
        self.rows = config.tile_outputs
        self.now = _FIRST - 1
        self.order_free = 0  # an order may be issued
        self.ordered = 0  # the latest order is done: its last beat
        self.stream = 0  # first beat there
        self.loaded = 0  # the latest norms are written

    def step(self, step: Step) -> None:
        """One instruction."""
        if step.kind in ("base", "recall", "keep"):
            self.now += 1
        elif step.kind == "stream":
            self.now += 1
            self.stream = self.now + _STREAM
        elif step.kind == "load":
            self.now = max(self.now + 1, self.order_free)
            self.order_free = self.now + 2
            begin = max(self.now + _ORDER, self.ordered + 1, self.stream)
            self.ordered = begin + load_beats(step.count, self.bytes_per_beat) - 1
            self.loaded = self.ordered + 2
            self.taken += load_beats(step.count, self.bytes_per_beat) * self.bytes_per_beat
        elif step.kind == "embed":
            self.now = max(self.now, self.order_free - 1, self.loaded - 1)
            super().step(step)
        elif step.kind == "tile":
            self.now = max(self.now, self.order_free - 1)
            super().step(step)
            self.order_free = self.now + 2
        else:
            super().step(step)

    def scalar_latency(self, kind: str) -> int:
        """With the other lanes behind the first."""
        return ScalarUnit.latency(OPCODES[kind], self.lanes)

    def embed(self, elements: int) -> None:
        """Rows of all lanes, one behind the other; the first comes behind the weights that were asked for before."""
        vector = self.vector
        vector.settled, self.pass_free = self.now + 5, self.now + 2
        first = max(self.now + _ROW, _QUEUED + self.asked())
        vector.last = first + elements + (self.lanes - 1) * (_NEXT_ROW + elements)
        vector.latency, vector.mode, vector.outputs = VectorUnit.latency(EMBED, 3), None, 0
        vector.end()

    def asked(self) -> int:
        """Words of the weight stream asked for before the first row: whole bursts, as long as there is room."""
        room = self.ahead + self.taken // self.word_bytes
        first = BURST_WORDS - self.begins % BURST_WORDS
        return min(first + (room - first) // BURST_WORDS * BURST_WORDS, self.words)

    def weights_from(self) -> int:
        """The distributor hands the tile's beats out."""
        return max(self.now + _ORDER, self.ordered + 1, self.stream)

    def consumed(self, matrix: Matrix, outputs: int, first: int, last: int) -> int:
        """With several lanes sums wait for their turns, as many rows as a tile has."""
        if self.lanes == 1:
            end = super().consumed(matrix, outputs, first, last)
            self.ordered = end
            return end
        vector, latency = self.vector, self.engine.latency
        begun = vector.last + 1 if self.entered_rows else vector.last + 1 + Turns.start_latency
        enters = max(first + latency + Turns.latency, begun)
        self.entered_rows += outputs
        vector.last = enters + Turns.slots(outputs, self.lanes) - 1
        if self.entered_rows == matrix.outputs:
            self.entered_rows = 0
        self.ordered = last
        return last

    entered_rows = 0

    def block(self, matrix: Matrix, outputs: int, enters: int) -> None:
        """Of several lanes the quantiser is held up too; it has time."""
        if self.lanes == 1:
            super().block(matrix, outputs, enters)
