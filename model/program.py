# SPDX-License-Identifier: Apache-2.0
"""The compiler: from a model to the program and the memory image of one core.

The order of everything in memory is the order of use, so weights stream without addresses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import isa
from .errors import NomulError
from .fold import Layer, Matrix, Model, NormVector
from .geometry import Geometry
from .isa import Mode, Part, Source, Statistic
from .memory_map import BLOCK, MemoryMap, state_place
from .numbers import (
    ACT_MAX,
    NORM_BITS,
    SOURCE_BITS,
    STATE_FRAC,
    T_FRAC,
    VECTOR_LANES,
    X_FRAC,
    product_shift,
)
from .placement import NormPlacement, OnChipNorms, StreamedNorms, load_beats, streamed_norm_words
from .scalar import MANTISSA_BITS, from_float
from .ternary import TRITS_PER_BYTE

__all__ = ["LOGITS_INSTRUCTION", "SECTION_BUFFERS", "WHOLE", "Image", "Section", "Streaming", "beats", "compile_model"]

# Scalar registers by use.
R_TEMP, R_RECIP, R_ROOT, R_CONST, R_SCALE, R_EXTRA = range(6)
R_MAX = 8  # and the next two: the maxima of a reduction

_SQUARE_DROP = NORM_BITS - 1  # a product for the sum of squares loses so many bits
_RESIDUAL_SCALE = 4  # 18 bits of mantissa, X_FRAC fraction bits, no shift to the left
assert MANTISSA_BITS - X_FRAC == 2


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """That a core streams its model from external memory, and what else lies there.

    Parameters
    ----------
    lanes : int
        Logits of so many lanes.
    slots : int
        Recurrent states in memory; 0: they stay on the chip.
    """

    lanes: int = 1
    slots: int = 0


@dataclass(frozen=True, kw_only=True)
class Section:
    """Which ends of a model are elsewhere: it is some of the layers of a larger one.

    Parameters
    ----------
    takes : bool
        There are no embeddings: row ``k`` of them is a residual stream that the host writes, 32 bits an element, and
        ``k`` is a token. There are twice as many as lanes: a host writes those of the next step during a step.
    gives : bool
        There is no head: the residual stream goes where logits go. There is room for those of two steps.
    """

    takes: bool = False
    gives: bool = False


WHOLE = Section()  #: All of a model.
SECTION_BUFFERS = 2  #: Steps for whose residual streams there is room, before a section and behind it.
LOGITS_INSTRUCTION = 2  #: The instruction of a streamed program that says where logits begin.


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a core's memories hold.

    Attributes
    ----------
    geometry : Geometry
    bytes_per_beat : int
        ``G``, weight bytes a cycle.
    program : tuple of Instruction
    weights : ndarray of uint8, shape ``[beats, G]``
        In the order of streaming.
    norms : ndarray of uint16, shape ``[words, 4]``
        Norm vectors (signed) and lower bounds (unsigned), each filled up to whole words.
    embeddings : ndarray of uint8, shape ``[V, stride]``
        Row scale (2 bytes, little endian), then int8 elements. Of a section that takes residual streams there are
        none, ``[0, stride]``.
    logit_scale_register : int
        Scalar register that holds the scale of the logits when the token is complete.
    map : MemoryMap or None
        Where it all lies in external memory; None: in memories on the chip. Then norms come with the
        weights, and ``norms`` is what norm memory holds at first: zeros.
    tile_outputs : int
        Most outputs of a tile that it was compiled for.
    streaming : Streaming or None
        What it was compiled for.
    section : Section
        What of a model it is.
    """

    geometry: Geometry
    bytes_per_beat: int
    program: tuple[isa.Instruction, ...]
    weights: np.ndarray
    norms: np.ndarray
    embeddings: np.ndarray
    logit_scale_register: int
    map: MemoryMap | None = None
    tile_outputs: int = 0
    streaming: Streaming | None = None
    section: Section = WHOLE

    @property
    def tokens(self) -> int:
        """What a step takes in a lane is below it: the vocabulary, or rows of residual streams."""
        if not self.section.takes:
            return self.geometry.vocab
        assert self.streaming is not None
        return SECTION_BUFFERS * self.streaming.lanes

    @property
    def results(self) -> int:
        """What a step gives in a lane, of 32 bits each: logits, or a residual stream."""
        return self.geometry.hidden if self.section.gives else self.geometry.vocab

    @property
    def bound_cycles(self) -> float:
        """Ternary weights over trits a cycle: no engine of this width is faster."""
        head = self.geometry.vocab * self.geometry.hidden if self.section.gives else 0
        return (self.geometry.ternary_weights - head) / (TRITS_PER_BYTE * self.bytes_per_beat)


def beats(matrix: Matrix, bytes_per_beat: int, tile: int) -> np.ndarray:
    """Weight beats of a matrix in the order of streaming: tiles of outputs, chunks of inputs, outputs.

    Parameters
    ----------
    matrix : Matrix
    bytes_per_beat : int
    tile : int
        Outputs of a tile.

    Returns
    -------
    ndarray of uint8, shape ``[beats, G]``
    """
    chunks = row_chunks(matrix, bytes_per_beat)
    made = np.empty((matrix.outputs * chunks, bytes_per_beat), dtype=np.uint8)
    _fill_beats(made, matrix, chunks, tile)
    return made


def row_chunks(matrix: Matrix, bytes_per_beat: int) -> int:
    """Chunks of ``5·G`` inputs that a row takes; the last may be partly zeros."""
    return -(-matrix.inputs // (TRITS_PER_BYTE * bytes_per_beat))


def _fill_beats(made: np.ndarray, matrix: Matrix, chunks: int, tile: int) -> None:
    """Puts :func:`beats` into ``[beats, G]``."""
    beat = made.shape[1]
    for n in range(0, matrix.outputs, tile):
        code = matrix.code[n : n + tile]
        rows = len(code)
        place = made[n * chunks : (n + rows) * chunks].reshape(chunks, rows, beat)
        for chunk in range(chunks):
            part = code[:, chunk * beat : (chunk + 1) * beat]
            place[chunk, :, : part.shape[1]] = part
            place[chunk, :, part.shape[1] :] = 0  # five zero trits


def _even_share(outputs: int, most: int) -> int:
    """Outputs of a tile when all tiles are as large as can be, and none much smaller."""
    tiles = -(-outputs // most)
    return -(-outputs // (2 * tiles)) * 2


class _Builder:
    """Collects program, norms and weights in the order of use."""

    def __init__(
        self,
        model: Model,
        bytes_per_beat: int,
        tile_outputs: int,
        streaming: Streaming | None,
        section: Section,
    ):
        self.model = model
        self.section = section
        self.bytes_per_beat = bytes_per_beat
        self.tile_outputs = tile_outputs
        self.program: list[isa.Instruction] = []
        self.streaming = streaming
        matrices = [part for y in model.layers for part in vars(y).values()]
        if not section.gives:
            matrices.append(model.head)
        beats = sum(m.outputs * row_chunks(m, bytes_per_beat) for m in matrices if isinstance(m, Matrix))
        self.on_chip = OnChipNorms()
        self.norms: NormPlacement = self.on_chip
        if streaming is not None:
            self.norms = StreamedNorms(model.geometry, bytes_per_beat, self.emit, self.append)
            layer = streamed_norm_words(model.geometry, bytes_per_beat)  # more than two loads of it, never
            beats += 2 * (model.geometry.layers + 1) * load_beats(layer, bytes_per_beat)
        self._weights = np.empty((beats, bytes_per_beat), dtype=np.uint8)  # the end may stay unused
        self.beats = 0  # so far
        self.square_exponent = 0  # of the latest reduction

    def emit(self, *instructions: isa.Instruction) -> None:
        self.program.extend(instructions)

    @property
    def weights(self) -> np.ndarray:
        """The weight stream, uint8 ``[beats, G]``."""
        return self._weights[: self.beats]

    def append(self, made: np.ndarray) -> None:
        """Beats that are no weights, ``[beats, G]``."""
        self._weights[self.beats : self.beats + len(made)] = made
        self.beats += len(made)

    def constant(self, register: int, value: float) -> None:
        scalar = from_float(value)
        self.emit(isa.Const(rd=register, mantissa=scalar.mantissa, exponent=scalar.exponent))

    def maximum(self, which: int) -> None:
        """Reads a maximum of the latest reduction into its register."""
        self.emit(isa.Stat(rd=R_MAX + which, statistic=Statistic(which)))

    def quantise(self, source: Source, norm_at: int, elements: int, which: int = 0) -> isa.Quant:
        """Quantises by a maximum that has been read."""
        quant = isa.Quant(rs=R_RECIP, source=source, elements=elements, norm=norm_at)
        self.emit(isa.Recip(rd=R_RECIP, ra=R_MAX + which), quant)
        return quant

    def scale(self, constant: float, which: int = 0) -> None:
        """``R_SCALE = R_ROOT · maximum · constant``: the true value of one unit of an accumulated sum."""
        self.constant(R_CONST, constant)
        self.emit(
            isa.Mul(rd=R_SCALE, ra=R_ROOT, rb=R_MAX + which),
            isa.Mul(rd=R_SCALE, ra=R_SCALE, rb=R_CONST),
        )

    def stream(self, matrix: Matrix, quant: isa.Quant, **fields: int) -> None:
        """The pass over a matrix; the first quantisation has been issued, later tiles repeat it."""
        chunks = row_chunks(matrix, self.bytes_per_beat)
        tile = matrix.outputs if chunks == 1 else _even_share(matrix.outputs, self.tile_outputs)
        settings: dict[str, int] = {"address": 0, "shift": 0, "vectors": 0, "square": 0, "send": 0}
        settings.update(fields)
        self.emit(isa.Pass(rs=R_SCALE, outputs=matrix.outputs, **settings))  # type: ignore[arg-type]
        for n in range(0, matrix.outputs, tile):
            if n:
                self.emit(quant)
            self.emit(isa.Tile(outputs=min(tile, matrix.outputs - n), chunks=chunks))
        end = self.beats + matrix.outputs * chunks
        _fill_beats(self._weights[self.beats : end], matrix, chunks, tile)
        self.beats = end

    def bounded(self, name: str, matrix: Matrix, norm: np.ndarray) -> None:
        """Refuses a matrix onto the residual stream whose scale could exceed what a pass shifts by.

        The scale is ``max|v| / √mean(…) / 127 · mean|W|``, at most the first quotient's largest weight
        times the root of the row's length.
        """
        scale = math.sqrt(matrix.inputs) * float(norm.max()) / ACT_MAX * matrix.scale
        if scale >= _RESIDUAL_SCALE:
            raise NomulError(
                f"{name}: a unit of its sums may be worth {scale:.3g} in the residual stream, the core takes "
                f"less than {_RESIDUAL_SCALE}; mean|W| is {matrix.scale:.3g}: scale the weights down"
            )

    # -- one block -------------------------------------------------------------------------------

    def root_of_residual(self, elements: int) -> float:
        """``R_ROOT = 1/√(Σ(x·w)² + …)`` of the latest residual reduction; returns its unit."""
        kz = X_FRAC + self.square_exponent - _SQUARE_DROP
        self.constant(R_CONST, max(elements * self.model.eps**2 * 4.0**kz, 2.0**-32))
        self.emit(
            isa.Stat(rd=R_ROOT, statistic=Statistic.SQUARES),
            isa.Add(rd=R_ROOT, ra=R_ROOT, rb=R_CONST),
            isa.Rsqrt(rd=R_ROOT, ra=R_ROOT),
        )
        return math.sqrt(elements) * 2.0**kz

    def block(
        self, layer: Layer, number: int, norm_at: int, following: tuple[NormVector, ...]
    ) -> dict[str, int]:
        """A layer; returns where the norms of the next one lie, as a pass that reduces wants them."""
        d, m = self.model.geometry.hidden, self.model.geometry.intermediate
        eps = self.model.eps
        words = -(-d // VECTOR_LANES)
        in_memory = self.streaming is not None and self.streaming.slots > 0
        place = state_place(self.model.geometry, number)
        if in_memory:
            self.emit(isa.Recall(address=place, elements=d))
        lower_at = self.norms.store(1, layer.lower_bound, layer.o_norm.values, layer.o_square.values)
        o_at = lower_at + words

        # Forget, input, output gates: three quantisations of one residual stream.
        unit = 0.0
        projections: tuple[tuple[Mode, NormVector, Matrix, dict[str, int]], ...] = (
            (Mode.FORGET, layer.f_norm, layer.f_proj, {"address": lower_at}),
            (Mode.INPUT, layer.i_norm, layer.i_proj, {"address": 0 if in_memory else number * d}),
            (Mode.OUTPUT, layer.g_norm, layer.g_proj, {}),
        )
        for k, (mode, norm, matrix, fields) in enumerate(projections):
            if k == 0:
                self.maximum(0)
            quant = self.quantise(Source.RESIDUAL, norm_at + k * words, d, k)
            if k == 0:  # the other statistics must be read before the first pass begins
                unit = self.root_of_residual(d)
                self.maximum(1)
                self.maximum(2)
            self.scale(unit * 2.0 ** -(X_FRAC + norm.exponent) / ACT_MAX * matrix.scale, k)
            if mode is Mode.OUTPUT:
                shift = product_shift(d)
                fields = {"address": o_at, "shift": shift, "vectors": 1, "square": 1}
                # R_EXTRA = 1/S_g², for the ε inside the norm of g
                self.emit(
                    isa.Recip(rd=R_EXTRA, ra=R_SCALE), isa.Mul(rd=R_EXTRA, ra=R_EXTRA, rb=R_EXTRA)
                )
            self.stream(matrix, quant, mode=mode, **fields)

        # o: v = sum · silu(h) · norms. The unit of a sum cancels but for ε.
        shift = product_shift(d)
        mlp_at = self.norms.store(0, layer.gate_norm.values, layer.mlp_square.values)
        self.norms.ahead(following[-1].values, len(following) - 1)
        self.maximum(0)
        if in_memory:  # the statistic was there, so all of the state is
            self.emit(isa.Keep(address=place, elements=d))
        quant = self.quantise(Source.PRODUCT, o_at, d)
        kz = STATE_FRAC - shift + layer.o_square.exponent - _SQUARE_DROP
        self.constant(R_CONST, eps * eps * d * 4.0**kz)
        self.emit(isa.Mul(rd=R_EXTRA, ra=R_EXTRA, rb=R_CONST))
        self.constant(R_CONST, eps * 4.0**kz)
        self.emit(
            isa.Stat(rd=R_TEMP, statistic=Statistic.SUMS),
            isa.Mul(rd=R_TEMP, ra=R_TEMP, rb=R_CONST),
            isa.Add(rd=R_EXTRA, ra=R_EXTRA, rb=R_TEMP),
            isa.Stat(rd=R_ROOT, statistic=Statistic.SQUARES),
            isa.Add(rd=R_ROOT, ra=R_ROOT, rb=R_EXTRA),
            isa.Rsqrt(rd=R_ROOT, ra=R_ROOT),
        )
        unit = math.sqrt(d) * 2.0**kz
        self.scale(
            unit * 2.0 ** -(STATE_FRAC - shift + layer.o_norm.exponent) / ACT_MAX * layer.o_proj.scale
        )
        square = np.maximum(np.abs(layer.o_square.values.astype(np.float64)), 1)
        ratio = np.abs(layer.o_norm.values) / square
        unit_ratio = 2.0 ** (layer.o_square.exponent - layer.o_norm.exponent)
        self.bounded(f"layers.{number}.attn.o_proj", layer.o_proj, ratio * unit_ratio)
        self.stream(
            layer.o_proj, quant, mode=Mode.RESIDUAL, address=mlp_at, vectors=1, square=1
        )
        self.square_exponent = layer.mlp_square.exponent

        # gate and up in turns.
        down_at = self.norms.store(1, layer.down_norm.values)
        self.maximum(0)
        quant = self.quantise(Source.RESIDUAL, mlp_at, d)
        unit = self.root_of_residual(d)
        self.scale(
            unit * 2.0 ** -(X_FRAC + layer.gate_norm.exponent) / ACT_MAX * layer.gate_up.scale
        )
        self.emit(
            isa.Recip(rd=R_EXTRA, ra=R_SCALE), isa.Mul(rd=R_EXTRA, ra=R_EXTRA, rb=R_EXTRA)
        )
        self.stream(
            layer.gate_up, quant, mode=Mode.GATED, address=down_at, shift=shift, vectors=1
        )

        # down: v = silu(gate) · sum · norm.
        reduce = self.group(following)
        self.maximum(0)
        quant = self.quantise(Source.PRODUCT, down_at, m)
        self.constant(R_CONST, eps * m * 4.0 ** (STATE_FRAC - shift))
        self.emit(
            isa.Mul(rd=R_EXTRA, ra=R_EXTRA, rb=R_CONST),
            isa.Stat(rd=R_ROOT, statistic=Statistic.SQUARES),
            isa.Add(rd=R_ROOT, ra=R_ROOT, rb=R_EXTRA),
            isa.Rsqrt(rd=R_ROOT, ra=R_ROOT),
        )
        self.scale(
            math.sqrt(m) * 2.0**-layer.down_norm.exponent / ACT_MAX * layer.down_proj.scale
        )
        down = np.abs(layer.down_norm.values) * 2.0**-layer.down_norm.exponent
        self.bounded(f"layers.{number}.mlp.down_proj", layer.down_proj, down)
        send = self.section.gives and number == len(self.model.layers) - 1
        self.stream(layer.down_proj, quant, mode=Mode.RESIDUAL, **reduce, send=int(send))
        return reduce

    def group(self, vectors: tuple[NormVector, ...]) -> dict[str, int]:
        """Places norm vectors that reduce a residual stream; the last is that of the squares."""
        at = self.norms.store(0, *(v.values for v in vectors))
        return {"address": at, "vectors": len(vectors) - 1, "square": 1}

    def build(self) -> None:
        model = self.model
        d = model.geometry.hidden
        if self.streaming is not None:  # where things lie is known when all is made
            self.emit(*_prologue(self.streaming, None, 0))

        groups: list[tuple[NormVector, ...]] = [
            (y.f_norm, y.i_norm, y.g_norm, y.attn_square) for y in model.layers
        ]
        groups.append((model.head_norm, model.head_square))
        reduce = self.group(groups[0])
        shift = model.embedding.exponent - X_FRAC
        if self.section.takes:
            shift = 0
        if not 0 <= shift < 32:
            raise NomulError(
                f"embeddings: the largest magnitude needs exponent {model.embedding.exponent}; "
                f"the core takes {X_FRAC} to {X_FRAC + 31}, largest magnitudes of about 1e-7 to 120"
            )
        stride = embedding_stride(d, streamed=self.streaming is not None, wide=self.section.takes)
        self.emit(
            isa.Embed(
                elements=d, stride=stride, shift=shift, norm=reduce["address"],
                vectors=reduce["vectors"], square=1, wide=int(self.section.takes),
            )
        )
        for number, layer in enumerate(model.layers):
            self.square_exponent = groups[number][-1].exponent
            reduce = self.block(layer, number, reduce["address"], groups[number + 1])

        if self.section.gives:
            self.emit(isa.End())
            return
        self.square_exponent = model.head_square.exponent
        self.maximum(0)
        quant = self.quantise(Source.RESIDUAL, reduce["address"], d)
        unit = self.root_of_residual(d)
        self.scale(
            unit * 2.0 ** -(X_FRAC + model.head_norm.exponent) / ACT_MAX * model.head.scale
        )
        self.stream(model.head, quant, mode=Mode.LOGITS)
        self.emit(isa.End())


def _prologue(streaming: Streaming, at: MemoryMap | None, beats: int) -> list[isa.Instruction]:
    """Says where parts of memory begin; ``at`` None keeps its place."""

    def of(name: str) -> int:
        return 0 if at is None else int(getattr(at, name))

    made: list[isa.Instruction] = [
        isa.Stream(block=of("stream"), beats=beats),
        isa.Base(part=Part.EMBEDDINGS, block=of("embeddings"), stride=0),
        isa.Base(part=Part.LOGITS, block=of("logits"), stride=of("logits_stride")),
    ]
    if streaming.slots:
        made.append(isa.Base(part=Part.STATE, block=of("state"), stride=of("state_stride")))
    return made


def embedding_stride(hidden: int, *, streamed: bool, wide: bool = False) -> int:
    """Bytes from one row of embeddings to the next: scale and elements, to a multiple of 4, or whole blocks.

    Of residual streams, ``wide``, elements alone, of 4 bytes.
    """
    unit = BLOCK if streamed else 4
    size = hidden * SOURCE_BITS // 8 if wide else 2 + hidden
    return -(-size // unit) * unit


def compile_model(
    model: Model,
    *,
    bytes_per_beat: int,
    tile_outputs: int,
    streaming: Streaming | None = None,
    section: Section = WHOLE,
) -> Image:
    """Program and memory image of a model, or of a section of one.

    Parameters
    ----------
    model : Model
    bytes_per_beat : int
        ``G`` of the core.
    tile_outputs : int
        Accumulators of the core: outputs of a tile of several chunks. Even, so that gate and up stay together.
    streaming : Streaming, optional
        The core streams its model from external memory; by default it is held on the chip.
    section : Section
        That the model is some layers of a larger one, for a core that streams.

    Raises
    ------
    NomulError
        If a dimension exceeds what the instruction set can say, or the weights of a matrix onto the residual stream
        are too large.
    """
    if bytes_per_beat < 1 or tile_outputs < 2 or tile_outputs % 2:
        raise ValueError(
            f"bytes_per_beat is {bytes_per_beat} (at least 1), tile_outputs {tile_outputs} (even, at least 2)"
        )
    if SOURCE_BITS != 32 or T_FRAC > STATE_FRAC:
        raise AssertionError("the number formats changed under the compiler")
    if streaming is not None and bytes_per_beat % 8:
        raise ValueError(f"bytes_per_beat is {bytes_per_beat}; of a streamed model it is a multiple of 8")
    if streaming is None and section != WHOLE:
        raise ValueError("a section of a model is streamed from external memory")
    builder = _Builder(model, bytes_per_beat, tile_outputs, streaming, section)
    builder.build()
    g, d = model.geometry, model.geometry.hidden
    embedding = model.embedding
    stride = embedding_stride(d, streamed=streaming is not None, wide=section.takes)
    table = np.zeros((0 if section.takes else g.vocab, stride), dtype=np.uint8)
    if not section.takes:
        table[:, :2] = embedding.scale.astype("<u2").view(np.uint8).reshape(-1, 2)
        table[:, 2 : 2 + d] = embedding.values.view(np.uint8)
    where = None
    norms = np.concatenate(builder.on_chip.words) if streaming is None else np.zeros(
        (streamed_norm_words(g, bytes_per_beat), VECTOR_LANES), dtype=np.uint16
    )
    if streaming is not None:
        where = MemoryMap.of(
            g, instructions=len(builder.program), stream_bytes=builder.weights.size,
            embedding_bytes=SECTION_BUFFERS * streaming.lanes * stride if section.takes else table.size,
            results=d if section.gives else g.vocab, slots=streaming.slots,
            lanes=(SECTION_BUFFERS if section.gives else 1) * streaming.lanes,
        )  # fmt: skip
        prologue = _prologue(streaming, where, builder.beats)
        builder.program[: len(prologue)] = prologue
    for instruction in builder.program:
        isa.encode(instruction)  # refuses what the fields cannot hold
    return Image(
        geometry=model.geometry,
        bytes_per_beat=bytes_per_beat,
        program=tuple(builder.program),
        weights=builder.weights,
        norms=norms,
        embeddings=table,
        logit_scale_register=R_SCALE,
        map=where,
        tile_outputs=tile_outputs,
        streaming=streaming,
        section=section,
    )
