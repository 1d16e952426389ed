# SPDX-License-Identifier: Apache-2.0
"""Multiply, shift, add: the one arithmetic path of every pass."""

from __future__ import annotations

from amaranth import C, Cat, Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.model.numbers import SOURCE_BITS, STATE_BITS

from .arithmetic import multiply, total

__all__ = ["Scaler"]

_SHIFT_BITS = 6


class Scaler(wiring.Component):
    """``total = base + round(a · b / 2^shift)``, ties upwards, exact, one a cycle.

    .. code-block:: text

        cycle   0        1         2      3      4
                a, b     products  sum    base   total
                         shift            shifted by multiples of 4

    Parameters
    ----------
    width : int
        Bits of ``a``; 18 take 2 multipliers, up to 35 take 4.

    Attributes
    ----------
    latency : int
        Cycles from ``a`` to ``total``.

    Members
    -------
    a : ``In(signed(width))``
    b : ``In(signed(24))``
    shift : ``In(6)``
        One cycle after ``a``.
    base : ``In(signed(32))``
        Three cycles after ``a``.
    total : ``Out(signed(width + 25))``
    """

    latency = 4

    def __init__(self, *, width: int):
        if not 2 <= width <= 35:
            raise ValueError(f"Scaler takes sums of 2 to 35 bits, not {width}")
        self.width = width
        self.total_bits = max(width + STATE_BITS, SOURCE_BITS) + 1
        super().__init__({
            "a": In(signed(width)),
            "b": In(signed(STATE_BITS)),
            "shift": In(_SHIFT_BITS),
            "base": In(signed(SOURCE_BITS)),
            "total": Out(signed(self.total_bits)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.width + STATE_BITS
        product = Signal(signed(bits), reset_less=True)
        parts = multiply(m, self.a, self.b)
        m.d.sync += product.eq(total(parts))
        shift = Signal(_SHIFT_BITS, reset_less=True)
        m.d.sync += shift.eq(self.shift)

        # One bit below the point is kept: it is the rounding carry.
        coarse = Signal(signed(bits + 1), reset_less=True)
        fine = Signal(2, reset_less=True)
        below = Cat(C(0, 1), product).as_signed()
        m.d.sync += [coarse.eq(below >> Cat(C(0, 2), shift[2:])), fine.eq(shift[:2])]
        shifted = coarse >> fine
        result = Signal(self.total.shape(), reset_less=True)
        m.d.sync += result.eq((shifted + Cat(C(1, 1), self.base).as_signed()) >> 1)
        m.d.comb += self.total.eq(result)
        return m
