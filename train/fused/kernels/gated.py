# SPDX-License-Identifier: Apache-2.0
"""The two gated products, normed and quantised for the projection that reads them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import inverse_root, partials, quantised, root_backward, row_settings

__all__ = ["glu_quantise", "glu_quantise_backward", "swish_quantise", "swish_quantise_backward"]


@triton.jit
def _swish_forward(g, unit, scale, h, norm, weight, q, unit_o, width,  # type: ignore[no-untyped-def]
                   BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    at = row * width + column
    v = tl.load(g + at, mask=live, other=0.0).to(tl.float32) * (tl.load(unit + row) * tl.load(scale))
    state = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
    z = v * inverse_root(v, width) * tl.load(norm + column, mask=live, other=0.0).to(tl.float32)
    z = z * state * tl.sigmoid(state)
    y = z * inverse_root(z, width) * tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    value, step = quantised(y)
    tl.store(q + at, value.to(q.dtype.element_ty), mask=live)
    tl.store(unit_o + row, step)


@triton.jit
def _swish_backward(back, unit_o, scale_o, g, unit, scale, h, norm, weight,  # type: ignore[no-untyped-def]
                    of_g, of_h, p_norm, p_weight, rows, width, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    live = column < width
    w = tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    wn = tl.load(norm + column, mask=live, other=0.0).to(tl.float32)
    sum_norm = tl.zeros([BLOCK], dtype=tl.float32)
    sum_weight = tl.zeros([BLOCK], dtype=tl.float32)
    scale_v, scale_b = tl.load(scale), tl.load(scale_o)
    first, programs = tl.program_id(0), tl.num_programs(0)
    for index in range(tl.cdiv(rows - first, programs)):
        row = first.to(tl.int64) + index * programs
        at = row * width + column
        step = tl.load(unit + row)
        v = tl.load(g + at, mask=live, other=0.0).to(tl.float32) * (step * scale_v)
        state = tl.load(h + at, mask=live, other=0.0).to(tl.float32)
        r = inverse_root(v, width)
        normed = v * r
        slope = tl.sigmoid(state)
        swish = state * slope
        z = normed * wn * swish
        rz = inverse_root(z, width)
        of_y = tl.load(back + at, mask=live, other=0.0).to(tl.float32) * (scale_b / tl.load(unit_o + row))
        sum_weight += of_y * z * rz
        of_z = root_backward(of_y * w, z, rz, width)
        of_normed = of_z * swish
        sum_norm += of_normed * normed
        of_state = of_z * normed * wn * slope * (1.0 + state * (1.0 - slope))
        tl.store(of_h + at, of_state.to(of_h.dtype.element_ty), mask=live)
        of_v = root_backward(of_normed * wn, v, r, width) * step
        tl.store(of_g + at, of_v.to(of_g.dtype.element_ty), mask=live)
    at = tl.program_id(0).to(tl.int64) * width + column
    tl.store(p_norm + at, sum_norm, mask=live)
    tl.store(p_weight + at, sum_weight, mask=live)


@triton.jit
def _glu_forward(sums, unit, scale, weight, q, unit_d, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    at = row * 2 * width + column
    worth = tl.load(unit + row) * tl.load(scale)
    gate = tl.load(sums + at, mask=live, other=0.0).to(tl.float32) * worth
    up = tl.load(sums + at + width, mask=live, other=0.0).to(tl.float32) * worth
    p = gate * tl.sigmoid(gate) * up
    y = p * inverse_root(p, width) * tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    value, step = quantised(y)
    tl.store(q + row * width + column, value.to(q.dtype.element_ty), mask=live)
    tl.store(unit_d + row, step)


@triton.jit
def _glu_backward(back, unit_d, scale_d, sums, unit, scale, weight, of_sums,  # type: ignore[no-untyped-def]
                  p_weight, rows, width, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    live = column < width
    w = tl.load(weight + column, mask=live, other=0.0).to(tl.float32)
    sum_weight = tl.zeros([BLOCK], dtype=tl.float32)
    scale_v, scale_b = tl.load(scale), tl.load(scale_d)
    first, programs = tl.program_id(0), tl.num_programs(0)
    for index in range(tl.cdiv(rows - first, programs)):
        row = first.to(tl.int64) + index * programs
        at = row * 2 * width + column
        step = tl.load(unit + row)
        gate = tl.load(sums + at, mask=live, other=0.0).to(tl.float32) * (step * scale_v)
        up = tl.load(sums + at + width, mask=live, other=0.0).to(tl.float32) * (step * scale_v)
        slope = tl.sigmoid(gate)
        swish = gate * slope
        p = swish * up
        r = inverse_root(p, width)
        of_y = tl.load(back + row * width + column, mask=live, other=0.0).to(tl.float32)
        of_y *= scale_b / tl.load(unit_d + row)
        sum_weight += of_y * p * r
        of_p = root_backward(of_y * w, p, r, width) * step
        of_gate = of_p * up * slope * (1.0 + gate * (1.0 - slope))
        tl.store(of_sums + at, of_gate.to(of_sums.dtype.element_ty), mask=live)
        tl.store(of_sums + at + width, (of_p * swish).to(of_sums.dtype.element_ty), mask=live)
    tl.store(p_weight + tl.program_id(0).to(tl.int64) * width + column, sum_weight, mask=live)


def _values(rows: int, like: Tensor) -> Tensor:
    return torch.empty(rows, dtype=torch.float32, device=like.device)


def swish_quantise(
    g: Tensor, unit: Tensor, scale: Tensor, h: Tensor, norm: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.swish_quantise`."""
    rows, width = g.shape
    q, unit_o = torch.empty_like(g), _values(rows, g)
    _swish_forward[(rows,)](g, unit, scale, h, norm, weight, q, unit_o, width, **row_settings(width))
    return q, unit_o


def swish_quantise_backward(
    back: Tensor, unit_o: Tensor, scale_o: Tensor, g: Tensor, unit: Tensor, scale: Tensor, h: Tensor, norm: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See :func:`nomul.train.fused.plain.swish_quantise_backward`."""
    rows, width = g.shape
    of_g, of_h = torch.empty_like(g), torch.empty_like(g)
    programs = partials(rows, g.device)
    parts = torch.empty(2, programs, width, dtype=torch.float32, device=g.device)
    _swish_backward[(programs,)](back, unit_o, scale_o, g, unit, scale, h, norm, weight, of_g, of_h,
                                 parts[0], parts[1], rows, width, **row_settings(width))  # fmt: skip
    sums = parts.sum(1)
    return of_g, of_h, sums[0], sums[1]


def glu_quantise(
    sums: Tensor, unit: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.glu_quantise`."""
    rows, width = len(sums), sums.shape[1] // 2
    q = torch.empty(rows, width, dtype=sums.dtype, device=sums.device)
    unit_d = _values(rows, sums)
    _glu_forward[(rows,)](sums, unit, scale, weight, q, unit_d, width, **row_settings(width))
    return q, unit_d


def glu_quantise_backward(
    back: Tensor, unit_d: Tensor, scale_d: Tensor, sums: Tensor, unit: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.glu_quantise_backward`."""
    rows, width = len(sums), sums.shape[1] // 2
    of_sums = torch.empty_like(sums)
    programs = partials(rows, sums.device)
    parts = torch.empty(programs, width, dtype=torch.float32, device=sums.device)
    _glu_backward[(programs,)](back, unit_d, scale_d, sums, unit, scale, weight, of_sums, parts,
                               rows, width, **row_settings(width))  # fmt: skip
    return of_sums, parts.sum(0)
