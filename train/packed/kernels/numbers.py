# SPDX-License-Identifier: Apache-2.0
"""The number contract inside kernels: what :mod:`nomul.train.packed.numbers` defines.

A scalar is a mantissa and an exponent, both int32: what every program computes again must be short.
The widths are those of :mod:`nomul.model.numbers` and ``scalar``; the tests compare the results.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .decode import ASSEMBLY

__all__ = [
    "add", "from_int", "inverse_square", "load", "maximum", "mul", "quantised", "recip", "round_shift", "rsqrt",
    "saturate", "scaled", "sigmoid", "silu", "squares",
]  # fmt: skip


_ASM = tl.constexpr(ASSEMBLY)


@triton.jit
def round_shift(value, shift):  # type: ignore[no-untyped-def]
    half = (tl.full((), 1, tl.int64) << shift) >> 1
    return (value + half) >> shift


@triton.jit
def saturate(value, BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    most = (1 << (BITS - 1)) - 1
    return tl.minimum(tl.maximum(value, -most - 1), most)


@triton.jit
def sigmoid(t, table):  # type: ignore[no-untyped-def]
    value = tl.load(table + tl.minimum(tl.abs(t), 65535)).to(tl.int64)
    return tl.where(t < 0, 65536 - value, value)


@triton.jit
def silu(t, table):  # type: ignore[no-untyped-def]
    return round_shift(t * sigmoid(t, table), 10)


@triton.jit
def _made(mantissa, exponent):  # type: ignore[no-untyped-def]
    zero = (mantissa == 0) | (exponent < -512)
    mantissa = tl.where(exponent > 511, 262143, mantissa)
    exponent = tl.minimum(exponent, 511)
    return tl.where(zero, 0, mantissa), tl.where(zero, 0, exponent)


@triton.jit
def _length(value):  # type: ignore[no-untyped-def]
    """Bits of a natural number below 2⁶³."""
    if _ASM:
        zeros = tl.inline_asm_elementwise("clz.b64 $0, $1;", "=r,l", [value], dtype=tl.int32, is_pure=True, pack=1)
        return 64 - zeros
    rest = value
    length = value * 0
    for k in tl.static_range(6):
        step = 32 >> k
        big = (rest >> step) > 0
        length += tl.where(big, step, 0)
        rest = tl.where(big, rest >> step, rest)
    return (length + rest).to(tl.int32)


@triton.jit
def from_int(value):  # type: ignore[no-untyped-def]
    shift = _length(value) - 18
    mantissa = tl.where(shift > 0, value >> tl.maximum(shift, 0), value << tl.maximum(-shift, 0))
    return mantissa.to(tl.int32), tl.where(value == 0, 0, shift)


@triton.jit
def squares(most, mixed, least):  # type: ignore[no-untyped-def]
    """``(most << 32) + (mixed << 17) + least``, which may exceed 64 bits."""
    top = (most << 15) + mixed + (least >> 17)
    large = top >= (tl.full((), 1, tl.int64) << 45)
    mantissa, exponent = from_int(tl.where(large, top, (top << 17) | (least & 131071)))
    return mantissa, exponent + tl.where(large, 17, 0)


@triton.jit
def mul(am, ae, bm, be):  # type: ignore[no-untyped-def]
    product = am.to(tl.int64) * bm.to(tl.int64)
    shift = 17 + (product >> 35).to(tl.int32)
    return _made((product >> shift).to(tl.int32), ae + be + shift)


@triton.jit
def add(am, ae, bm, be):  # type: ignore[no-untyped-def]
    less = (ae < be) | ((ae == be) & (am < bm))
    hm, he = tl.where(less, bm, am), tl.where(less, be, ae)
    lm, le = tl.where(less, am, bm), tl.where(less, ae, be)
    total = hm + (lm >> tl.minimum(tl.maximum(he - le, 0), 18))
    carry = total >> 18
    m, e = _made(total >> carry, he + carry)
    m, e = tl.where(am == 0, bm, m), tl.where(am == 0, be, e)
    return tl.where(bm == 0, am, m), tl.where(bm == 0, ae, e)


@triton.jit
def _interpolated(segment, fraction, table):  # type: ignore[no-untyped-def]
    return tl.load(table + 2 * segment) - ((tl.load(table + 2 * segment + 1) * fraction + 512) >> 10)


@triton.jit
def load(at):  # type: ignore[no-untyped-def]
    """A scalar from memory, where both parts are int64."""
    return tl.load(at).to(tl.int32), tl.load(at + 1).to(tl.int32)


@triton.jit
def recip(m, e, table):  # type: ignore[no-untyped-def]
    rest = tl.maximum(m - 131072, 0)
    value = _interpolated(rest >> 9, (rest & 511) << 1, table)
    return _made(tl.where(m == 0, 0, value), -35 - e)


@triton.jit
def rsqrt(m, e, table):  # type: ignore[no-untyped-def]
    rest = tl.maximum(m - 131072, 0)
    power = e + 17
    odd = power & 1
    value = _interpolated(256 + 128 * odd + (rest >> 10), rest & 1023, table)
    return _made(tl.where(m == 0, 0, value), -((power - odd) >> 1) - 18)


@triton.jit
def inverse_square(m, e, table):  # type: ignore[no-untyped-def]
    m, e = recip(m, e, table)
    return mul(m, e, m, e)


@triton.jit
def maximum(value):  # type: ignore[no-untyped-def]
    """A maximum as a scalar; a smaller one than 2¹⁷ counts as that."""
    return from_int(tl.maximum(value, 131072))


@triton.jit
def quantised(v, rm, re):  # type: ignore[no-untyped-def]
    """``round(127 · v / max|v|)`` by the reciprocal of the maximum."""
    a = (tl.abs(v) >> (-35 - re)).to(tl.uint32) << 4  # 18 bits, of which (a·factor + 2²⁷) >> 28 is wanted
    factor = ((rm * 127 + 64) >> 7).to(tl.uint32)
    q = (tl.umulhi(a, factor) + ((a * factor) >> 31)).to(tl.int32)
    return tl.where(v < 0, -q, q)


@triton.jit
def scaled(sums, m, e, FRACTION: tl.constexpr):  # type: ignore[no-untyped-def]
    return round_shift(sums * m.to(tl.int64), tl.minimum(tl.maximum(-(e + FRACTION), 0), 63))
