# SPDX-License-Identifier: Apache-2.0
"""What a model takes, from its shape alone: no weights are looked at, nothing is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from nomul.model.geometry import Geometry
from nomul.model.isa import INSTRUCTION_BYTES, Mode
from nomul.model.memory_map import LOGIT_BYTES, STATE_BYTES
from nomul.model.numbers import VECTOR_LANES
from nomul.model.placement import load_beats
from nomul.model.program import embedding_stride
from nomul.model.streamed_config import StreamedConfig
from nomul.model.ternary import TRITS_PER_BYTE

__all__ = [
    "Matrix", "Step", "chunks_of", "matrices", "onchip_depths", "program", "stream_bytes", "traffic", "words_read",
]  # fmt: skip

_SCALE_BYTES = 2
_PROGRAM_AHEAD, _PROGRAM_BURST = 64, 16  # words of the queue of the program's reader, and of its bursts
_PROGRAM_HELD = 4  # words of the program that have left it by the program's end, beyond the last; simulated
_ROOT = ("const", "stat", "add", "rsqrt")
_SCALE = ("const", "mul", "mul")


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def chunks_of(inputs: int, bytes_per_beat: int) -> int:
    """Chunks of a row."""
    return -(-inputs // (TRITS_PER_BYTE * bytes_per_beat))


@dataclass(frozen=True)
class Matrix:
    """A matrix of a token: what its pass is, its sizes, and norm vectors of the reduction in it."""

    mode: Mode
    outputs: int
    inputs: int
    vectors: int = 0

    def tiles(self, bytes_per_beat: int, tile_outputs: int) -> list[int]:
        """Outputs of its tiles, as the compiler cuts it."""
        most = self.outputs
        if chunks_of(self.inputs, bytes_per_beat) > 1:
            count = -(-self.outputs // tile_outputs)
            most = -(-self.outputs // (2 * count)) * 2
        return [min(most, self.outputs - at) for at in range(0, self.outputs, most)]


@dataclass(frozen=True)
class Step:
    """An instruction as far as time goes: its kind, and what of a matrix it is about."""

    kind: str
    matrix: Matrix | None = None
    count: int = 0


def layer_matrices(g: Geometry, last: bool) -> tuple[Matrix, ...]:
    """Of a layer, in order."""
    d, m = g.hidden, g.intermediate
    return (
        Matrix(Mode.FORGET, d, d), Matrix(Mode.INPUT, d, d), Matrix(Mode.OUTPUT, d, d, 1),
        Matrix(Mode.RESIDUAL, d, d, 1), Matrix(Mode.GATED, 2 * m, d, 1), Matrix(Mode.RESIDUAL, d, m, 1 if last else 3),
    )  # fmt: skip


def matrices(g: Geometry) -> Iterator[Matrix]:
    """All matrices of a token, in order."""
    for number in range(g.layers):
        yield from layer_matrices(g, number == g.layers - 1)
    yield Matrix(Mode.LOGITS, g.vocab, g.hidden)


#: Scalar work before the pass of a matrix of a layer: before the quantisation, and between it and the pass.
_BEFORE: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("stat", "recip"), (*_ROOT, "stat", "stat", *_SCALE)),
    (("recip",), _SCALE),
    (("recip",), (*_SCALE, "recip", "mul")),
    (("stat", "recip"), ("const", "mul", "const", "stat", "mul", "add", "stat", "add", "rsqrt", *_SCALE)),
    (("stat", "recip"), (*_ROOT, *_SCALE, "recip", "mul")),
    (("stat", "recip"), ("const", "mul", "stat", "add", "rsqrt", *_SCALE)),
)
_HEAD = (("stat", "recip"), (*_ROOT, *_SCALE))


def _stream(matrix: Matrix, bytes_per_beat: int, tile_outputs: int) -> Iterator[Step]:
    yield Step("pass", matrix, matrix.outputs)
    for number, outputs in enumerate(matrix.tiles(bytes_per_beat, tile_outputs)):
        if number:
            yield Step("quant", matrix, matrix.inputs)
        yield Step("tile", matrix, outputs)


def program(
    g: Geometry, *, bytes_per_beat: int, tile_outputs: int, streamed: bool = False, moved: bool = False
) -> Iterator[Step]:
    """The program that the compiler makes of a model of this shape, instruction by instruction.

    Parameters
    ----------
    g : Geometry
    bytes_per_beat, tile_outputs : int
    streamed : bool
        Norms come with the weights.
    moved : bool
        Recurrent states lie in memory.
    """
    d = -(-g.hidden // VECTOR_LANES)
    m = -(-g.intermediate // VECTOR_LANES)
    step = max(1, bytes_per_beat // 8)
    ahead = False

    def load(words: int) -> Iterator[Step]:
        if streamed:
            yield Step("load", count=words)

    if streamed:
        yield Step("stream")
        yield from (Step("base") for _ in range(3 if moved else 2))
    yield from load((4 if g.layers else 2) * d)
    yield Step("embed", count=g.hidden)
    for number in range(g.layers):
        last = number == g.layers - 1
        for k, (matrix, (first, second)) in enumerate(zip(layer_matrices(g, last), _BEFORE, strict=True)):
            if k == 0:
                if moved:
                    yield Step("recall", count=g.hidden)
                yield from load(3 * d)
            elif k == 3:
                yield from load(2 * d)
                ahead = streamed and not last and 3 * d % step == 0
                if ahead:
                    yield from load(d)
            elif k == 4:
                yield from load(m)
            elif k == 5:
                yield from load((2 if last else 3 if ahead else 4) * d)
            for scalar in first:
                if moved and k == 3 and scalar == "recip":
                    yield Step("keep", count=g.hidden)
                yield Step(scalar)
            yield Step("quant", matrix, matrix.inputs)
            yield from (Step(scalar) for scalar in second)
            yield from _stream(matrix, bytes_per_beat, tile_outputs)
    head = Matrix(Mode.LOGITS, g.vocab, g.hidden)
    yield from (Step(scalar) for scalar in _HEAD[0])
    yield Step("quant", head, head.inputs)
    yield from (Step(scalar) for scalar in _HEAD[1])
    yield from _stream(head, bytes_per_beat, tile_outputs)
    yield Step("end")


def weight_beats(g: Geometry, bytes_per_beat: int) -> int:
    """Beats of weights of a token, norms left out."""
    return sum(m.outputs * chunks_of(m.inputs, bytes_per_beat) for m in matrices(g))


@cache
def onchip_depths(g: Geometry, bytes_per_beat: int, tile_outputs: int) -> Mapping[str, int]:
    """Depths of the on-chip memories, as :meth:`~nomul.model.core_config.CoreConfig.grown_for` makes them."""
    d, m = -(-g.hidden // VECTOR_LANES), -(-g.intermediate // VECTOR_LANES)
    words = g.layers * (9 * d + m) + 2 * d
    steps = sum(1 for _ in program(g, bytes_per_beat=bytes_per_beat, tile_outputs=tile_outputs))
    return {
        "weight_beats": _up(weight_beats(g, bytes_per_beat), 1024),
        "norm_words": _up(words, 512),
        "embedding_bytes": _up(g.vocab * embedding_stride(g.hidden, streamed=False), 2048),
        "program_words": _up(steps, 512),
    }


@cache
def stream_bytes(config: StreamedConfig, g: Geometry) -> tuple[int, int]:
    """Bytes of the weight stream of a streamed token: all, and those of them that are norms."""
    beat = config.bytes_per_beat
    norms = sum(
        load_beats(step.count, beat)
        for step in program(
            g, bytes_per_beat=beat, tile_outputs=config.tile_outputs, streamed=True, moved=config.state == "memory"
        )
        if step.kind == "load"
    )
    return beat * (weight_beats(g, beat) + norms), beat * norms


@cache
def _instructions(config: StreamedConfig, g: Geometry) -> int:
    return sum(1 for _ in program(
        g, bytes_per_beat=config.bytes_per_beat, tile_outputs=config.tile_outputs, streamed=True,
        moved=config.state == "memory",
    ))  # fmt: skip


@cache
def traffic(config: StreamedConfig, g: Geometry, *, texts: int, logits: int = 0) -> tuple[int, int]:
    """Bytes that a step of all lanes reads and writes, in whole words of the memory.

    Parameters
    ----------
    config : StreamedConfig
    g : Geometry
    texts : int
        Recurrent states among the lanes.
    logits : int
        Lanes whose logits are written.
    """
    word = config.word_bytes
    moved = config.state == "memory"
    state = texts * g.layers * _up(g.hidden * STATE_BYTES, word) if moved else 0
    reads = (
        _up(_instructions(config, g) * INSTRUCTION_BYTES, word) + _up(stream_bytes(config, g)[0], word)
        + config.lanes * _up(_SCALE_BYTES + g.hidden, word) + state
    )  # fmt: skip
    writes = state + (logits * _up(g.vocab * LOGIT_BYTES, word) if config.logits == "memory" else 0)
    return reads, writes


def words_read(config: StreamedConfig, g: Geometry, *, texts: int) -> int:
    """Words of memory that a step of all lanes reads: those of :func:`traffic`, and what is fetched behind the program.

    The program's reader asks for whole bursts as long as there is room for them, whatever comes behind the last one.
    """
    word = config.word_bytes
    own = -(-_instructions(config, g) * INSTRUCTION_BYTES // word)
    asked = (own + _PROGRAM_HELD + _PROGRAM_AHEAD) // _PROGRAM_BURST * _PROGRAM_BURST
    return traffic(config, g, texts=texts)[0] // word + asked - own
