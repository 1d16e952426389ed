# SPDX-License-Identifier: Apache-2.0
"""Widths proved, and roundings and tables held to the bounds that docs/numbers.md gives."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nomul.model import scalar
from nomul.model.numbers import (
    ACT_MAX,
    SIGMA_FRAC,
    SOURCE_BITS,
    STATE_BITS,
    T_BITS,
    T_FRAC,
    acc_bits,
    product_shift,
    round_shift,
    saturate,
    sigma,
)
from nomul.model.scalar import MANTISSA_BITS, ZERO, Scalar

HALF, TOP = 1 << MANTISSA_BITS - 1, 1 << MANTISSA_BITS
LARGEST = Scalar(TOP - 1, 511)
ROWS = range(1, 1 << 14)  # all lengths that a core takes

scalars = st.builds(Scalar, st.integers(HALF, TOP - 1), st.integers(-512, 511))


def exact(value: Scalar) -> Fraction:
    return value.mantissa * Fraction(2) ** value.exponent


def in_range(value: Fraction) -> bool:
    """No saturation, no underflow."""
    return Fraction(HALF) / 2**512 <= value < Fraction(TOP) * 2**511


# Widths


def test_accumulators_hold_every_sum_and_not_a_bit_more():
    for row in ROWS:
        largest, bits = ACT_MAX * row, acc_bits(row)
        assert largest <= (1 << bits - 1) - 1
        assert -largest < -(1 << bits - 2), row  # one bit less would not do


def test_products_fit_and_use_their_bits():
    for row in ROWS:
        shift = product_shift(row)
        # The largest magnitude is that of the most negative state.
        worst = ACT_MAX * row << STATE_BITS - 1
        rounded = worst + ((1 << shift) >> 1) >> shift
        assert rounded < 1 << SOURCE_BITS - 1, row
        assert shift == 0 or worst >> shift - 1 >= 1 << SOURCE_BITS - 2, row


# Roundings


@given(st.integers(-(1 << 60), 1 << 60), st.integers(0, 40))
def test_round_shift_is_to_nearest_ties_upwards(value: int, shift: int):
    expected = math.floor(Fraction(value, 1 << shift) + Fraction(1, 2))
    assert int(round_shift(np.int64(value), shift)) == expected


@pytest.mark.parametrize("bits", [2, 18, 32])
def test_saturation(bits: int):
    least, most = -(1 << bits - 1), (1 << bits - 1) - 1
    values = np.array([least - 1, least, -1, 0, most, most + 1, 1 << 50])
    assert saturate(values, bits).tolist() == [least, least, -1, 0, most, most, most]


# σ


def test_sigma_over_all_arguments():
    t = np.arange(-(1 << T_BITS - 1), 1 << T_BITS - 1)
    found = sigma(t)
    real = 2.0**SIGMA_FRAC / (1 + np.exp(-t / 2.0**T_FRAC))
    assert np.abs(found - real).max() < 1.2
    assert np.all(np.diff(found) >= 0)
    assert found.min() == 0
    assert found.max() == 1 << SIGMA_FRAC
    np.testing.assert_array_equal(found[1:] + found[:0:-1], 1 << SIGMA_FRAC)  # σ(-t) = 1 - σ(t)


# Scalars


@given(st.integers(0, 1 << 90))
def test_integers_are_cut_to_their_leading_bits(value: int):
    made = scalar.from_int(value)
    assert exact(made) <= value
    assert value - exact(made) <= Fraction(value, HALF)
    assert made == ZERO or HALF <= made.mantissa < TOP


@given(st.floats(2.0**-400, 2.0**400))
def test_floats_are_rounded_to_nearest(value: float):
    made = scalar.from_float(value)
    assert HALF <= made.mantissa < TOP
    assert abs(exact(made) - Fraction(value)) <= Fraction(2) ** made.exponent / 2


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_floats_that_are_no_scalars(value: float):
    with pytest.raises(ValueError, match="finite and not negative"):
        scalar.from_float(value)


@given(scalars, scalars)
def test_products_are_truncated(a: Scalar, b: Scalar):
    real = exact(a) * exact(b)
    assume(in_range(real))
    found = scalar.mul(a, b)
    assert HALF <= found.mantissa < TOP
    assert 0 <= real - exact(found) < Fraction(2) ** found.exponent


@given(scalars, scalars, st.integers(-25, 25))
def test_sums_are_truncated(a: Scalar, b: Scalar, apart: int):
    b = Scalar(b.mantissa, max(-512, min(511, a.exponent + apart)))
    real = exact(a) + exact(b)
    assume(in_range(real))
    found = scalar.add(a, b)
    assert found == scalar.add(b, a)
    assert HALF <= found.mantissa < TOP
    # Twice truncated: the smaller operand, then the sum.
    assert 0 <= real - exact(found) < 2 * Fraction(2) ** found.exponent


@pytest.mark.parametrize("exponent", [-17, -16, 0, 3])  # of both parities
def test_reciprocals_and_roots_over_all_mantissas(exponent: int):
    mantissas = range(HALF, TOP, 1 if exponent == 0 else 61)
    value = np.array(mantissas) * 2.0**exponent
    for function, real, bound in (
        (scalar.recip, 1 / value, 1.01 * 2.0**-17),
        (scalar.rsqrt, 1 / np.sqrt(value), 2.0**-16),
    ):
        made = [function(Scalar(m, exponent)) for m in mantissas]
        assert all(HALF <= s.mantissa < TOP for s in made)
        found = np.array([float(s) for s in made])
        assert np.abs(found / real - 1).max() < bound


@given(scalars)
def test_zero(a: Scalar):
    assert scalar.add(a, ZERO) == scalar.add(ZERO, a) == a
    assert scalar.mul(a, ZERO) == scalar.mul(ZERO, a) == ZERO
    assert scalar.recip(ZERO) == scalar.rsqrt(ZERO) == ZERO


def test_exponents_saturate():
    huge, tiny = Scalar(HALF, 511), Scalar(HALF, -512)
    assert scalar.mul(huge, huge) == scalar.add(LARGEST, LARGEST) == LARGEST
    assert scalar.mul(tiny, tiny) == ZERO
    assert scalar.recip(huge) == ZERO  # 2⁻⁵²⁸ has no mantissa of its own
