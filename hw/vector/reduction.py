# SPDX-License-Identifier: Apache-2.0
"""The reduction of a vector: what RMSNorm and absmax quantisation need to know of it."""

from __future__ import annotations

from amaranth import C, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import MAX_BITS, MAXIMA, NORM_LATENCY, SQUARES_BITS, NormSignature
from nomul.model.numbers import NORM_BITS, SOURCE_BITS, VECTOR_LANES

from .arithmetic import delay, magnitude, multiply, rounded, square, total
from .turns import LaneRegister, TagLayout, lane_bits, tagged

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

    Maxima 1 and 2 are right at 9 and 10. When the next lane's turn comes (:mod:`.turns`), the addresses step back
    to the groups of that turn.

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
    tag : ``In(TagLayout(lanes))``
        With ``fetch``.
    magnitude : ``In(unsigned(32))``
        ``|element|``.
    lower : ``Out(16)``
        Four cycles after ``fetch``.
    norm : ``Out(NormSignature())``
    lane : ``In(…)``
        Whose statistics are shown, in the same cycle, while no element is on its way.
    max : ``Out(ArrayLayout(unsigned(47), 3))``
        Of a ``vectors`` that is less, the others are 0.
    squares : ``Out(unsigned(80))``
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
            "tag": In(TagLayout(lanes)),
            "magnitude": In(SOURCE_BITS),
            "lower": Out(NORM_BITS),
            "norm": Out(NormSignature()),
            "lane": In(lane_bits(lanes)),
            "max": Out(data.ArrayLayout(unsigned(MAX_BITS), MAXIMA)),
            "squares": Out(SQUARES_BITS),
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
            m.d.sync += place.eq(Mux(self.tag.last, 0, place + 1))
        onwards = Signal(_ADDRESS_BITS)
        m.d.comb += onwards.eq(ring[0] + 1)
        with m.If(stepping):
            m.d.sync += fetched.eq(fetched + 1)
            m.d.sync += [ring[k].eq(ring[k + 1]) for k in range(_FETCHES - 1)]
            m.d.sync += ring[_FETCHES - 1].eq(onwards)
        if self.lanes > 1:  # a second ring: where the turn began
            turn = Signal.like(ring)
            tail, end = Signal(), Signal()  # of the turn; of all lanes' turns
            held_tail, held_end = Signal(), Signal()
            m.d.comb += [
                tail.eq(Mux(begin, self.tag.tail, held_tail)),
                end.eq(Mux(begin, self.tag.lane == self.lanes - 1, held_end)),
            ]
            m.d.sync += [held_tail.eq(tail), held_end.eq(end)]
            with m.If(stepping):
                m.d.sync += [turn[k].eq(turn[k + 1]) for k in range(_FETCHES - 1)]
                m.d.sync += turn[_FETCHES - 1].eq(Mux(tail & end, onwards, turn[0]))
                with m.If(tail & ~end):
                    m.d.sync += ring[_FETCHES - 1].eq(turn[0])
        with m.If(started):
            count = self.vectors & (~forget).replicate(2)
            behind = Mux(count[0], words, 0) + Mux(count[1], words << 1, 0)
            firsts = [
                self.address + behind,
                self.address,
                self.address + words,
                self.address + (words << 1),
            ]
            m.d.sync += place.eq(0)
            m.d.sync += [address.eq(first) for address, first in zip(ring, firsts, strict=True)]
            if self.lanes > 1:
                m.d.sync += [address.eq(first) for address, first in zip(turn, firsts, strict=True)]
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

        tags = tagged(m, self.tag, 7 + MAXIMA, self.lanes, "tag")

        def statistic(name: str, bits: int, cycle: int) -> LaneRegister:
            """Changed by what is there so many cycles after ``fetch``."""
            register = LaneRegister(shape=unsigned(bits), lanes=self.lanes)
            m.submodules[name] = register
            m.d.comb += [
                register.start.eq(self.start & ~self.forget),
                register.enter.eq(valids[cycle - 1] & tags[cycle - 1].first),
                register.enter_lane.eq(tags[cycle - 1].lane),
                register.leave.eq(valids[cycle] & tags[cycle].last),
                register.lane.eq(tags[cycle].lane),
                register.asked.eq(self.lane),
            ]
            return register

        chain = delay(m, self.magnitude, MAXIMA, name="magnitude")
        z = Signal(SOURCE_BITS, reset_less=True)
        z_square = Signal(2 * SOURCE_BITS, reset_less=True)
        m.d.sync += [
            z.eq(rounded(multiply(m, chain[0], operands[0]), NORM_BITS - 1)),
            z_square.eq(total(square(m, z))),
        ]
        squares = statistic("statistic_squares", SQUARES_BITS, 8)
        m.d.comb += [
            squares.change.eq(valids[8]),
            squares.changed.eq(squares.value + z_square),
            self.squares.eq(squares.answer),
        ]
        for k in range(MAXIMA):
            v = Signal(MAX_BITS, name=f"v_{k}", reset_less=True)
            m.d.sync += v.eq(total(multiply(m, chain[k + 1], operands[k + 1])))
            most = statistic(f"statistic_max_{k}", MAX_BITS, 7 + k)
            m.d.comb += [
                most.change.eq(valids[7 + k] & (self.vectors > k) & (v > most.value)),
                most.changed.eq(v),
                self.max[k].eq(most.answer),
            ]
        return m
