# SPDX-License-Identifier: Apache-2.0
"""The recurrence from the sums of both gates: σ, SiLU, lower bound and scan in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["mix", "mix_backward"]

_TILE = {"TIME": 64, "CHANNELS": 32}


@triton.jit
def _combine(f_left, b_left, f_right, b_right):  # type: ignore[no-untyped-def]
    return f_left * f_right, f_right * b_left + b_right


@triton.jit
def _value(sums, at, mask, unit, row, live_row, scale):  # type: ignore[no-untyped-def]
    """A tile of what a BitLinear gives, ``[TIME, CHANNELS]``."""
    worth = tl.load(unit + row, mask=live_row, other=0.0) * tl.load(scale)
    return tl.load(sums + at, mask=mask, other=0.0).to(tl.float32) * worth[:, None]


@triton.jit
def _forward(i, f, units, s_i, s_f, bound, h0, h, last, rows, length, width,  # type: ignore[no-untyped-def]
             TIME: tl.constexpr, CHANNELS: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = channel < width
    step = tl.arange(0, TIME)
    low = tl.load(bound + channel, mask=live, other=0.0).to(tl.float32)
    carry = tl.load(h0 + batch * width + channel, mask=live, other=0.0).to(tl.float32)
    for start in range(0, length, TIME):
        t = start + step
        row = batch * length + t
        inside = t < length
        at = row[:, None] * width + channel[None, :]
        mask = inside[:, None] & live[None, :]
        vi = _value(i, at, mask, units, row, inside, s_i)
        vf = _value(f, at, mask, units + rows, row, inside, s_f)
        decay = low[None, :] + (1.0 - low[None, :]) * tl.sigmoid(vf)
        decay = tl.where(inside[:, None], decay, 1.0)
        b = vi * tl.sigmoid(vi) * (1.0 - decay)
        decay, b = tl.associative_scan((decay, b), 0, _combine)
        state = b + decay * carry[None, :]
        tl.store(h + at, state.to(h.dtype.element_ty), mask=mask)
        carry = tl.sum(tl.where((step == TIME - 1)[:, None], state, 0.0), 0)
    tl.store(last + batch * width + channel, carry, mask=live)


@triton.jit
def _backward(of_h, of_last, i, f, units, s_i, s_f, bound, h0, h,  # type: ignore[no-untyped-def]
              of_i, of_f, p_bound, of_h0, rows, length, width,
              TIME: tl.constexpr, CHANNELS: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    live = channel < width
    step = tl.arange(0, TIME)
    low = tl.load(bound + channel, mask=live, other=0.0).to(tl.float32)
    first = tl.load(h0 + batch * width + channel, mask=live, other=0.0).to(tl.float32)
    carry = tl.load(of_last + batch * width + channel, mask=live, other=0.0).to(tl.float32)
    sum_bound = tl.zeros([CHANNELS], dtype=tl.float32)
    of_first = tl.zeros([CHANNELS], dtype=tl.float32)
    for start in range(0, length, TIME):
        t = length - 1 - start - step
        row = batch * length + t
        inside = t >= 0
        at = row[:, None] * width + channel[None, :]
        mask = inside[:, None] & live[None, :]
        vi = _value(i, at, mask, units, row, inside, s_i)
        vf = _value(f, at, mask, units + rows, row, inside, s_f)
        follows = inside & (t < length - 1)
        later = _value(f, at + width, mask & follows[:, None], units + rows, row + 1, follows, s_f)
        sigma = tl.sigmoid(vf)
        decay = low[None, :] + (1.0 - low[None, :]) * sigma
        decay_later = low[None, :] + (1.0 - low[None, :]) * tl.sigmoid(later)
        decay_later = tl.where(follows[:, None], decay_later, 1.0)
        g = tl.load(of_h + at, mask=mask, other=0.0).to(tl.float32)
        scanned, g = tl.associative_scan((decay_later, g), 0, _combine)
        g = g + scanned * carry[None, :]
        before = tl.load(h + at - width, mask=mask & (t > 0)[:, None], other=0.0).to(tl.float32)
        before = tl.where((t == 0)[:, None], first[None, :], before)
        slope = tl.sigmoid(vi)
        of_decay = g * (before - vi * slope)
        unit_i = tl.load(units + row, mask=inside, other=0.0)
        unit_f = tl.load(units + rows + row, mask=inside, other=0.0)
        made = g * (1.0 - decay) * slope * (1.0 + vi * (1.0 - slope)) * unit_i[:, None]
        tl.store(of_i + at, made.to(of_i.dtype.element_ty), mask=mask)
        made = of_decay * (1.0 - low[None, :]) * sigma * (1.0 - sigma) * unit_f[:, None]
        tl.store(of_f + at, made.to(of_f.dtype.element_ty), mask=mask)
        sum_bound += tl.sum(tl.where(mask, of_decay * (1.0 - sigma), 0.0), 0)
        of_first += tl.sum(tl.where((t == 0)[:, None], decay * g, 0.0), 0)
        carry = tl.sum(tl.where((step == TIME - 1)[:, None], g, 0.0), 0)
    tl.store(p_bound + batch * width + channel, sum_bound, mask=live)
    tl.store(of_h0 + batch * width + channel, of_first, mask=live)


def mix(
    i: Tensor, f: Tensor, units: Tensor, scales: Sequence[Tensor], bound: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.mix`."""
    (rows, width), batch = i.shape, len(h0)
    h0 = h0.contiguous()
    h, last = torch.empty_like(i), torch.empty(batch, width, dtype=torch.float32, device=i.device)
    grid = (batch, triton.cdiv(width, _TILE["CHANNELS"]))
    _forward[grid](i, f, units, *scales, bound, h0, h, last, rows, rows // batch, width, **_TILE)
    return h, last


def mix_backward(
    of_h: Tensor, of_last: Tensor, i: Tensor, f: Tensor, units: Tensor, scales: Sequence[Tensor], bound: Tensor,
    h0: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See :func:`nomul.train.fused.plain.mix_backward`."""
    (rows, width), batch = i.shape, len(h0)
    h0 = h0.contiguous()
    h, _ = mix(i, f, units, scales, bound, h0)
    of_i, of_f = torch.empty_like(i), torch.empty_like(f)
    parts = torch.empty(2, batch, width, dtype=torch.float32, device=i.device)
    grid = (batch, triton.cdiv(width, _TILE["CHANNELS"]))
    _backward[grid](of_h, of_last.contiguous(), i, f, units, *scales, bound, h0, h, of_i, of_f,
                    parts[0], parts[1], rows, rows // batch, width, **_TILE)  # fmt: skip
    return of_i, of_f, parts[0].sum(0), parts[1]
