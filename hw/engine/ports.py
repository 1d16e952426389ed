# SPDX-License-Identifier: Apache-2.0
"""What both ternary engines have in common: ports, checks, bounds, cycles."""

from __future__ import annotations

from typing import ClassVar

from amaranth.hdl import Module, Shape, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from nomul.hw.ports import SumsLayout, TileLayout, WeightLayout
from nomul.model.ternary import TRITS_PER_BYTE

from .accumulate import HAZARD, LEAD, Accumulate
from .walk import Walk

__all__ = ["Engine"]

#: Largest magnitude of an activation.
_ACTIVATION = 127


class Engine(wiring.Component):
    """Multiplies a ternary matrix, streamed as packed bytes, with int8 vectors.

    A *tile* is a matrix of N outputs by ``chunks · 5·G`` inputs. Its weights come input-stationary:
    for each chunk, for each output, one beat of ``G`` bytes; byte ``g`` holds the trits of the
    chunk's inputs ``5g … 5g+4``. Results leave in order of outputs while the last chunk streams.

    One weight beat is taken each cycle as long as a tile is commanded, its activations are there
    and the results are taken. Chunks, and tiles of two beats or more, follow without a gap if
    commands and activations come in time; only when a tile has several chunks of fewer than 5
    outputs does each of them take 5 cycles.
    Back-pressure on ``sums`` stops the last chunk, through credits for a small output buffer.

    Parameters
    ----------
    bytes_per_beat : int
        ``G``: weight bytes in a beat; at least 1.
    lanes : int
        ``L``: vectors multiplied with the same weights; at least 1.
    outputs : int
        ``A``: most outputs of a tile that has more than one chunk; at least 1. A tile with one
        chunk has as many as the command can say.
    inputs : int
        ``K``: most inputs of a tile, zero padding not counted. The accumulators hold ±127·K
        exactly: no sum of K products of an activation in ±127 and a trit is larger.
    acts_per_beat : int
        ``W``: activations in a beat; divides ``5·G``.

    Attributes
    ----------
    sum_shape : Shape
        Shape of a result, signed.
    latency : int
        Cycles from a beat of the last chunk being taken to its results being offered.

    Members
    -------
    tile : ``In(stream.Signature(TileLayout))``
        Number of outputs (1 …) and chunks (1 …), a command for each tile; the next one may wait.
    acts : ``In(stream.Signature({"x": ArrayLayout(signed(8), W), "last": 1}))``
        Activations in -127 … 127, for each chunk: ``5·G`` of lane 0 in order, then lane 1, …;
        inputs past the end of a row are zero. ``last`` marks the last beat of a chunk (of all
        lanes). The activations of the next chunk are taken while the current one streams.
    weights : ``In(stream.Signature(ArrayLayout(8, G)))``
        Weight bytes, coded as :mod:`nomul.model.ternary` says.
    sums : ``Out(stream.Signature({"sum": ArrayLayout(sum_shape, L), "last": 1}))``
        Results; ``last`` ends a tile.
    tile_end : ``Out(1)``
        The last weight beat of a tile is taken in this cycle.
    """

    #: Cycles from a chunk's last activations being taken to its first weight beat being taken.
    prepare: ClassVar[int]

    def __init__(self, *, bytes_per_beat: int, lanes: int, outputs: int, inputs: int,
                 acts_per_beat: int = TRITS_PER_BYTE) -> None:
        name = type(self).__name__
        for field, value in (("bytes_per_beat", bytes_per_beat), ("lanes", lanes),
                             ("outputs", outputs), ("inputs", inputs),
                             ("acts_per_beat", acts_per_beat)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: {field} is {value!r}; it must be a positive integer")
        chunk = TRITS_PER_BYTE * bytes_per_beat
        if chunk % acts_per_beat:
            raise ValueError(f"{name}: acts_per_beat is {acts_per_beat}; it must divide the "
                             f"{chunk} inputs of a chunk of {bytes_per_beat} bytes")
        most = (1 << TileLayout["chunks"].width) - 1
        if inputs > most * chunk:
            raise ValueError(f"{name}: inputs is {inputs}; {most} chunks of {chunk} hold "
                             f"{most * chunk}")
        if outputs >= 1 << TileLayout["outputs"].width:
            raise ValueError(f"{name}: outputs is {outputs}; a tile has at most "
                             f"{(1 << TileLayout['outputs'].width) - 1}")
        self.bytes_per_beat = bytes_per_beat
        self.lanes = lanes
        self.outputs = outputs
        self.inputs = inputs
        self.acts_per_beat = acts_per_beat
        self.sum_shape: Shape = signed(bits_for(_ACTIVATION * inputs) + 1)
        beat = data.StructLayout({"x": data.ArrayLayout(signed(8), acts_per_beat), "last": 1})
        super().__init__({
            "tile": In(stream.Signature(TileLayout)),
            "acts": In(stream.Signature(beat)),
            "weights": In(stream.Signature(WeightLayout(bytes_per_beat))),
            "sums": Out(stream.Signature(SumsLayout(lanes, self.sum_shape.width))),
            "tile_end": Out(1),
        })

    @property
    def chunk(self) -> int:
        """Inputs of a chunk: ``5·G``."""
        return TRITS_PER_BYTE * self.bytes_per_beat

    @property
    def beats_per_chunk(self) -> int:
        """Activation beats of a chunk, over all lanes."""
        return self.lanes * self.chunk // self.acts_per_beat

    @property
    def depth(self) -> int:
        """Register stages from a beat being taken to its terms reaching the accumulator."""
        raise NotImplementedError

    @property
    def chunk_interval(self) -> int:
        """Cycles from a chunk's first beat to the next one's at the earliest, activations in time.

        Preparing a chunk is hidden behind the one before it if that has as many outputs.
        """
        raise NotImplementedError

    @property
    def latency(self) -> int:
        """Cycles from a beat of a last chunk being taken to its results being offered."""
        return self.depth + 2

    def cycles(self, outputs: int, chunks: int) -> int:
        """Cycles from a tile's first weight beat being taken to its last result being offered.

        Holds without stalls and with the activations of later chunks in time.
        """
        period = outputs if chunks == 1 else max(outputs, HAZARD)
        return (chunks - 1) * period + outputs - 1 + self.latency

    def connect_walk(self, m: Module, *, available: Value) -> Walk:
        """Adds the walk that all engines begin with; ``available`` is the walk's port."""
        bits = max(1, bits_for(self.outputs - 1))
        m.submodules.walk = walk = Walk(address=bits)
        wiring.connect(m, wiring.flipped(self.tile), walk.tile)
        m.d.comb += [
            walk.available.eq(available),
            walk.valid.eq(self.weights.valid),
            self.weights.ready.eq(walk.ready),
            self.tile_end.eq(walk.end & walk.beat.final),
        ]
        return walk

    def connect_terms(self, m: Module, walk: Walk, terms: list[list[Value]]) -> None:
        """Adds the accumulators that all engines end with, for terms ``[lane][term]``."""
        shape = signed(max(len(term) for lane in terms for term in lane))
        m.submodules.accumulate = accumulate = Accumulate(
            outputs=self.outputs, lanes=self.lanes, term=shape, terms=len(terms[0]),
            sum_shape=self.sum_shape, latency=self.latency)
        # A beat's description travels beside its data.
        beats, valid = [walk.beat], [walk.fire]
        for stage in range(1, self.depth + 1):
            beats.append(Signal.like(walk.beat, name=f"beat{stage}", reset_less=True))
            valid.append(Signal(name=f"valid{stage}"))
            m.d.sync += [beats[-1].eq(beats[-2]), valid[-1].eq(valid[-2])]
        m.d.comb += [
            accumulate.address.eq(beats[self.depth - LEAD].address),
            accumulate.soon.eq(beats[self.depth - 1]),
            accumulate.beat.eq(beats[self.depth]),
            accumulate.valid.eq(valid[self.depth]),
            accumulate.promise.eq(walk.fire & walk.beat.final),
            walk.credit.eq(accumulate.credit),
        ]
        for lane, values in enumerate(terms):
            for k, value in enumerate(values):
                m.d.comb += accumulate.terms[lane][k].eq(value)
        wiring.connect(m, accumulate.sums, wiring.flipped(self.sums))
