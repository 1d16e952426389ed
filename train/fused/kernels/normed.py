# SPDX-License-Identifier: Apache-2.0
"""Both norms before a BitLinear and its quantisation, for up to three that read the same vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows import inverse_root, partials, quantised, root_backward, row_settings

__all__ = ["norm_quantise", "norm_quantise_backward"]


@triton.jit
def _forward(x, block, w0, w1, w2, q, unit, rows, width,  # type: ignore[no-untyped-def]
             COUNT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    n = tl.load(x + row * width + column, mask=live, other=0.0).to(tl.float32)
    n = n * inverse_root(n, width) * tl.load(block + column, mask=live, other=0.0).to(tl.float32)
    n = n * inverse_root(n, width)
    for k in tl.static_range(COUNT):
        w = w0 if k == 0 else (w1 if k == 1 else w2)
        value, step = quantised(n * tl.load(w + column, mask=live, other=0.0).to(tl.float32))
        at = row + k * rows
        tl.store(q + at * width + column, value.to(q.dtype.element_ty), mask=live)
        tl.store(unit + at, step)


@triton.jit
def _weight_part(back, unit, scale, w, normed, row, width, column, live):  # type: ignore[no-untyped-def]
    """Gradient of the doubly normed row from one BitLinear, and of that one's norm weight."""
    factor = tl.load(scale).to(tl.float32) / tl.load(unit + row)
    g = tl.load(back + row * width + column, mask=live, other=0.0).to(tl.float32) * factor
    return g * tl.load(w + column, mask=live, other=0.0).to(tl.float32), g * normed


@triton.jit
def _backward(b0, b1, b2, unit, s0, s1, s2, x, block, w0, w1, w2, residual, of_x,  # type: ignore[no-untyped-def]
              p_block, p0, p1, p2, rows, width, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    live = column < width
    wb = tl.load(block + column, mask=live, other=0.0).to(tl.float32)
    sum_block = tl.zeros([BLOCK], dtype=tl.float32)
    sum0 = tl.zeros([BLOCK], dtype=tl.float32)
    sum1 = tl.zeros([BLOCK], dtype=tl.float32)
    sum2 = tl.zeros([BLOCK], dtype=tl.float32)
    first, programs = tl.program_id(0), tl.num_programs(0)
    for index in range(tl.cdiv(rows - first, programs)):
        row = first.to(tl.int64) + index * programs
        v = tl.load(x + row * width + column, mask=live, other=0.0).to(tl.float32)
        r = inverse_root(v, width)
        n = v * r * wb
        rn = inverse_root(n, width)
        g, part = _weight_part(b0, unit, s0, w0, n * rn, row, width, column, live)
        sum0 += part
        if COUNT > 1:
            more, part = _weight_part(b1, unit + rows, s1, w1, n * rn, row, width, column, live)
            g += more
            sum1 += part
        if COUNT > 2:
            more, part = _weight_part(b2, unit + 2 * rows, s2, w2, n * rn, row, width, column, live)
            g += more
            sum2 += part
        g = root_backward(g, n, rn, width)
        sum_block += g * v * r
        g = root_backward(g * wb, v, r, width)
        g += tl.load(residual + row * width + column, mask=live, other=0.0).to(tl.float32)
        tl.store(of_x + row * width + column, g, mask=live)
    at = tl.program_id(0).to(tl.int64) * width + column
    tl.store(p_block + at, sum_block, mask=live)
    tl.store(p0 + at, sum0, mask=live)
    if COUNT > 1:
        tl.store(p1 + at, sum1, mask=live)
    if COUNT > 2:
        tl.store(p2 + at, sum2, mask=live)


def _three(values: Sequence[Tensor]) -> list[Tensor]:
    """Filled up to three; the kernel does not read what is repeated."""
    return [*values, *[values[0]] * (3 - len(values))]


def norm_quantise(x: Tensor, block: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """See :func:`nomul.train.fused.plain.norm_quantise`."""
    rows, width = x.shape
    q = torch.empty(len(weights), rows, width, dtype=x.dtype, device=x.device)
    unit = torch.empty(len(weights), rows, dtype=torch.float32, device=x.device)
    _forward[(rows,)](x, block, *_three(weights), q, unit, rows, width, COUNT=len(weights),
                      **row_settings(width))  # fmt: skip
    return q, unit


def norm_quantise_backward(
    back: Sequence[Tensor], units: Tensor, scales: Sequence[Tensor], x: Tensor, block: Tensor,
    weights: Sequence[Tensor], residual: Tensor,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """See :func:`nomul.train.fused.plain.norm_quantise_backward`."""
    (rows, width), count = x.shape, len(weights)
    residual = residual.contiguous()
    of_x = torch.empty(rows, width, dtype=torch.float32, device=x.device)
    programs = partials(rows, x.device)
    parts = torch.empty(1 + count, programs, width, dtype=torch.float32, device=x.device)
    _backward[(programs,)](
        *_three(back), units, *_three(scales), x, block, *_three(weights), residual, of_x,
        parts[0], *_three(list(parts[1:])), rows, width, COUNT=count, **row_settings(width),
    )
    sums = parts.sum(1)
    return of_x, sums[0], list(sums[1:])
