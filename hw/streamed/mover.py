# SPDX-License-Identifier: Apache-2.0
"""Moves recurrent state between external memory and the buffer of one layer on the chip."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.ports import BURST_WORDS, MemorySignature, StateSignature, TokensLayout
from nomul.model.isa import Part
from nomul.model.numbers import STATE_BITS
from nomul.model.protocol import SLOT_BITS

from .gearbox import Gearbox
from .ports import BLOCK_BITS, BasesLayout, MoveLayout, block_word
from .reader import Reader
from .writer import PIECE_BYTES, Writer

__all__ = ["Mover"]

_AHEAD = 4  # elements read from the buffer that may wait


class Mover(wiring.Component):
    """The state of a layer, of every slot in use, from memory into the buffer or back.

    Element ``e`` of the first lane of a slot, ``k``, lies in the buffer at ``k · hidden + e``, and in memory
    at block ``base + slot · stride``, piece ``address + e`` of 4 bytes. Lanes that are not active are
    left out. Lanes are worked on in order, an element a cycle.

    Parameters
    ----------
    lanes, hidden, word_bytes : int

    Members
    -------
    move : ``In(stream.Signature(MoveLayout))``
        ``address`` is a multiple of 16. Taken when all before are done.
    bases : ``In(BasesLayout)``
    token : ``In(TokensLayout(lanes))``
        Stands for the whole token.
    home : ``Out(ArrayLayout(lane, lanes))``
        Of each lane, the first lane of its slot: whose part of the buffer it uses. A cycle late.
    state : ``Out(StateSignature())``
        The buffer.
    busy : ``Out(1)``
    read, write : ``Out(MemorySignature(word_bytes))``
    """

    def __init__(self, *, lanes: int, hidden: int, word_bytes: int):
        self.lanes = lanes
        self.hidden = hidden
        self.word_bytes = word_bytes
        super().__init__({
            "move": In(stream.Signature(MoveLayout)),
            "bases": In(BasesLayout),
            "token": In(TokensLayout(lanes)),
            "home": Out(data.ArrayLayout(unsigned(max(1, (lanes - 1).bit_length())), lanes)),
            "state": Out(StateSignature()),
            "busy": Out(1),
            "read": Out(MemorySignature(word_bytes=word_bytes)),
            "write": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = Reader(
            word_bytes=self.word_bytes, depth=2 * BURST_WORDS, burst=16
        )
        m.submodules.pieces = pieces = Gearbox(i_bytes=self.word_bytes, o_bytes=PIECE_BYTES)
        m.submodules.writer = writer = Writer(word_bytes=self.word_bytes)
        connect(m, reader.o, pieces.i)
        connect(m, reader.memory, flipped(self.read))
        connect(m, writer.memory, flipped(self.write))

        first = Signal(self.lanes)  # active, and the first lane of its slot
        slots = self.token.slot
        for k in range(self.lanes):
            same = [self.token.active[j] & (slots[j] == slots[k]) for j in range(k)]
            home = Signal(range(max(2, self.lanes)), name=f"home_{k}")
            m.d.comb += home.eq(k)
            for j in reversed(range(k)):
                with m.If(same[j]):
                    m.d.comb += home.eq(j)
            m.d.sync += [self.home[k].eq(home), first[k].eq(self.token.active[k] & (home == k))]

        work = Signal(MoveLayout)
        lane = Signal(range(max(2, self.lanes)))
        offset = Signal(BLOCK_BITS, reset_less=True)
        block = Signal(BLOCK_BITS, reset_less=True)
        place = Signal.like(self.state.address)  # in the buffer
        left = Signal.like(work.elements)
        slot = Signal(SLOT_BITS, reset_less=True)  # of the lane, a cycle late: a multiplier follows
        m.d.sync += slot.eq(Array(slots)[lane] if self.lanes > 1 else slots[0])
        per_word = self.word_bytes // PIECE_BYTES
        bits = per_word.bit_length() - 1
        address = Signal(32)
        m.d.comb += [
            address.eq((block << block_word(self.word_bytes)) + (work.address >> bits)),
            reader.address.eq(address),
            reader.words.eq((work.elements + per_word - 1) >> bits),
            self.busy.eq(1),
        ]
        starts = Array(k * self.hidden for k in range(self.lanes))

        # What is read from the buffer waits here for the writer.
        m.submodules.queue = queue = SyncFIFO(width=STATE_BITS, depth=_AHEAD)
        room = Signal(range(_AHEAD + 1), init=_AHEAD)
        coming = Signal(2)
        to_write = Signal.like(left)
        piece = writer.i.payload
        m.d.comb += [
            queue.w_data.eq(self.state.read_data),
            queue.w_en.eq(coming[-1]),
            writer.i.valid.eq(queue.r_rdy),
            queue.r_en.eq(writer.i.ready),
            piece.value.eq(queue.r_data.as_signed()),
            piece.address.eq(address),
            piece.last.eq(to_write == 1),
            self.state.address.eq(place),
            self.state.write_data.eq(pieces.o.payload),
        ]
        freed = writer.i.valid & writer.i.ready
        read = Signal()
        m.d.sync += [coming.eq(coming << 1 | read), room.eq(room - read + freed)]
        with m.If(freed):
            m.d.sync += to_write.eq(to_write - 1)

        def following() -> None:
            m.d.sync += lane.eq(lane + 1)
            m.next = "CHOOSE"
            with m.If(lane == self.lanes - 1):
                m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [self.busy.eq(writer.busy), self.move.ready.eq(~writer.busy)]
                m.d.sync += [work.eq(self.move.payload), lane.eq(0)]
                with m.If(self.move.valid & ~writer.busy):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                m.next = "MULTIPLY"
                with m.If(~first.bit_select(lane, 1)):
                    following()
            with m.State("MULTIPLY"):
                m.d.sync += offset.eq(slot * self.bases[Part.STATE].stride)
                m.next = "ADD"
            with m.State("ADD"):
                m.d.sync += [
                    block.eq(self.bases[Part.STATE].block + offset),
                    place.eq(starts[lane] if self.lanes > 1 else 0),
                    left.eq(work.elements),
                    to_write.eq(work.elements),
                ]
                m.next = "START"
            with m.State("START"):
                m.d.comb += reader.start.eq(~work.keep)
                m.next = "RECALL"
                with m.If(work.keep):
                    m.next = "KEEP"
            with m.State("RECALL"):
                m.d.comb += [pieces.o.ready.eq(left != 0), self.state.write.eq(pieces.o.valid & (left != 0))]
                with m.If(pieces.o.valid & (left != 0)):
                    m.d.sync += [place.eq(place + 1), left.eq(left - 1)]
                with m.If(left == 0):
                    m.next = "REST"
            with m.State("REST"):  # pieces that fill the last word
                m.d.comb += pieces.o.ready.eq(1)
                with m.If(~pieces.o.valid):
                    following()
            with m.State("KEEP"):
                m.d.comb += read.eq((left != 0) & (room != 0))
                with m.If(read):
                    m.d.sync += [place.eq(place + 1), left.eq(left - 1)]
                with m.If((left == 0) & (to_write == 0)):
                    following()
        m.d.comb += self.state.read.eq(read)
        return m
