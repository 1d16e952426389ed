# SPDX-License-Identifier: Apache-2.0
"""Kernels without norms: trits of a weight, sums onto the residual stream, cross-entropy in place."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["add", "cross_entropy", "scaled", "ternarise"]

_PARTS = 512  # programs that share the mean of a matrix
_TILE = 2048


@triton.jit
def _magnitudes(weight, parts, size, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(tl.program_id(0) * BLOCK, size, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.abs(tl.load(weight + at, mask=at < size, other=0.0).to(tl.float32))
    tl.store(parts + tl.program_id(0), tl.sum(total))


@triton.jit
def _trits(weight, parts, scale, t, size, count,  # type: ignore[no-untyped-def]
           KNOWN: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    if KNOWN:
        mean = tl.load(scale)
    else:
        k = tl.arange(0, PARTS)
        mean = tl.sum(tl.load(parts + k, mask=k < count, other=0.0)) / size
        mean = tl.maximum(mean, 1e-5)
        tl.store(scale, mean, mask=tl.program_id(0) == 0)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(weight + at, mask=at < size, other=0.0).to(tl.float32) * (1.0 / mean)
    # round half to even leaves ±0.5 at 0
    v = tl.where(v > 0.5, 1.0, tl.where(v < -0.5, -1.0, 0.0))
    tl.store(t + at, v.to(t.dtype.element_ty), mask=at < size)


@triton.jit
def _add(x, sums, unit, scale, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    worth = tl.load(unit + row) * tl.load(scale)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at, live = row * width + column, column < width
        v = tl.load(x + at, mask=live, other=0.0).to(tl.float32)
        v += tl.load(sums + at, mask=live, other=0.0).to(tl.float32) * worth
        tl.store(out + at, v, mask=live)


@triton.jit
def _scaled(g, unit, out, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    worth = tl.load(unit + row)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        at, live = row * width + column, column < width
        v = tl.load(g + at, mask=live, other=0.0).to(tl.float32) * worth
        tl.store(out + at, v.to(out.dtype.element_ty), mask=live)


@triton.jit
def _cross_entropy(sums, unit, scale, targets, loss, share, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    step = tl.load(unit + row)
    worth = step * tl.load(scale)
    sums += row * width
    target = tl.load(targets + row)
    most = tl.full([BLOCK], -3e38, dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        v = tl.load(sums + column, mask=column < width, other=0.0).to(tl.float32) * worth
        v = tl.where(column < width, v, -1e30)
        new = tl.maximum(most, v)
        total = total * tl.exp(most - new) + tl.exp(v - new)
        most = new
    top = tl.max(most)
    all_of = tl.sum(total * tl.exp(most - top))
    tl.store(loss + row, tl.log(all_of) + top - tl.load(sums + target).to(tl.float32) * worth)
    factor = step * share
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        v = tl.load(sums + column, mask=column < width, other=0.0).to(tl.float32) * worth
        g = (tl.exp(v - top) / all_of - tl.where(column == target, 1.0, 0.0)) * factor
        tl.store(sums + column, g.to(sums.dtype.element_ty), mask=column < width)


def ternarise(weight: Tensor, exact: torch.dtype, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.ternarise`."""
    size = weight.numel()
    t = torch.empty(weight.shape, dtype=exact, device=weight.device)
    known = scale is not None
    count = min(_PARTS, triton.cdiv(size, _TILE))
    if scale is None:
        scale = torch.empty((), dtype=torch.float32, device=weight.device)
        parts = torch.empty(_PARTS, dtype=torch.float32, device=weight.device)
        _magnitudes[(count,)](weight, parts, size, BLOCK=_TILE, num_warps=8)
    else:
        parts = scale
    _trits[(triton.cdiv(size, _TILE),)](weight, parts, scale, t, size, count, KNOWN=known, PARTS=_PARTS,
                                        BLOCK=_TILE, num_warps=8)  # fmt: skip
    return t, scale


def add(x: Tensor, sums: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """See :func:`nomul.train.fused.plain.add`."""
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=torch.float32, device=x.device)
    _add[(rows,)](x, sums, unit, scale, out, width, BLOCK=1024)
    return out


def scaled(g: Tensor, unit: Tensor, exact: torch.dtype) -> Tensor:
    """See :func:`nomul.train.fused.plain.scaled`."""
    rows, width = g.shape
    out = torch.empty(rows, width, dtype=exact, device=g.device)
    _scaled[(rows,)](g.contiguous(), unit, out, width, BLOCK=1024)
    return out


def cross_entropy(
    sums: Tensor, unit: Tensor, scale: Tensor, targets: Tensor, share: float
) -> Tensor:
    """See :func:`nomul.train.fused.plain.cross_entropy`."""
    rows, width = sums.shape
    loss = torch.empty(rows, dtype=torch.float32, device=sums.device)
    _cross_entropy[(rows,)](sums, unit, scale, targets, loss, share, width, BLOCK=2048, num_warps=8)
    return loss
