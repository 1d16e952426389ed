# SPDX-License-Identifier: Apache-2.0
"""From words of one width to words of another."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

__all__ = ["Gearbox"]


class Gearbox(wiring.Component):
    """The same bytes in other words, lowest byte first; output from registers, as fast as the wider side.

    Wider words are taken in the cycle in which the last piece of the one before leaves; narrower ones are
    collected while the word before waits. A cycle of latency behind the last piece; none if both
    widths are equal.

    Parameters
    ----------
    i_bytes, o_bytes : int
        Powers of two.

    Members
    -------
    i : ``In(stream.Signature(8 · i_bytes))``
    o : ``Out(stream.Signature(8 · o_bytes))``
    """

    def __init__(self, *, i_bytes: int, o_bytes: int):
        for name, value in (("i_bytes", i_bytes), ("o_bytes", o_bytes)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"Gearbox: {name} is {value}; it must be a power of two")
        self.i_bytes = i_bytes
        self.o_bytes = o_bytes
        wide, narrow = max(i_bytes, o_bytes), min(i_bytes, o_bytes)
        self.left = Signal(range(wide // narrow + 1))  # pieces of a wide word that are not given yet,
        self.word = Signal(8 * wide, reset_less=True)  # the lowest next
        self.place = Signal(range(max(2, wide // narrow)))  # pieces held for a wide word,
        self.held = Signal(8 * (wide - narrow), reset_less=True)  # the last one highest
        super().__init__(
            {
                "i": In(stream.Signature(unsigned(8 * i_bytes))),
                "o": Out(stream.Signature(unsigned(8 * o_bytes))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.i_bytes == self.o_bytes:
            connect(m, flipped(self.i), flipped(self.o))
        elif self.i_bytes > self.o_bytes:
            pieces, left, word = self.i_bytes // self.o_bytes, self.left, self.word
            m.d.comb += [
                self.o.valid.eq(left != 0),
                self.o.payload.eq(word[: 8 * self.o_bytes]),
                self.i.ready.eq((left == 0) | (left == 1) & self.o.ready),
            ]
            with m.If(self.o.valid & self.o.ready):
                m.d.sync += [left.eq(left - 1), word.eq(word >> 8 * self.o_bytes)]
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += [left.eq(pieces), word.eq(self.i.payload)]
        else:
            pieces, place, held = self.o_bytes // self.i_bytes, self.place, self.held
            is_last = place == pieces - 1
            m.d.comb += self.i.ready.eq(~is_last | ~self.o.valid | self.o.ready)
            with m.If(self.o.ready):
                m.d.sync += self.o.valid.eq(0)
            with m.If(self.i.valid & self.i.ready):
                m.d.sync += [
                    place.eq(Mux(is_last, 0, place + 1)),
                    held.eq(Cat(held, self.i.payload)[8 * self.i_bytes :]),
                ]
                with m.If(is_last):
                    m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(Cat(held, self.i.payload))]
        return m
