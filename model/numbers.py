# SPDX-License-Identifier: Apache-2.0
"""The number contract: every width, rounding and table, once.

Hardware, golden model and compiler take their numbers from here. ``docs/numbers.md`` gives the reasons.
All values are integers; ``Qi.f`` means ``value · 2⁻ᶠ`` with ``i`` integer bits besides the sign.

=========  ======================  ==========================================================
name       format                  what
=========  ======================  ==========================================================
act        signed 8, -127..127     quantised activation
acc        signed, by row length   sum of ternary products, exact
source     signed 32               element of the residual stream (Q15.16) or of a product vector
norm       signed 16, 2⁻ᵉ          folded norm weight, one exponent a vector
t          signed 18, Q5.12        argument of σ
sigma      unsigned 17, Q0.16      σ(t), 0..65536
state      signed 24, Q5.18        recurrent state h, and silu values
scalar     18-bit mantissa, 2ᵉ     per-token scalar, :mod:`nomul.model.scalar`
=========  ======================  ==========================================================
"""

from __future__ import annotations

import decimal

import numpy as np

__all__ = [
    "ACT_MAX",
    "NORM_BITS",
    "SIGMA_FRAC",
    "SIGMA_TABLE",
    "SOURCE_BITS",
    "STATE_BITS",
    "STATE_FRAC",
    "T_BITS",
    "T_FRAC",
    "VECTOR_LANES",
    "X_FRAC",
    "acc_bits",
    "product_shift",
    "round_shift",
    "saturate",
    "sigma",
]

ACT_MAX = 127  #: Largest magnitude of a quantised activation.
SOURCE_BITS = 32  #: Element of the residual stream or of a product vector.
X_FRAC = 16  #: Fraction bits of the residual stream.
NORM_BITS = 16  #: Folded norm weight, signed, one exponent a vector.
T_BITS = 18  #: Argument of σ.
T_FRAC = 12
SIGMA_FRAC = 16  #: σ is 0..2¹⁶, both ends included.
STATE_BITS = 24  #: Recurrent state, and results of SiLU.
STATE_FRAC = 18
VECTOR_LANES = 4  #: Elements a cycle that the quantiser reads; norm weights are stored in words of so many.

SIGMA_INDEX_BITS = 9
SIGMA_STEP_BITS = 7  # σ is tabulated over |t| in [0, 16): 512 segments of 2⁷ steps of 2⁻¹²


def acc_bits(row: int) -> int:
    """Width of a signed accumulator that holds any sum over ``row`` ternary weights: ``|sum| ≤ 127·row``."""
    return (ACT_MAX * row).bit_length() + 1


def product_shift(row: int) -> int:
    """Right shift that makes any ``acc · state`` product of a row fit a source element, never overflowing."""
    return max(0, (ACT_MAX * row).bit_length() + (STATE_BITS - 1) - (SOURCE_BITS - 1))


def round_shift(value: np.ndarray, shift: int | np.ndarray) -> np.ndarray:
    """``value / 2^shift`` rounded to nearest, ties upwards: add half, shift arithmetically."""
    half = np.left_shift(np.int64(1), shift) >> 1
    return (value + half) >> shift


def saturate(value: np.ndarray, bits: int) -> np.ndarray:
    """Clamps to the range of a signed integer of ``bits``."""
    return np.clip(value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _sigma_table() -> np.ndarray:
    """Base (Q0.18) and slope of each segment of σ over ``t ≥ 0``; exact decimal arithmetic, so the same everywhere."""
    with decimal.localcontext() as context:
        context.prec = 40
        step = decimal.Decimal(1 << SIGMA_STEP_BITS) / (1 << T_FRAC)
        knots = [
            int((decimal.Decimal(1 << 18) / (1 + (-step * k).exp())).to_integral_value())
            for k in range((1 << SIGMA_INDEX_BITS) + 1)
        ]
    base = np.minimum(np.array(knots, dtype=np.int64), (1 << 18) - 1)
    table = np.stack([base[:-1], np.diff(base)], axis=1)
    table.setflags(write=False)
    return table


#: int64 ``[512, 2]``: base (18 bits, unsigned) and slope (12 bits, unsigned) of each segment of σ.
SIGMA_TABLE: np.ndarray = _sigma_table()

SIGMA_BASE_BITS = 18
SIGMA_SLOPE_BITS = 12


def _sigma_all() -> np.ndarray:
    """σ of every magnitude below 16: the interpolation evaluated once, int64 ``[65536]``."""
    a = np.arange(1 << (SIGMA_INDEX_BITS + SIGMA_STEP_BITS))
    base, slope = SIGMA_TABLE[a >> SIGMA_STEP_BITS].T
    value = base + round_shift(slope * (a & ((1 << SIGMA_STEP_BITS) - 1)), SIGMA_STEP_BITS)
    return round_shift(value, 18 - SIGMA_FRAC)


_SIGMA_ALL = _sigma_all()


def sigma(t: np.ndarray) -> np.ndarray:
    """The logistic function by an interpolated table.

    ``|t|`` is limited to just below 16; σ(-t) = 1 - σ(t). Within 1.3·2⁻¹⁶ of the real function.

    Parameters
    ----------
    t : ndarray of int64, Q5.12

    Returns
    -------
    ndarray of int64, Q0.16, 0..65536
    """
    value = _SIGMA_ALL[np.minimum(np.abs(t), _SIGMA_ALL.size - 1)]
    return np.where(t < 0, (1 << SIGMA_FRAC) - value, value)
