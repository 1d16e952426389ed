# SPDX-License-Identifier: Apache-2.0
"""Packed matrices times many rows of activations on the int8 tensor cores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..layout import PackedMatrix
from .decode import ASSEMBLY, trits

__all__ = ["products"]


@triton.jit
def _products(words, q, sums, rows, outputs, group, line, padded,  # type: ignore[no-untyped-def]
              PLANES: tl.constexpr, ASM: tl.constexpr, EVEN: tl.constexpr,
              OUT: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """``words`` are bytes, ``line`` a row; ``group`` outputs share an activation."""
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    out_live, row_live = out < outputs, row < rows
    q += (tl.program_id(0) * OUT // group).to(tl.int64) * rows * padded
    place = tl.arange(0, DEPTH)
    at_w = words + out.to(tl.int64)[:, None] * line + place[None, :]
    at_q = q + row.to(tl.int64)[None, :] * padded + place[:, None]
    total = tl.zeros((OUT, ROWS), dtype=tl.int32)
    ones = tl.zeros((ROWS,), dtype=tl.int32)
    for start in range(0, line, DEPTH):
        if EVEN:
            w = tl.load(at_w + start)
        else:
            w = tl.load(at_w + start, mask=out_live[:, None] & (start + place < line)[None, :], other=0)
        for s in tl.static_range(PLANES):
            if EVEN:
                a = tl.load(at_q + start + s * line, mask=row_live[None, :], other=0)
            else:
                a = tl.load(at_q + start + s * line, mask=(start + place < line)[:, None] & row_live[None, :], other=0)
            total = tl.dot(trits(w, s, PLANES, ASM), a, total, out_dtype=tl.int32)
            ones += tl.sum(a.to(tl.int32), 0)
    made = tl.trans(total - ones[None, :])
    at = sums + row.to(tl.int64)[:, None] * outputs + out[None, :]
    tl.store(at, made, mask=row_live[:, None] & out_live[None, :])


def products(q: Tensor, matrix: PackedMatrix) -> Tensor:
    """See :func:`nomul.train.packed.plain.products`."""
    count, rows, padded = q.shape
    line = 4 * matrix.words.shape[1]
    group = matrix.outputs // count
    wide = 32 if rows <= 32 else 64 if rows <= 64 else 128
    out = 64 if rows <= 64 else 128
    while group % out:  # a tile has one activation
        out //= 2
    depth = 64 if line % 128 else 128
    sums = torch.empty(rows, matrix.outputs, dtype=torch.int32, device=q.device)
    settings = {"OUT": max(out, 16), "ROWS": wide, "DEPTH": depth}
    if out < 16 and count > 1:
        settings["OUT"] = out
    grid = (triton.cdiv(matrix.outputs, settings["OUT"]), triton.cdiv(rows, wide))
    _products[grid](
        matrix.words.view(torch.uint8), q, sums, rows, matrix.outputs, group, line, padded,
        PLANES=matrix.planes, ASM=ASSEMBLY, EVEN=line % depth == 0 and matrix.outputs % settings["OUT"] == 0,
        num_warps=4 if wide <= 64 else 8, num_stages=3, **settings)  # fmt: skip
    return sums
