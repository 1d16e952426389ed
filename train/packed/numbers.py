# SPDX-License-Identifier: Apache-2.0
"""The number contract in PyTorch: what :mod:`nomul.model.numbers` and ``scalar`` define, on tensors of int64.

A scalar is a tensor ``[..., 2]``: mantissa, exponent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nomul.model.numbers import ACT_MAX, SIGMA_FRAC, sigma
from nomul.model.scalar import EXPONENT_BITS, INVERSE_TABLE, MANTISSA_BITS, Scalar

__all__ = [
    "MAX_FLOOR", "Tables", "add", "constant", "from_int", "mul", "quantise", "recip", "round_shift", "rsqrt",
    "saturate", "scaled", "sigmoid", "sum_of_squares",
]  # fmt: skip

MAX_FLOOR = 1 << (MANTISSA_BITS - 1)  #: A smaller maximum counts as this.
_HALF, _TOP = 1 << (MANTISSA_BITS - 1), 1 << MANTISSA_BITS
_EXPONENT_MAX = (1 << (EXPONENT_BITS - 1)) - 1


class Tables:
    """The contract's tables on a device: σ of every magnitude, and the inverses' bases and slopes, int32."""

    def __init__(self, device: torch.device):
        magnitudes = sigma(np.arange(1 << 16))
        self.sigma = torch.from_numpy(magnitudes.astype(np.int32)).to(device)
        self.inverse = torch.from_numpy(INVERSE_TABLE.astype(np.int32)).to(device)


def constant(value: Scalar, device: torch.device) -> Tensor:
    """A scalar of the program."""
    return torch.tensor([value.mantissa, value.exponent], dtype=torch.int64, device=device)


def round_shift(value: Tensor, shift: Tensor | int) -> Tensor:
    """``value / 2^shift`` to nearest, ties upwards."""
    one = torch.ones((), dtype=torch.int64, device=value.device)
    return (value + (one << shift >> 1)) >> shift


def saturate(value: Tensor, bits: int) -> Tensor:
    """Clamps to a signed integer of ``bits``."""
    return value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def sigmoid(t: Tensor, tables: Tables) -> Tensor:
    """σ of Q5.12, Q0.16."""
    value = tables.sigma[t.abs().clamp_max(65535)].long()
    return torch.where(t < 0, (1 << SIGMA_FRAC) - value, value)


def _made(mantissa: Tensor, exponent: Tensor) -> Tensor:
    zero = (mantissa == 0) | (exponent < -_EXPONENT_MAX - 1)
    top = exponent > _EXPONENT_MAX
    mantissa = torch.where(top, _TOP - 1, mantissa).masked_fill(zero, 0)
    return torch.stack([mantissa, exponent.clamp_max(_EXPONENT_MAX).masked_fill(zero, 0)], -1)


def from_int(value: Tensor) -> Tensor:
    """The 18 leading bits of natural numbers below 2⁶³."""
    rest, length = value, torch.zeros_like(value)
    for step in (32, 16, 8, 4, 2, 1):
        big = rest >> step > 0
        rest = torch.where(big, rest >> step, rest)
        length = length + big * step
    shift = length + rest - MANTISSA_BITS
    mantissa = torch.where(shift > 0, value >> shift.clamp_min(0), value << (-shift).clamp_min(0))
    return torch.stack([mantissa, shift.masked_fill(value == 0, 0)], -1)


def sum_of_squares(z: Tensor) -> Tensor:
    """Σ z² over the last axis as a scalar, ``0 ≤ z ≤ 2³¹``: the sum may exceed 64 bits."""
    high, low = z >> 16, z & 0xFFFF
    most, mixed, least = (high * high).sum(-1), (high * low).sum(-1), (low * low).sum(-1)
    top = (most << 15) + mixed + (least >> 17)
    large = top >= 1 << 45
    small = (torch.where(large, 0, top) << 17) | (least & 0x1FFFF)
    made = from_int(torch.where(large, top, small))
    made[..., 1] += 17 * large
    return made


def mul(a: Tensor, b: Tensor) -> Tensor:
    """``a · b``, truncated."""
    product = a[..., 0] * b[..., 0]
    shift = MANTISSA_BITS - 1 + (product >> (2 * MANTISSA_BITS - 1))
    return _made(product >> shift, a[..., 1] + b[..., 1] + shift)


def add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``; the smaller is truncated first."""
    a, b = torch.broadcast_tensors(a, b)
    less = (a[..., 1] < b[..., 1]) | ((a[..., 1] == b[..., 1]) & (a[..., 0] < b[..., 0]))
    big, small = torch.where(less[..., None], b, a), torch.where(less[..., None], a, b)
    total = big[..., 0] + (small[..., 0] >> (big[..., 1] - small[..., 1]).clamp(0, MANTISSA_BITS))
    carry = total >> MANTISSA_BITS
    made = _made(total >> carry, big[..., 1] + carry)
    made = torch.where(a[..., :1] == 0, b, made)
    return torch.where(b[..., :1] == 0, a, made)


def _interpolate(segment: Tensor, fraction: Tensor, tables: Tables) -> Tensor:
    base, slope = tables.inverse[segment].long().unbind(-1)
    return base - (slope * fraction + 512 >> 10)


def recip(a: Tensor, tables: Tables) -> Tensor:
    """``1/a``; of zero it is zero."""
    rest = (a[..., 0] - _HALF).clamp_min(0)
    value = _interpolate(rest >> 9, (rest & 511) << 1, tables)
    return _made(value.masked_fill(a[..., 0] == 0, 0), 1 - 2 * MANTISSA_BITS - a[..., 1])


def rsqrt(a: Tensor, tables: Tables) -> Tensor:
    """``1/√a``; of zero it is zero."""
    rest = (a[..., 0] - _HALF).clamp_min(0)
    power = a[..., 1] + MANTISSA_BITS - 1
    odd = power & 1
    value = _interpolate(256 + 128 * odd + (rest >> 10), rest & 1023, tables)
    return _made(value.masked_fill(a[..., 0] == 0, 0), -((power - odd) >> 1) - MANTISSA_BITS)


def quantise(v: Tensor, reciprocal: Tensor) -> Tensor:
    """``round(127 · v / max|v|)`` of rows ``[N, K]`` by the reciprocals of their maxima, ``[N, 2]``; int8."""
    shift = 1 - 2 * MANTISSA_BITS - reciprocal[:, 1:]
    factor = reciprocal[:, :1] * ACT_MAX + 64 >> 7
    q = (v.abs() >> shift) * factor + (1 << 27) >> 28
    return torch.where(v < 0, -q, q).to(torch.int8)


def scaled(sums: Tensor, scale: Tensor, fraction: int) -> Tensor:
    """Sums ``[N, n]`` times a scalar a row, with so many fraction bits."""
    shift = (-(scale[:, 1:] + fraction)).clamp(0, 63)
    return round_shift(sums * scale[:, :1], shift)
