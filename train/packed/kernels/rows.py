# SPDX-License-Identifier: Apache-2.0
"""The vector unit for many rows: one program a row, or a block of channels where time is in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..numbers import Tables
from .numbers import (
    add,
    from_int,
    inverse_square,
    load,
    maximum,
    mul,
    quantised,
    recip,
    round_shift,
    rsqrt,
    saturate,
    scaled,
    sigmoid,
    silu,
    squares,
)

__all__ = ["embed", "glu", "mix", "output", "residual"]


@triton.jit
def _embed(values, scale, tokens, x, shift, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    token = tl.load(tokens + row)
    v = tl.load(values + token * width + column, mask=live, other=0).to(tl.int64)
    made = round_shift(v * tl.load(scale + token).to(tl.int64), shift)
    tl.store(x + row * width + column, made.to(tl.int32), mask=live)


@triton.jit
def row_squares(z):  # type: ignore[no-untyped-def]
    high, low = z >> 16, z & 65535
    return squares(tl.sum(high * high), tl.sum(high * low), tl.sum(low * low))


@triton.jit
def _store_scalar(at, m, e):  # type: ignore[no-untyped-def]
    tl.store(at, m)
    tl.store(at + 1, e)


@triton.jit
def _quantise_row(source, norm, column, live, rm, re, constant, q, padded, scale, table):  # type: ignore[no-untyped-def]
    """Quantises a row into ``q``, zeros behind it; stores and returns the scale of its sums."""
    v = source * tl.load(norm + column, mask=live, other=0).to(tl.int64)
    mm, me = maximum(tl.max(tl.abs(v)))
    im, ie = recip(mm, me, table)
    tl.store(q + column, quantised(v, im, ie).to(tl.int8), mask=column < padded)
    sm, se = mul(rm, re, mm, me)
    cm, ce = load(constant)
    sm, se = mul(sm, se, cm, ce)
    _store_scalar(scale, sm, se)
    return sm, se


@triton.jit
def _residual(x, sums, scale, out, norms, square, constants, q, scales, extra, table,  # type: ignore[no-untyped-def]
              rows, width, padded, ADD: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    v = tl.load(x + row * width + column, mask=live, other=0).to(tl.int64)
    if ADD:
        s = tl.load(sums + row * width + column, mask=live, other=0).to(tl.int64)
        sm, se = load(scale + 2 * row)
        v = saturate(v + scaled(s, sm, se, 16), 32)
        tl.store(out + row * width + column, v.to(tl.int32), mask=live)
    z = tl.abs(v) * tl.abs(tl.load(square + column, mask=live, other=0).to(tl.int64))
    zm, ze = row_squares(round_shift(z, 15))
    cm, ce = load(constants)
    zm, ze = add(zm, ze, cm, ce)
    rm, re = rsqrt(zm, ze, table)
    for k in tl.static_range(COUNT):
        at = row + k * rows
        sm, se = _quantise_row(v, norms + k * width, column, live, rm, re, constants + 2 + 2 * k,
                               q + at * padded, padded, scales + 2 * at, table)
    em, ee = inverse_square(sm, se, table)
    _store_scalar(extra + 2 * row, em, ee)


@triton.jit
def _mix(sums, scales, lower, state, product, table, rows, length, width, shift,  # type: ignore[no-untyped-def]
         BLOCK: tl.constexpr):
    batch = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = channel < width
    low = 65536 - tl.load(lower + channel, mask=live, other=0).to(tl.int64)
    h = tl.load(state + batch * width + channel, mask=live, other=0).to(tl.int64)
    for t in range(0, length):
        row = batch * length + t
        at = row * 3 * width + channel
        f = tl.load(sums + at, mask=live, other=0).to(tl.int64)
        i = tl.load(sums + at + width, mask=live, other=0).to(tl.int64)
        g = tl.load(sums + at + 2 * width, mask=live, other=0).to(tl.int64)
        fm, fe = load(scales + 2 * row)
        im, ie = load(scales + 2 * (row + rows))
        h, made = step(f, i, g, fm, fe, im, ie, low, h, shift, table)
        tl.store(product + row * width + channel, made.to(tl.int32), mask=live)
    tl.store(state + batch * width + channel, h.to(tl.int32), mask=live)


@triton.jit
def step(f, i, g, fm, fe, im, ie, low, h, shift, table):  # type: ignore[no-untyped-def]
    """A token of the recurrence: the new state, and its silu times the output gate's sums."""
    keep = round_shift(low * (65536 - sigmoid(saturate(scaled(f, fm, fe, 12), 18), table)), 16)
    into = silu(saturate(scaled(i, im, ie, 12), 18), table)
    h = h + round_shift(keep * (into - h), 16)
    active = round_shift(h * sigmoid(saturate(round_shift(h, 6), 18), table), 16)
    return h, round_shift(g * active, shift)


@triton.jit
def _output(product, sums, norm, square, extra, constants, q, scale, table, width, padded,  # type: ignore[no-untyped-def]
            BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    v = tl.load(product + row * width + column, mask=live, other=0).to(tl.int64)
    g = tl.load(sums + (row * 3 + 2) * width + column, mask=live, other=0).to(tl.int64)
    z = tl.abs(v) * tl.abs(tl.load(square + column, mask=live, other=0).to(tl.int64))
    zm, ze = row_squares(round_shift(z, 15))
    em, ee = load(extra + 2 * row)
    cm, ce = load(constants)
    em, ee = mul(em, ee, cm, ce)
    gm, ge = from_int(tl.sum(g * g))
    cm, ce = load(constants + 2)
    gm, ge = mul(gm, ge, cm, ce)
    em, ee = add(em, ee, gm, ge)
    zm, ze = add(zm, ze, em, ee)
    rm, re = rsqrt(zm, ze, table)
    _quantise_row(v, norm, column, live, rm, re, constants + 4, q + row * padded, padded, scale + 2 * row, table)


@triton.jit
def _glu(sums, scale, norm, extra, constants, q, made, table, inverse, width, padded, shift,  # type: ignore[no-untyped-def]
         BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < width
    at = row * 2 * width + 2 * column
    gate = tl.load(sums + at, mask=live, other=0).to(tl.int64)
    up = tl.load(sums + at + 1, mask=live, other=0).to(tl.int64)
    sm, se = load(scale + 2 * row)
    t = saturate(scaled(gate, sm, se, 12), 18)
    v = round_shift(up * silu(t, table), shift)
    zm, ze = row_squares(tl.abs(v))
    em, ee = load(extra + 2 * row)
    cm, ce = load(constants)
    em, ee = mul(em, ee, cm, ce)
    zm, ze = add(zm, ze, em, ee)
    rm, re = rsqrt(zm, ze, inverse)
    _quantise_row(v, norm, column, live, rm, re, constants + 2, q + row * padded, padded, made + 2 * row, inverse)


def _settings(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(max(block // 256, 1), 16)}


def _scalars(*shape: int, like: Tensor) -> Tensor:
    return torch.empty(*shape, 2, dtype=torch.int64, device=like.device)


def embed(values: Tensor, scale: Tensor, tokens: Tensor, shift: int) -> Tensor:
    """See :func:`nomul.train.packed.plain.embed`."""
    width = values.shape[1]
    x = torch.empty(len(tokens), width, dtype=torch.int32, device=values.device)
    _embed[(len(tokens),)](values, scale, tokens, x, shift, width, **_settings(width))
    return x


def residual(
    x: Tensor, sums: Tensor | None, scale: Tensor | None, norms: Tensor, square: Tensor, constants: Tensor,
    padded: int, tables: Tables,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See :func:`nomul.train.packed.plain.residual`."""
    (rows, width), count = x.shape, len(norms)
    q = torch.empty(count, rows, padded, dtype=torch.int8, device=x.device)
    scales, extra = _scalars(count, rows, like=x), _scalars(rows, like=x)
    out = x if sums is None else torch.empty_like(x)
    _residual[(rows,)](
        x, x if sums is None else sums, extra if scale is None else scale, out, norms, square, constants, q,
        scales, extra, tables.inverse, rows, width, padded, ADD=sums is not None, COUNT=count, **_settings(padded),
    )  # fmt: skip
    return out, q, scales, extra


def mix(sums: Tensor, scales: Tensor, lower: Tensor, state: Tensor, shift: int, tables: Tables) -> Tensor:
    """See :func:`nomul.train.packed.plain.mix`."""
    rows, (batch, width) = len(sums), state.shape
    product = torch.empty(rows, width, dtype=torch.int32, device=sums.device)
    _mix[(batch, triton.cdiv(width, 64))](
        sums, scales, lower, state, product, tables.sigma, rows, rows // batch, width, shift,
        BLOCK=64, num_warps=2)  # fmt: skip
    return product


def output(
    product: Tensor, sums: Tensor, norm: Tensor, square: Tensor, extra: Tensor, constants: Tensor, padded: int,
    tables: Tables,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See :func:`nomul.train.packed.plain.output`."""
    rows, width = product.shape
    q = torch.empty(1, rows, padded, dtype=torch.int8, device=product.device)
    scale = _scalars(rows, like=product)
    _output[(rows,)](product, sums, norm, square, extra, constants, q, scale, tables.inverse, width, padded,
                     **_settings(padded))  # fmt: skip
    return q, scale


def glu(
    sums: Tensor, scale: Tensor, norm: Tensor, extra: Tensor, constants: Tensor, shift: int, padded: int,
    tables: Tables,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See :func:`nomul.train.packed.plain.glu`."""
    rows, width = len(sums), sums.shape[1] // 2
    q = torch.empty(1, rows, padded, dtype=torch.int8, device=sums.device)
    made = _scalars(rows, like=sums)
    _glu[(rows,)](sums, scale, norm, extra, constants, q, made, tables.sigma, tables.inverse, width, padded, shift,
                  **_settings(padded))  # fmt: skip
    return q, made
