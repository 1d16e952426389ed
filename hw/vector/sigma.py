# SPDX-License-Identifier: Apache-2.0
"""σ by interpolation in a table, and what is made of it in passing: SiLU and the forget gate."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.numbers import (
    NORM_BITS,
    SIGMA_BASE_BITS,
    SIGMA_FRAC,
    SIGMA_SLOPE_BITS,
    SIGMA_STEP_BITS,
    SIGMA_TABLE,
    STATE_BITS,
    STATE_FRAC,
    T_BITS,
    T_FRAC,
)

from .arithmetic import add_carry, clamp, delay, multiply, rounded

__all__ = ["Activation", "Sigma"]

_INDEX_BITS = (len(SIGMA_TABLE) - 1).bit_length()
_SPAN = _INDEX_BITS + SIGMA_STEP_BITS  # |t| below 2^span is in the table


class Sigma(wiring.Component):
    """The logistic function, one value a cycle, five cycles later.

    One block RAM of 512 segments, one multiplier. Equals :func:`nomul.model.numbers.sigma`.

    Parameters
    ----------
    width : int
        Bits of ``t``; at least 18.

    Attributes
    ----------
    latency : int
        Cycles from ``t`` to ``sigma``.

    Members
    -------
    t : ``In(signed(width))``
        Q.12; beyond ±16 it counts as ±16.
    complement : ``In(1)``
        Makes it ``1 - σ(t)``.
    sigma : ``Out(17)``
        Q0.16, 0 to 65536.
    """

    latency = 5

    def __init__(self, *, width: int):
        if width < T_BITS:
            raise ValueError(f"Sigma takes arguments of at least {T_BITS} bits, not {width}")
        self.width = width
        super().__init__({
            "t": In(signed(width)),
            "complement": In(1),
            "sigma": Out(SIGMA_FRAC + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = [int(base) | int(slope) << SIGMA_BASE_BITS for base, slope in SIGMA_TABLE]
        m.submodules.table = rom = memory.Memory(
            shape=unsigned(SIGMA_BASE_BITS + SIGMA_SLOPE_BITS), depth=len(table), init=table
        )
        read = rom.read_port()

        # Cycle 1: |t|, limited; it addresses the table.
        negative = self.t[-1]
        bits = self.t.as_unsigned() ^ negative.replicate(self.width)
        low = bits[:_SPAN] + negative
        beyond = bits[_SPAN:].any() | low[_SPAN]
        a = Signal(_SPAN, reset_less=True)
        m.d.sync += a.eq(low[:_SPAN] | beyond.replicate(_SPAN))
        m.d.comb += read.addr.eq(a[SIGMA_STEP_BITS:])
        fraction = delay(m, a[:SIGMA_STEP_BITS], 2, name="fraction")[-1]
        flip = delay(m, negative ^ self.complement, 4, name="flip")[-1]

        # Cycle 3: base and slope; 4: rise; 5: σ.
        entry = Signal(SIGMA_BASE_BITS + SIGMA_SLOPE_BITS, reset_less=True)
        m.d.sync += entry.eq(read.data)
        base = delay(m, entry[:SIGMA_BASE_BITS], 1, name="base")[-1]
        rise = multiply(m, entry[SIGMA_BASE_BITS:], fraction)[0][0]

        # Q0.18, then rounded to Q0.16; 1 - x by inversion and the rounding carry.
        value = add_carry(base, rise[SIGMA_STEP_BITS:], rise[SIGMA_STEP_BITS - 1])
        drop = SIGMA_BASE_BITS - SIGMA_FRAC
        width = SIGMA_FRAC + 1
        kept = Cat(value[drop:], Const(0, width))[:width] ^ flip.replicate(width)
        result = (kept + (value[drop - 1] ^ flip))[:width]
        sigma = Signal(SIGMA_FRAC + 1, reset_less=True)
        m.d.sync += sigma.eq(result ^ (flip << SIGMA_FRAC))
        m.d.comb += self.sigma.eq(sigma)
        return m


class Activation(wiring.Component):
    """SiLU, or the forget gate's complement, of one value a cycle, six cycles later.

    Parameters
    ----------
    width : int
        Bits of ``t``; at least 18.

    Attributes
    ----------
    latency : int
        Cycles from ``t`` to ``silu`` or ``keep``.

    Members
    -------
    t : ``In(signed(width))``
        Q.12, limited to 18 bits here.
    forget : ``In(1)``
        With ``t``: the result is ``keep``, else ``silu``.
    lower : ``In(16)``
        The lower bound, Q0.16, one cycle after ``t``.
    hold : ``In(1)``
        Five cycles after ``t``: both results stay as they are.
    silu : ``Out(signed(24))``
        ``t · σ(t)``, Q5.18. Rounded behind the last register: the receiver registers it.
    keep : ``Out(17)``
        ``(1 - lower) · (1 - σ(t))``, Q0.16.
    """

    latency = Sigma.latency + 1

    def __init__(self, *, width: int):
        if width < T_BITS:
            raise ValueError(f"Activation takes arguments of at least {T_BITS} bits, not {width}")
        self.width = width
        super().__init__({
            "t": In(signed(width)),
            "forget": In(1),
            "lower": In(NORM_BITS),
            "hold": In(1),
            "silu": Out(signed(STATE_BITS)),
            "keep": Out(SIGMA_FRAC + 1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sigma = sigma = Sigma(width=self.width)
        m.d.comb += [sigma.t.eq(self.t), sigma.complement.eq(self.forget)]

        t = delay(m, clamp(self.t, T_BITS), sigma.latency - 1, name="t")[-1]
        forget = delay(m, self.forget, sigma.latency - 1, name="forget")[-1]
        rest = Signal(SIGMA_FRAC + 1, reset_less=True)
        m.d.sync += rest.eq((1 << SIGMA_FRAC) - self.lower)
        rest_now = delay(m, rest, sigma.latency - 3, name="rest")[-1]
        factor = Signal(signed(T_BITS), reset_less=True)
        m.d.sync += factor.eq(Mux(forget, rest_now, t))
        product = Signal(signed(T_BITS + SIGMA_FRAC + 1), reset_less=True)
        with m.If(~self.hold):
            m.d.sync += product.eq(factor * sigma.sigma)
        m.d.comb += [
            self.silu.eq(rounded([(product, 0)], T_FRAC + SIGMA_FRAC - STATE_FRAC)),
            self.keep.eq(rounded([(product, 0)], SIGMA_FRAC)),
        ]
        return m
