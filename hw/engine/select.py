# SPDX-License-Identifier: Apache-2.0
"""The engine that decodes trits, selects activations and adds them: nothing to build."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data

from .accumulate import LEAD
from .ports import Engine
from .tree import adder_tree, delay, tree_stages

__all__ = ["SelectEngine"]

#: Levels of adders between two registers.
_LEVELS = 2


def decode(byte: Value) -> list[Value]:
    """Digits (0, 1 or 2 for the trits 0, +1, -1) of a weight byte: the ASTC trit block decoder."""
    b = [byte[k] for k in range(8)]
    top = b[4] & b[3] & b[2]
    c = Mux(top, Cat(b[0], b[1], b[5], b[6], b[7]), Cat(*b[:5]))
    two = Const(2, 2)
    high = Mux(b[6] & b[5], Cat(b[7], Const(0, 1), two), Cat(b[5], b[6], b[7], Const(0, 1)))
    high = Mux(top, Cat(two, two), high)
    low = Mux(
        c[1] & c[0],
        Cat(c[2] & ~c[3], c[3], c[4], Const(0, 1), two),
        Mux(
            c[3] & c[2],
            Cat(c[0], c[1], two, two),
            Cat(c[0] & ~c[1], c[1], c[2], c[3], c[4], Const(0, 1)),
        ),
    )
    return [low[0:2], low[2:4], low[4:6], high[0:2], high[2:4]]


def _pair(acts: Sequence[data.View], digits: Sequence[Value]) -> Value:
    """Sum of two products (or one, if there is but one).

    The first is a choice of activation, negative and 0. The second is the activation, its bits
    inverted, or 0, made in the adder's own LUTs; the one that completes its negative is a carry.
    """
    act, digit = acts[0], digits[0]
    one = (act.plus.as_unsigned() & digit[0].replicate(8)) | (
        act.minus.as_unsigned() & digit[1].replicate(8))
    if len(acts) == 1:
        return one.as_signed()
    act, plus, minus = acts[1], digits[1][0], digits[1][1]
    bits = act.plus.as_unsigned()
    other = (bits & plus.replicate(8)) | (~bits & minus.replicate(8))
    return (Cat(Const(1, 1), one).as_signed() + Cat(minus, other).as_signed())[1:].as_signed()


class SelectEngine(Engine):
    """Ternary engine that decodes each byte and adds activations, their negatives, or nothing.

    Products are selected and added in pairs (:func:`_pair`); the adder tree above has two levels
    between registers. Nothing is built: the first weight beat of a chunk may be taken in the cycle
    after its last activations. The activations of the next chunk are taken while one streams.

    .. code-block:: text

        cycle     0           1        2           3             4 …  depth   depth+1  depth+2
                  beat taken  decoded  pairs made  4 levels in        2 left  summed   offered

    Parameters, attributes and members are those of :class:`nomul.hw.engine.ports.Engine`.
    """

    prepare = 1

    @property
    def depth(self) -> int:
        """Register stages from a beat being taken to its terms reaching the accumulator."""
        return max(LEAD, 1 + self._stages)

    @property
    def _stages(self) -> int:
        """Register stages from the digits to the last two terms: pairs, then the tree."""
        return 1 + tree_stages(-(-self.chunk // 2), levels=_LEVELS, remain=2)

    @property
    def chunk_interval(self) -> int:
        """Cycles from a chunk's first beat to the next one's at the earliest: it fills anew."""
        return self.beats_per_chunk + 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = self.lanes * self.chunk
        pair = data.StructLayout({"plus": signed(8), "minus": signed(8)})
        vector = data.ArrayLayout(pair, count)

        # The next chunk shifts in here, lane 0 first, …
        coming, is_coming = Signal(vector, reset_less=True), Signal()
        loaded = Signal()
        m.d.comb += [
            self.acts.ready.eq(~is_coming),
            loaded.eq(self.acts.valid & self.acts.ready & self.acts.payload.last),
        ]
        with m.If(self.acts.valid & self.acts.ready):
            new = [Cat(x, (-x)[:8]) for x in self.acts.payload.x]
            m.d.sync += coming.eq(Cat(coming.as_value()[pair.size * self.acts_per_beat:], *new))

        # … and stands here while its weights stream; a beat needs it in the cycle after its own.
        now, is_now, available = Signal(vector, reset_less=True), Signal(), Signal()
        walk = self.connect_walk(m, available=available)
        with m.If(~is_now):
            m.d.sync += now.eq(coming)
        m.d.sync += [
            is_now.eq(available & ~walk.end),
            is_coming.eq(loaded | (is_coming & is_now)),
            available.eq(loaded | (is_coming & is_now) | (available & ~walk.end)),
        ]

        digits = []
        for byte in self.weights.payload:
            for digit in decode(byte):
                register = Signal(2, reset_less=True)
                m.d.sync += register.eq(digit)
                digits.append(register)

        lanes = []
        for lane in range(self.lanes):
            acts = [now[lane * self.chunk + k] for k in range(self.chunk)]
            terms = [_pair(acts[k:k + 2], digits[k:k + 2]) for k in range(0, self.chunk, 2)]
            terms = [delay(m, term) for term in terms]
            terms = adder_tree(m, terms, levels=_LEVELS, remain=2)
            for _ in range(self.depth - 1 - self._stages):
                terms = [delay(m, term) for term in terms]
            lanes.append(terms)
        self.connect_terms(m, walk, lanes)
        return m
