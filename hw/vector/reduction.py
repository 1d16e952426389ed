# SPDX-License-Identifier: Apache-2.0
"""The reduction of a vector: what RMSNorm and absmax quantisation need to know of it."""

from __future__ import annotations

from amaranth import C, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import MAX_BITS, MAXIMA, NORM_LATENCY, SQUARES_BITS, NormSignature
from nomul.model.numbers import NORM_BITS, SOURCE_BITS, VECTOR_LANES

from .arithmetic import delay, magnitude, multiply, rounded, square, total

__all__ = ["Reduction"]

_FETCHES = MAXIMA + 1
_ADDRESS_BITS = 20


class Reduction(wiring.Component):
    """``max |element · norm|`` for up to three vectors, and ``Σ round(|element · norm| / 2¹⁵)²``.

    The norm vectors lie one behind the other; the one of the squares is behind those of the maxima.
    An element is announced four cycles ahead: the first of each four fetches the words of its group
    in the order squares, maximum 0, 1, 2, one a cycle, and the multipliers form a chain in the same
    order, each a cycle behind the one before, so a word is there when the first element reaches its
    multiplier and stays until the fourth has left it. There is nothing to wait for and nothing to
    prefetch.

    .. code-block:: text

        cycle    0        1      2      3      4          5        6        7        8      9
        fetch    squares  max 0  max 1  max 2  next group
        element                                × squares  × max 0  × max 1  × max 2
        result                                                                       max 0  squares

    Maxima 1 and 2 are right at 9 and 10.

    Parameters
    ----------
    lanes : int

    Members
    -------
    start : ``In(1)``
        A vector begins; two cycles or more before its first ``fetch``. Clears the statistics,
        unless ``forget``, which is read now; the other fields stand until the last element is in
        the statistics.
    address : ``In(20)``
        Word where the norm vectors begin.
    elements : ``In(17)``
    vectors : ``In(2)``
    square : ``In(1)``
        0: the squares take the elements as they are.
    forget : ``In(1)``
        No reduction: the vector at ``address`` comes out at ``lower``.
    fetch : ``In(1)``
        An element comes in four cycles.
    magnitude : ``In(ArrayLayout(unsigned(32), lanes))``
        ``|element|``.
    lower : ``Out(16)``
        Four cycles after ``fetch``.
    norm : ``Out(NormSignature())``
    max : ``Out(ArrayLayout(ArrayLayout(unsigned(47), lanes), 3))``
        Of a ``vectors`` that is less, the others are 0.
    squares : ``Out(ArrayLayout(unsigned(80), lanes))``
    """

    def __init__(self, *, lanes: int):
        if lanes < 1:
            raise ValueError(f"Reduction has at least 1 lane, not {lanes}")
        self.lanes = lanes
        super().__init__({
            "start": In(1),
            "address": In(_ADDRESS_BITS),
            "elements": In(17),
            "vectors": In(2),
            "square": In(1),
            "forget": In(1),
            "fetch": In(1),
            "magnitude": In(data.ArrayLayout(unsigned(SOURCE_BITS), lanes)),
            "lower": Out(NORM_BITS),
            "norm": Out(NormSignature()),
            "max": Out(data.ArrayLayout(data.ArrayLayout(unsigned(MAX_BITS), lanes), MAXIMA)),
            "squares": Out(data.ArrayLayout(unsigned(SQUARES_BITS), lanes)),
        })

    @staticmethod
    def latency(vectors: int) -> int:
        """Cycles from an element's ``fetch`` until it is in the statistics."""
        return max(9, 7 + vectors)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # A ring of four addresses: the foremost is at the port, and goes to the back increased.
        words = Signal(15)
        started, forget = Signal(), Signal()
        with m.If(self.start):
            m.d.sync += forget.eq(self.forget)
        ring = Signal(data.ArrayLayout(_ADDRESS_BITS, _FETCHES))
        m.d.sync += [words.eq((self.elements + VECTOR_LANES - 1) >> 2), started.eq(self.start)]
        fetched = Signal(range(_FETCHES))
        place = Signal(2)
        begin = self.fetch & (place == 0)
        stepping = begin | (fetched != 0)
        with m.If(self.fetch):
            m.d.sync += place.eq(place + 1)
        with m.If(stepping):
            m.d.sync += fetched.eq(fetched + 1)
            m.d.sync += [ring[k].eq(ring[k + 1]) for k in range(_FETCHES - 1)]
            m.d.sync += ring[_FETCHES - 1].eq(ring[0] + 1)
        with m.If(started):
            count = self.vectors & (~forget).replicate(2)
            behind = Mux(count[0], words, 0) + Mux(count[1], words << 1, 0)
            m.d.sync += [
                place.eq(0),
                ring[0].eq(self.address + behind),
                ring[1].eq(self.address),
                ring[2].eq(self.address + words),
                ring[3].eq(self.address + (words << 1)),
            ]
        m.d.comb += self.norm.address.eq(ring[0])

        # Words as magnitudes; a chain of operands.
        arriving = delay(m, stepping, NORM_LATENCY, name="arriving", strobe=True)[-1]
        which = delay(m, fetched, NORM_LATENCY, name="which")[-1]
        first_use = NORM_LATENCY + 1
        places = delay(m, place, first_use + MAXIMA, name="place")
        valids = delay(m, self.fetch & ~forget, 8 + MAXIMA, name="valid", strobe=True)
        operands = []
        for k in range(_FETCHES):
            word = Signal(data.ArrayLayout(NORM_BITS, VECTOR_LANES), name=f"word_{k}", reset_less=True)
            operand = Signal(NORM_BITS, name=f"operand_{k}", reset_less=True)
            with m.If(arriving & (which == k)):
                m.d.sync += word.eq(self.norm.data)
            chosen = word[places[first_use + k]].as_signed()
            raw = forget if k == 0 else C(0, 1)
            m.d.sync += operand.eq(magnitude(chosen, chosen[-1] & ~raw))
            if k == 0:
                m.d.comb += self.lower.eq(operand)
                with m.If(~self.square & ~forget):
                    m.d.sync += operand.eq(1 << NORM_BITS - 1)
            operands.append(operand)

        for lane in range(self.lanes):
            chain = delay(m, self.magnitude[lane], MAXIMA, name=f"magnitude_{lane}")
            z = Signal(SOURCE_BITS, name=f"z_{lane}", reset_less=True)
            z_square = Signal(2 * SOURCE_BITS, name=f"z_square_{lane}", reset_less=True)
            m.d.sync += [
                z.eq(rounded(multiply(m, chain[0], operands[0]), NORM_BITS - 1)),
                z_square.eq(total(square(m, z))),
            ]
            squares = self.squares[lane]
            with m.If(valids[8]):
                m.d.sync += squares.eq(squares + z_square)
            with m.If(self.start & ~self.forget):
                m.d.sync += squares.eq(0)
            for k in range(MAXIMA):
                v = Signal(MAX_BITS, name=f"v_{lane}_{k}", reset_less=True)
                most = self.max[k][lane]
                m.d.sync += v.eq(total(multiply(m, chain[k + 1], operands[k + 1])))
                with m.If(valids[7 + k] & (self.vectors > k) & (v > most)):
                    m.d.sync += most.eq(v)
                with m.If(self.start & ~self.forget):
                    m.d.sync += most.eq(0)
        return m
