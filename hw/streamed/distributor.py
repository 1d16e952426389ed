# SPDX-License-Identifier: Apache-2.0
"""Hands the beats of the weight stream out: to the engine, or to norm memory."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import NORM_ADDRESS_BITS, NormLayout, WeightLayout
from nomul.model.placement import NORM_WORD_BYTES

from .ports import OrderLayout

__all__ = ["Distributor", "NormWriteSignature"]

_DEPTH = 16


class NormWriteSignature(wiring.Signature):
    """Writes rows of norm words, seen from the writer.

    Members
    -------
    valid : ``Out(1)``
    address : ``Out``
        Of the row's first word.
    words : ``Out(ArrayLayout(NormLayout, rows))``
    """

    def __init__(self, *, row: int) -> None:
        super().__init__({
            "valid": Out(1),
            "address": Out(NORM_ADDRESS_BITS),
            "words": Out(data.ArrayLayout(NormLayout, row)),
        })


class Distributor(wiring.Component):
    """Follows orders: so many norm words to memory, or beats to the engine until it says that the tile ends.

    Beats pass without latency; orders follow one another without a gap. A norm beat is taken in every
    cycle, and written in the next.

    Parameters
    ----------
    bytes_per_beat : int
        ``G``, a multiple of 8: that of a norm word.

    Members
    -------
    order : ``In(stream.Signature(OrderLayout))``
        Up to 16 wait.
    i : ``In(stream.Signature(WeightLayout(G)))``
    o : ``Out(stream.Signature(WeightLayout(G)))``
        To the engine.
    tile_end : ``In(1)``
        The engine takes the last beat of a tile.
    norms : ``Out(NormWriteSignature)``
        To norm memory.
    loading : ``Out(1)``
        Norms that were ordered are not all written.
    passing : ``Out(1)``
        The next beat is one of norms.
    """

    def __init__(self, *, bytes_per_beat: int):
        if bytes_per_beat < NORM_WORD_BYTES or bytes_per_beat % NORM_WORD_BYTES:
            raise ValueError(
                f"Distributor: bytes_per_beat is {bytes_per_beat}; it must be a multiple of "
                f"{NORM_WORD_BYTES}, the bytes of a norm word"
            )
        self.row = bytes_per_beat // NORM_WORD_BYTES
        super().__init__({
            "order": In(stream.Signature(OrderLayout)),
            "i": In(stream.Signature(WeightLayout(bytes_per_beat))),
            "o": Out(stream.Signature(WeightLayout(bytes_per_beat))),
            "tile_end": In(1),
            "norms": Out(NormWriteSignature(row=self.row)),
            "loading": Out(1),
            "passing": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = SyncFIFO(width=OrderLayout.size, depth=_DEPTH)
        m.d.comb += [
            queue.w_data.eq(self.order.payload),
            queue.w_en.eq(self.order.valid),
            self.order.ready.eq(queue.w_rdy),
        ]
        head = data.View(OrderLayout, queue.r_data)
        tile, load = Signal(), Signal()
        address = Signal(NORM_ADDRESS_BITS)
        left = Signal.like(head.words)  # words; the last beat may have fewer
        m.d.comb += [
            self.o.payload.eq(self.i.payload),
            self.o.valid.eq(self.i.valid & tile),
            self.i.ready.eq(load | tile & self.o.ready),
        ]
        beat = load & self.i.valid
        m.d.sync += [
            self.norms.valid.eq(beat),
            self.norms.address.eq(address),
            self.norms.words.as_value().eq(self.i.payload.as_value()),
        ]
        with m.If(beat):
            m.d.sync += [address.eq(address + self.row), left.eq(left - self.row)]
        done = self.tile_end | beat & (left <= self.row)
        m.d.comb += queue.r_en.eq(done | ~(tile | load))
        with m.If(queue.r_en):
            m.d.sync += [
                tile.eq(queue.r_rdy & ~head.load),
                load.eq(queue.r_rdy & head.load),
                address.eq(head.address),
                left.eq(head.words),
            ]
        owed = Signal(range(_DEPTH + 2))
        more, fewer = self.order.valid & self.order.ready & self.order.payload.load, beat & done
        with m.If(more & ~fewer):
            m.d.sync += owed.eq(owed + 1)
        with m.If(fewer & ~more):
            m.d.sync += owed.eq(owed - 1)
        m.d.comb += self.passing.eq(load)
        m.d.comb += self.loading.eq((owed != 0) | self.norms.valid)
        return m
