# SPDX-License-Identifier: Apache-2.0
"""Integers as the fabric likes them: products in multiplier-sized pieces, rounding by a carry."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import C, Cat, Module, Mux, Signal, Value
from amaranth.hdl import Shape, signed, unsigned

__all__ = [
    "add_carry",
    "clamp",
    "delay",
    "magnitude",
    "multiply",
    "outside",
    "rounded",
    "square",
    "total",
]

PIECE = 17  #: Bits of an unsigned piece: with a sign it fills one side of an 18-bit multiplier.


def _split(value: Value) -> list[Value]:
    """Pieces of ``value``, lowest first, each but the last of 17 bits and unsigned."""
    pieces = []
    while len(value) > PIECE + value.shape().signed:
        pieces.append(value[:PIECE])
        value = value[PIECE:].as_signed() if value.shape().signed else value[PIECE:]
    return [*pieces, value]


def _register(m: Module, value: Value) -> Signal:
    signal = Signal(value.shape(), reset_less=True)
    m.d.sync += signal.eq(value)
    return signal


def multiply(m: Module, a: Value, b: Value) -> list[tuple[Signal, int]]:
    """Registered partial products of ``a · b``, a multiplier each: ``(signal, weight exponent)``.

    One cycle later :func:`total` or :func:`rounded` of them is the product.
    """
    return [
        (_register(m, x * y), PIECE * (i + j))
        for i, x in enumerate(_split(a))
        for j, y in enumerate(_split(b))
    ]


def square(m: Module, value: Value) -> list[tuple[Signal, int]]:
    """As :func:`multiply` of an unsigned value of at most 34 bits and itself: 3 multipliers."""
    low, high = value[:PIECE], value[PIECE:]
    return [
        (_register(m, low * low), 0),
        (_register(m, low * high), PIECE + 1),
        (_register(m, high * high), 2 * PIECE),
    ]


def total(parts: Sequence[tuple[Value, int]]) -> Value:
    """The sum of partial products; the lowest is added only where others reach.

    The lowest and the highest of four lie side by side, so no more than three operands are added.
    """
    if len(parts) == 1:
        return parts[0][0]
    (low, _), *others = parts
    rest = sorted(others, key=lambda part: part[1])
    start = rest[0][1]
    top: Value = low[start:].as_signed() if low.shape().signed else low[start:]
    if rest[-1][1] >= len(low) and not low.shape().signed:
        last, at = rest.pop()
        top = Cat(low[start:], C(0, at - len(low)), last)
        top = top.as_signed() if last.shape().signed else top
    high = sum((part << at - start for part, at in rest), start=top)
    joined = Cat(low[:start], high)
    return joined.as_signed() if high.shape().signed else joined


def rounded(parts: Sequence[tuple[Value, int]], drop: int) -> Value:
    """``round(product / 2^drop)``, ties upwards; one or two parts, ``1 <= drop <= 17``."""
    low = parts[0][0]
    top = low[drop:].as_signed() if low.shape().signed else low[drop:]
    other: Value = C(0)
    if len(parts) > 1:
        (_, (other, at)) = parts
        other = other << at - drop
    return add_carry(top, other, low[drop - 1])


def add_carry(a: Value, b: Value, carry: Value) -> Value:
    """``a + b + carry`` on one carry chain."""

    def extended(value: Value, below: Value) -> Value:
        joined = Cat(below, value)
        return joined.as_signed() if value.shape().signed else joined

    value = extended(a, C(1, 1)) + extended(b, carry)
    return value[1:].as_signed() if value.shape().signed else value[1:]


def magnitude(value: Value, negative: Value | None = None) -> Value:
    """``|value|`` of a signed value, unsigned and as wide; ``negative`` may replace its sign."""
    negative = value[-1] if negative is None else negative
    return ((value ^ negative.replicate(len(value))).as_unsigned() + negative)[: len(value)]


def outside(value: Value, bits: int) -> Value:
    """Whether a signed value does not fit ``signed(bits)``."""
    top = value[bits - 1 :]
    return top.any() & ~top.all()


def clamp(value: Value, bits: int) -> Value:
    """A signed value limited to ``signed(bits)``."""
    if len(value) <= bits:
        return value
    negative = value[-1]
    limit = Cat((~negative).replicate(bits - 1), negative)
    return Mux(outside(value, bits), limit, value[:bits]).as_signed()


def delay(
    m: Module, value: Value, cycles: int, *, name: str, strobe: bool = False
) -> list[Value]:
    """``value`` and its copies after 1 to ``cycles`` cycles; registers named ``name_1`` and on.

    A reset clears those of a ``strobe``; nobody looks at data without one.
    """
    chain = [value]
    for k in range(1, cycles + 1):
        shape = Shape.cast(value.shape())
        kind = signed(shape.width) if shape.signed else unsigned(shape.width)
        stage = Signal(kind, name=f"{name}_{k}", reset_less=not strobe)
        m.d.sync += stage.eq(chain[-1])
        chain.append(stage)
    return chain
