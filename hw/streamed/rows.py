# SPDX-License-Identifier: Apache-2.0
"""Embedding rows from external memory."""

from __future__ import annotations

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.memory import Slice
from nomul.hw.ports import MemorySignature, RowRequestLayout, WideRowLayout
from nomul.model.isa import Part
from nomul.model.memory_map import BLOCK
from nomul.model.numbers import SOURCE_BITS

from .gearbox import Gearbox
from .ports import BLOCK_BITS, BasesLayout, block_word
from .reader import Reader

__all__ = ["Rows"]

_SCALE_BYTES = 2
_WIDE_BYTES = SOURCE_BITS // 8
_DEPTH = 64  # words fetched ahead


class Rows(wiring.Component):
    """Reads the row of each lane's token, one lane after the other, an element a cycle.

    The row of a token begins at block ``base + token · stride``: two bytes of scale (unsigned, little
    endian), then elements of one signed byte. Where the request says so, they are ``wide``: no scale, elements of
    four bytes, an element in four cycles.

    Parameters
    ----------
    lanes, word_bytes : int

    Members
    -------
    request : ``In(stream.Signature(RowRequestLayout(lanes)))``
        ``stride`` in bytes, a multiple of 64. Taken when all before are done.
    bases : ``In(BasesLayout)``
    rows : ``Out(stream.Signature(WideRowLayout))``
        All elements of lane 0, then of lane 1, …; the scale holds for its whole row.
    stop : ``In(1)``
        A cycle's strobe: gives up the request at work, or offered in this cycle. What is offered is withdrawn in
        the next cycle, what is still to come from memory is discarded.
    memory : ``Out(MemorySignature(word_bytes))``
    """

    def __init__(self, *, lanes: int, word_bytes: int):
        self.lanes = lanes
        self.word_bytes = word_bytes
        super().__init__({
            "request": In(stream.Signature(RowRequestLayout(lanes))),
            "bases": In(BasesLayout),
            "rows": Out(stream.Signature(WideRowLayout)),
            "stop": In(1),
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = Reader(
            word_bytes=self.word_bytes, depth=_DEPTH, burst=_DEPTH // 4
        )
        connect(m, reader.memory, flipped(self.memory))
        start = Signal()
        m.submodules.bytes = gear = ResetInserter(start | self.stop)(
            Gearbox(i_bytes=self.word_bytes, o_bytes=1)
        )
        connect(m, reader.o, gear.i)

        # Lanes in turns: multiply, add, start, then the bytes.
        asked = self.request.payload
        lane = Signal(range(max(2, self.lanes)))
        work = Signal(RowRequestLayout(self.lanes))
        offset = Signal(24, reset_less=True)
        at = Signal(BLOCK_BITS, reset_less=True)
        left = Signal.like(asked.elements)
        scale = Signal(unsigned(8 * _SCALE_BYTES), reset_less=True)
        m.submodules.slice = near = ResetInserter(self.stop)(Slice(shape=WideRowLayout))
        size = Mux(work.wide, work.elements * _WIDE_BYTES, work.elements + _SCALE_BYTES)
        words = (size + (self.word_bytes - 1)) >> (self.word_bytes.bit_length() - 1)
        lower = Signal(unsigned(SOURCE_BITS - 8), reset_less=True)  # bytes of a wide element
        place = Signal(range(_WIDE_BYTES))
        shift = block_word(self.word_bytes)
        m.d.comb += [
            reader.start.eq(start | self.stop),
            reader.address.eq(at << shift),
            reader.words.eq(Mux(self.stop, 0, words)),
            near.i.payload.value.eq(Mux(work.wide, 0, gear.o.payload)),
            near.i.payload.scale.eq(scale),
            near.i.payload.x.eq(Mux(work.wide, Cat(lower, gear.o.payload), 0)),
        ]
        connect(m, near.o, flipped(self.rows))
        token = Array(work.token)[lane] if self.lanes > 1 else work.token[0]

        def give_up() -> None:
            """Last in a state."""
            with m.If(self.stop):
                m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(1)
                m.d.sync += [work.eq(asked), lane.eq(0)]
                with m.If(self.request.valid):
                    m.next = "MULTIPLY"
                give_up()
            with m.State("MULTIPLY"):
                m.d.sync += offset.eq(token * (work.stride >> (BLOCK.bit_length() - 1)))
                m.next = "ADD"
                give_up()
            with m.State("ADD"):
                m.d.sync += at.eq(self.bases[Part.EMBEDDINGS].block + offset)
                m.next = "START"
                give_up()
            with m.State("START"):
                m.d.comb += start.eq(1)
                m.d.sync += [left.eq(work.elements), place.eq(0)]
                m.next = "LOW"
                with m.If(work.wide):
                    m.next = "ELEMENTS"
                give_up()
            with m.State("LOW"):
                m.d.comb += gear.o.ready.eq(1)
                with m.If(gear.o.valid):
                    m.d.sync += scale[:8].eq(gear.o.payload)
                    m.next = "HIGH"
                give_up()
            with m.State("HIGH"):
                m.d.comb += gear.o.ready.eq(1)
                with m.If(gear.o.valid):
                    m.d.sync += scale[8:].eq(gear.o.payload)
                    m.next = "ELEMENTS"
                give_up()
            with m.State("ELEMENTS"):
                whole = ~work.wide | (place == _WIDE_BYTES - 1)
                m.d.comb += [near.i.valid.eq(gear.o.valid & whole), gear.o.ready.eq(near.i.ready | ~whole)]
                with m.If(gear.o.valid & gear.o.ready):
                    m.d.sync += [lower.eq(Cat(lower[8:], gear.o.payload)), place.eq(place + 1)]
                with m.If(gear.o.valid & near.i.ready & whole):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.d.sync += lane.eq(lane + 1)
                        m.next = "IDLE"
                        if self.lanes > 1:
                            with m.If(lane != self.lanes - 1):
                                m.next = "MULTIPLY"
                give_up()
        return m
