# SPDX-License-Identifier: Apache-2.0
"""Writes runs of 32-bit pieces to memory, in bursts."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import MemoryCommandLayout, MemorySignature

__all__ = ["PIECE_BYTES", "PieceLayout", "Writer"]

PIECE_BYTES = 4
_BURST = 16  # words; a distributed RAM holds as many

#: A piece; with the first of a run ``address``, of its word; ``last`` ends a run.
PieceLayout = data.StructLayout({"value": 32, "address": 32, "last": 1})


class Writer(wiring.Component):
    """Packs pieces to words, lowest first, and writes bursts of up to 16 of them.

    A run begins with a word; its last word is filled up with what comes to hand. A burst is
    commanded when all of it is there, so nobody waits for its words.

    Parameters
    ----------
    word_bytes : int
        A power of two, at least 4.

    Members
    -------
    i : ``In(stream.Signature(PieceLayout))``
    busy : ``Out(1)``
        Pieces were taken that are not yet written.
    memory : ``Out(MemorySignature(word_bytes))``
        Only written.
    """

    def __init__(self, *, word_bytes: int):
        if word_bytes < PIECE_BYTES or word_bytes & (word_bytes - 1):
            raise ValueError(
                f"Writer: word_bytes is {word_bytes}; it must be a power of two, at least {PIECE_BYTES}"
            )
        self.word_bytes = word_bytes
        self.words = SyncFIFO(width=8 * word_bytes, depth=_BURST)  # of a burst
        self.inside = Signal()  # a run has begun
        self.begin = Signal(32)  # address of the burst that is collected,
        self.count = Signal(range(_BURST + 1))  # and how many words of it there are
        self.to_write = Signal(range(_BURST + 1))  # words of the burst commanded
        super().__init__({
            "i": In(stream.Signature(PieceLayout)),
            "busy": Out(1),
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        pieces = self.word_bytes // PIECE_BYTES
        memory, piece = self.memory, self.i.payload
        m.submodules.words = words = self.words
        inside, begin, count, to_write = self.inside, self.begin, self.count, self.to_write
        held = Signal(unsigned(8 * self.word_bytes), reset_less=True)
        place = Signal(range(max(2, pieces)))
        command = Signal(MemoryCommandLayout)
        full = place == pieces - 1
        word_ends = full | piece.last
        sending = to_write != 0
        m.d.comb += [
            self.i.ready.eq(~sending & ~memory.command.valid & words.w_rdy),
            words.w_data.eq(Cat(held, piece.value)[32:]),
        ]
        address = Mux(inside, begin, piece.address)
        taken = self.i.valid & self.i.ready
        if pieces > 1:
            # The pieces of a word that ends early lie where they belong: lowest first.
            lowest = Signal(8 * self.word_bytes)
            with m.Switch(place):
                for k in range(pieces):
                    with m.Case(k):
                        m.d.comb += lowest.eq(
                            Cat(held[32 * (pieces - k) :], piece.value)[: 8 * self.word_bytes]
                        )
            m.d.comb += words.w_data.eq(lowest)
        m.d.comb += words.w_en.eq(taken & word_ends)
        ends = word_ends & (piece.last | ((address + count + 1)[:4] == 0) | (count == _BURST - 1))
        with m.If(taken):
            m.d.sync += [
                held.eq(Cat(held, piece.value)[32:]),
                place.eq(Mux(word_ends, 0, place + 1)),
                inside.eq(~piece.last),
                begin.eq(address),
            ]
            with m.If(word_ends):
                m.d.sync += count.eq(count + 1)
            with m.If(ends):
                m.d.sync += [
                    memory.command.valid.eq(1),
                    command.address.eq(address),
                    command.last.eq(count),
                    count.eq(0),
                    begin.eq(address + count + 1),
                ]
        m.d.comb += [
            command.write.eq(1),
            memory.command.payload.eq(command),
            memory.write.valid.eq(sending & words.r_rdy),
            memory.write.payload.eq(words.r_data),
            words.r_en.eq(sending & memory.write.ready),
            self.busy.eq(inside | sending | memory.command.valid | words.r_rdy),
        ]
        with m.If(memory.command.valid & memory.command.ready):
            m.d.sync += [memory.command.valid.eq(0), to_write.eq(command.last + 1)]
        with m.If(memory.write.valid & memory.write.ready):
            m.d.sync += to_write.eq(to_write - 1)
        return m
