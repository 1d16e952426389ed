# SPDX-License-Identifier: Apache-2.0
"""Per-token scalars: a small unsigned floating-point format and its four operations.

A scalar is ``mantissa · 2^exponent`` with a mantissa of 18 bits, 2¹⁷ ≤ mantissa < 2¹⁸, or zero. Results are
truncated; reciprocal and inverse square root interpolate in one table of 512 segments. An exponent beyond 10
signed bits saturates: below it the result is zero, above it the largest scalar.
"""

from __future__ import annotations

from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import numpy as np

__all__ = [
    "EXPONENT_BITS",
    "INVERSE_BASE_BITS",
    "INVERSE_SLOPE_BITS",
    "INVERSE_TABLE",
    "MANTISSA_BITS",
    "ZERO",
    "Scalar",
    "add",
    "from_float",
    "from_int",
    "mul",
    "recip",
    "rsqrt",
]

MANTISSA_BITS = 18
EXPONENT_BITS = 10
_TOP = 1 << MANTISSA_BITS
_HALF = 1 << (MANTISSA_BITS - 1)
_EXPONENT_MAX = (1 << (EXPONENT_BITS - 1)) - 1
_EXPONENT_MIN = -(1 << (EXPONENT_BITS - 1))

INVERSE_BASE_BITS = 18
INVERSE_SLOPE_BITS = 11
INVERSE_STEP_BITS = 10


class Scalar(NamedTuple):
    """``mantissa · 2^exponent``; zero is ``(0, 0)``."""

    mantissa: int
    exponent: int

    def __float__(self) -> float:
        return float(self.mantissa) * 2.0**self.exponent


ZERO = Scalar(0, 0)


def _made(mantissa: int, exponent: int) -> Scalar:
    """A normalised result with its exponent brought into range."""
    if mantissa == 0 or exponent < _EXPONENT_MIN:
        return ZERO
    if exponent > _EXPONENT_MAX:
        return Scalar(_TOP - 1, _EXPONENT_MAX)
    return Scalar(mantissa, exponent)


def _root(numerator: int, segment: int, octave: int) -> int:
    """``numerator / sqrt(2^octave · (1 + segment/128))`` rounded to nearest, in integers."""
    square = (numerator * numerator * 128 * 4) // ((128 + segment) << octave)
    return (isqrt(square) + 1) // 2


def _inverse_table() -> np.ndarray:
    recip = [(2 * (_TOP << 8) // (256 + k) + 1) // 2 for k in range(257)]
    halves = [[_root(_TOP, k, octave) for k in range(129)] for octave in (0, 1)]
    rows = []
    for knots in (recip, *halves):
        rows += [(min(a, _TOP - 1), min(a, _TOP - 1) - b) for a, b in pairwise(knots)]
    table = np.array(rows, dtype=np.int64)
    table.setflags(write=False)
    return table


#: int64 ``[512, 2]``: base and slope (to be subtracted). Segments 0–255: 2¹⁸/x over x in [1, 2);
#: 256–383: 2¹⁸/√x over [1, 2); 384–511: 2¹⁸/√x over [2, 4).
INVERSE_TABLE: np.ndarray = _inverse_table()

_BASE = [int(v) for v in INVERSE_TABLE[:, 0]]
_SLOPE = [int(v) for v in INVERSE_TABLE[:, 1]]


def _interpolate(segment: int, fraction: int) -> int:
    """Table value; ``fraction`` has 10 bits."""
    return _BASE[segment] - (_SLOPE[segment] * fraction + 512 >> INVERSE_STEP_BITS)


def from_int(value: int) -> Scalar:
    """The 18 leading bits of a natural number."""
    if value == 0:
        return ZERO
    shift = value.bit_length() - MANTISSA_BITS
    return Scalar(value >> shift if shift > 0 else value << -shift, shift)


def from_float(value: float) -> Scalar:
    """The nearest scalar of a non-negative float (offline: constants of a program)."""
    if not value >= 0 or value == float("inf"):
        raise ValueError(f"a scalar is finite and not negative, not {value}")
    if value == 0:
        return ZERO
    mantissa, exponent = np.frexp(value)
    m = round(float(mantissa) * _TOP)
    return _made(_HALF, int(exponent) - MANTISSA_BITS + 1) if m == _TOP else _made(m, int(exponent) - MANTISSA_BITS)


def mul(a: Scalar, b: Scalar) -> Scalar:
    """``a · b``, truncated."""
    product = a.mantissa * b.mantissa
    high = product >> (2 * MANTISSA_BITS - 1)
    shift = MANTISSA_BITS - 1 + high
    return _made(product >> shift, a.exponent + b.exponent + shift)


def add(a: Scalar, b: Scalar) -> Scalar:
    """``a + b``; the smaller is truncated to the larger's last place first."""
    if a.mantissa == 0:
        return b
    if b.mantissa == 0:
        return a
    if (a.exponent, a.mantissa) < (b.exponent, b.mantissa):
        a, b = b, a
    total = a.mantissa + (b.mantissa >> min(a.exponent - b.exponent, MANTISSA_BITS))
    carry = total >> MANTISSA_BITS
    return _made(total >> carry, a.exponent + carry)


def recip(a: Scalar) -> Scalar:
    """``1/a`` within 1.01·2⁻¹⁷ of it, relatively; ``1/0`` is zero."""
    if a.mantissa == 0:
        return ZERO
    rest = a.mantissa - _HALF
    return _made(_interpolate(rest >> 9, (rest & 511) << 1), 1 - 2 * MANTISSA_BITS - a.exponent)


def rsqrt(a: Scalar) -> Scalar:
    """``1/√a`` within 2⁻¹⁶ of it, relatively; of zero it is zero."""
    if a.mantissa == 0:
        return ZERO
    rest = a.mantissa - _HALF
    power = a.exponent + MANTISSA_BITS - 1
    odd = power & 1
    segment = 256 + 128 * odd + (rest >> 10)
    return _made(_interpolate(segment, rest & 1023), -((power - odd) >> 1) - MANTISSA_BITS)
