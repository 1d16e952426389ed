# SPDX-License-Identifier: Apache-2.0
"""Cycles of a token, computed: sums and maxima over the instructions of its program; nothing is simulated.

What a unit states of itself (latencies, what it holds back) is followed from instruction to instruction: when the
sequencer issues it, when the quantiser's beats reach the engine, when a chunk may begin, when its sums enter the vector
unit and when that is idle. One lane, weights on the chip: equal to simulation, cycle by cycle. ``docs/explore.md`` says
how far it goes elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nomul.hw.engine import select, table
from nomul.hw.engine.accumulate import HAZARD, LEAD
from nomul.hw.engine.table import walk_of_sums
from nomul.hw.engine.tree import tree_stages
from nomul.hw.fetch import Fetch
from nomul.hw.ports import EMBED
from nomul.hw.scalar import ScalarUnit
from nomul.hw.vector.quantiser import Quantiser
from nomul.hw.vector.unit import OVERLAP, VectorUnit
from nomul.model import isa
from nomul.model.geometry import Geometry
from nomul.model.isa import Mode
from nomul.model.numbers import VECTOR_LANES
from nomul.model.ternary import TRITS_PER_BYTE

from .sizes import Matrix, Step, chunks_of, matrices, program

__all__ = ["OPCODES", "Walk", "engine_cycles", "engine_latency", "onchip_cycles"]

OPCODES = {
    "const": isa.Const.OPCODE, "mul": isa.Mul.OPCODE, "stat": isa.Stat.OPCODE, "add": isa.Add.OPCODE,
    "recip": isa.Recip.OPCODE, "rsqrt": isa.Rsqrt.OPCODE,
}  # fmt: skip
_LONG_AGO = -(1 << 20)
_ROOM = 16  # beats of activations that have a place behind the quantiser
_SLICE = 2  # and before the engine
_AHEAD = _ROOM + _SLICE + 1
_CREDITS = 16  # sums between the engine and the vector unit, at most
_EMBED_ROW = 8  # cycles of a row of embeddings beyond one an element
_STEPS = len(walk_of_sums())
_FOLLOWS = {(Mode.FORGET, Mode.INPUT), (Mode.INPUT, Mode.OUTPUT)}


def engine_latency(engine: str, bytes_per_beat: int) -> int:
    """Cycles from a beat of a last chunk being taken to its sum being offered."""
    if engine == "table":
        depth = 2 + tree_stages(bytes_per_beat, levels=table._LEVELS)
    else:
        pairs = -(-TRITS_PER_BYTE * bytes_per_beat // 2)
        depth = 2 + tree_stages(pairs, levels=select._LEVELS, remain=2)
    return max(LEAD, depth) + 2


def engine_cycles(g: Geometry, *, engine: str, bytes_per_beat: int, lanes: int, tile_outputs: int) -> int:
    """Cycles of all matrices through the engine alone, one tile after another, each waiting for nothing but itself."""
    chunk = TRITS_PER_BYTE * bytes_per_beat
    if engine == "table":
        interval = max(_STEPS + 6, lanes * chunk)
    else:
        interval = lanes * chunk // VECTOR_LANES + 1
    latency = engine_latency(engine, bytes_per_beat)
    total = 0
    for matrix in matrices(g):
        chunks = chunks_of(matrix.inputs, bytes_per_beat)
        for outputs in matrix.tiles(bytes_per_beat, tile_outputs):
            total += (chunks - 1) * max(outputs, interval, HAZARD) + outputs - 1 + latency
    return total


@dataclass
class _Vector:
    """When the vector unit is at what; cycles."""

    last: int = 0  # a sum entered, the latest
    drained: int = 0
    settled: int = 0  # the sequencer may believe that it is idle
    mode: int | None = None
    outputs: int = 0
    latency: int = 0

    def begin(self, issued: int, mode: int, outputs: int, vectors: int) -> None:
        """A pass was issued."""
        self.settled = max(self.settled, issued + 5)
        at = max(issued + 2, self.drained)
        if self.outputs >= OVERLAP and (self.mode, mode) in _FOLLOWS:
            at = min(at, max(self.last + 1, issued + 3))
        self.last = max(at, self.last + 1)  # the sum after it is the first that may enter
        self.mode, self.outputs = mode, outputs
        self.latency = VectorUnit.latency(mode, 3 if vectors == 3 else 0)

    def end(self) -> None:
        """Its last sum has entered."""
        self.drained = max(self.drained, self.last + self.latency)

    @property
    def quiet(self) -> int:
        """When a Stat may be issued."""
        return max(self.drained + 1, self.settled)


@dataclass
class _Engine:
    """When the engine is at what; cycles. The last two chunks count."""

    kind: str
    latency: int
    beats: int  # of activations of a chunk
    ends: list[int] = field(default_factory=lambda: [_LONG_AGO] * 2)  # last weight beats
    loaded: int = _LONG_AGO  # last activations
    begun: int = _LONG_AGO  # tables begun to be built
    read: list[int] = field(default_factory=lambda: [_LONG_AGO] * 2)  # activations no longer needed
    moved: int = 0  # a tile's command went on
    pace: int = 1

    def __post_init__(self) -> None:
        self.pace = VECTOR_LANES if self.kind == "table" else 1

    def fill(self, beats: _Beats) -> int:
        """Takes the activations of a chunk; the cycle from which weights may follow."""
        if self.kind == "select":
            self.loaded = beats.take(self.beats, max(self.ends[-2], self.loaded) + 2)
            return self.loaded + 1
        self.loaded = beats.take(self.beats, max(self.loaded + 1, self.read[-2] + 2))
        self.begun = max(self.loaded + 1, self.begun + _STEPS + 6, self.ends[-2] + 1)
        self.read = [self.read[-1], self.begun + _STEPS]
        return self.begun + _STEPS + 6


class _Beats:
    """Beats of activations from the quantiser to the engine, from when it is asked.

    Parameters
    ----------
    asked : int
        The quantiser takes its order.
    pace : int
        Cycles of the engine for a beat.
    blocked : range
        Cycles in which the vector unit reads in the quantiser's place.
    """

    def __init__(self, asked: int, pace: int, blocked: range):
        self.pace = pace
        self.blocked = blocked
        self.issued = asked  # the latest
        self.asked = asked
        self.count = 0
        self.left: list[int] = []  # the quantiser's queue, by beat
        self.taken: list[int] = []  # by the engine

    def take(self, beats: int, earliest: int) -> int:
        """The engine takes a chunk's from a cycle on; when the last one is taken."""
        if not self.blocked:
            return self._run(beats, earliest)
        at = earliest - 1
        for _ in range(beats):
            k = len(self.left)
            self.issued = max(self.issued + 1, self.left[k - _ROOM] + 1 if k >= _ROOM else 0)
            while self.issued in self.blocked:
                self.issued += 1
            out = self.issued + Quantiser.latency - 1
            if k:
                out = max(out, self.left[-1] + 1)
            if k >= _SLICE:
                out = max(out, self.taken[k - _SLICE] + 1)
            self.left.append(out)
            at = max(out + 1, at + 1) + self.pace - 1
            self.taken.append(at)
        return at

    def _run(self, beats: int, earliest: int) -> int:
        """The same where nothing holds the quantiser up but the engine."""
        begin = max(self.asked + Quantiser.latency + 1 + self.count, earliest)
        self.taken += range(begin + self.pace - 1, begin + self.pace * beats, self.pace)
        self.count += beats
        self.issued = self.asked + self.count
        if self.count >= _AHEAD:
            self.issued = max(self.issued, self.taken[self.count - _AHEAD] + 2)
        return self.taken[-1]


def onchip_cycles(g: Geometry, *, engine: str, bytes_per_beat: int, tile_outputs: int) -> int:
    """Cycles of a token of a core with its weights on the chip, from its being taken to its End.

    Parameters
    ----------
    g : Geometry
    engine : str
        ``"select"`` or ``"table"``.
    bytes_per_beat, tile_outputs : int
    """
    walk = Walk(engine, bytes_per_beat)
    for step in program(g, bytes_per_beat=bytes_per_beat, tile_outputs=tile_outputs):
        walk.step(step)
    return walk.now


class Walk:
    """A token, instruction by instruction."""

    def __init__(self, engine: str, bytes_per_beat: int, lanes: int = 1):
        self.bytes_per_beat = bytes_per_beat
        self.vector = _Vector()
        self.engine = _Engine(
            kind=engine, latency=engine_latency(engine, bytes_per_beat),
            beats=lanes * TRITS_PER_BYTE * bytes_per_beat // VECTOR_LANES,
        )  # fmt: skip
        self.now = Fetch.latency - 1  # when the latest instruction was issued
        self.scalar = self.pass_free = self.quant_free = self.tile_free = 0
        self.quantiser = self.quantised = 0
        self.blocked, self.entered = range(0), 0  # by sums of the tile before, and how many of its pass these were

    def step(self, step: Step) -> None:
        """One instruction."""
        self.now += 1
        if step.kind in OPCODES or step.kind == "end":
            self.now = max(self.now, self.scalar)
            if step.kind in ("stat", "end"):
                self.now = max(self.now, self.vector.quiet)
            if step.kind != "end":
                self.scalar = self.now + self.scalar_latency(step.kind)
        elif step.kind == "embed":
            self.embed(step.count)
        elif step.kind == "quant":
            self.now = max(self.now, self.scalar, self.quant_free)
            self.quantised = max(self.now + 1, self.quantiser)
            self.quant_free = self.quantised + 1
        elif step.kind == "pass":
            assert step.matrix is not None
            self.now = max(self.now, self.scalar, self.pass_free)
            self.pass_free = self.now + 2
            self.vector.begin(self.now, step.matrix.mode, step.matrix.outputs, step.matrix.vectors)
        else:
            assert step.matrix is not None
            self.tile(step.matrix, step.count)

    def scalar_latency(self, kind: str) -> int:
        """Cycles from a scalar instruction to the next one."""
        return ScalarUnit.latency(OPCODES[kind], 1)

    def weights_from(self) -> int:
        """Cycle from which the weights of a tile that is issued now may be taken."""
        return 0

    def embed(self, elements: int) -> None:
        """A row of embeddings goes through the vector unit."""
        vector = self.vector
        vector.settled, self.pass_free = self.now + 5, self.now + 2
        vector.last = self.now + 1 + _EMBED_ROW + elements
        vector.latency, vector.mode, vector.outputs = VectorUnit.latency(EMBED, 3), None, 0
        vector.end()

    def tile(self, matrix: Matrix, outputs: int) -> None:
        """All chunks of a tile, and its sums into the vector unit."""
        engine, vector = self.engine, self.vector
        self.now = max(self.now, self.tile_free)
        taken = max(self.now + 1, engine.moved + 1)
        self.tile_free = taken + 1
        earliest, engine.moved = max(taken + 2, self.weights_from()), max(taken + 1, engine.ends[-1])
        chunks = chunks_of(matrix.inputs, self.bytes_per_beat)
        beats, first = _Beats(self.quantised, engine.pace, self.blocked), _LONG_AGO
        for chunk in range(chunks):
            ready = engine.fill(beats)
            first = max(ready, engine.ends[-1] + 1, first + HAZARD if chunk else earliest)
            last = first + outputs - 1
            if chunk == chunks - 1:
                last = self.consumed(matrix, outputs, first, last)
            engine.ends = [engine.ends[-1], last]
        vector.end()
        self.quantiser = beats.issued + Quantiser.latency - 1  # its pipeline is empty

    def consumed(self, matrix: Matrix, outputs: int, first: int, last: int) -> int:
        """The sums of a tile enter the vector unit; its last weight beat, later if sums had to wait.

        Parameters
        ----------
        matrix : Matrix
        outputs : int
            Of the tile.
        first, last : int
            Weight beats of its last chunk.
        """
        engine, vector = self.engine, self.vector
        enters = max(first + engine.latency, vector.last + 1)
        if outputs > _CREDITS and enters > first + _CREDITS - 3:
            last = max(last, enters + outputs - _CREDITS + 2)
        vector.last = max(enters + outputs - 1, last + engine.latency)
        self.block(matrix, outputs, enters)
        return last

    def block(self, matrix: Matrix, outputs: int, enters: int) -> None:
        """The residual stream is read four elements at a time: the quantiser waits if it has the next tile to do."""
        if matrix.mode != Mode.RESIDUAL:
            self.blocked, self.entered = range(0), 0
            return
        rest = -self.entered % VECTOR_LANES
        self.blocked = range(enters + 1 + rest, enters + 1 + outputs, VECTOR_LANES)
        self.entered += outputs
        if self.entered == matrix.outputs:
            self.blocked, self.entered = range(0), 0
