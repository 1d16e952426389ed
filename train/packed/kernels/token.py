# SPDX-License-Identifier: Apache-2.0
"""One token of one text: a matrix a kernel, with the vector work before and after it in the same one.

A program loads all its weights first, which need nothing from the kernel before; where the GPU can,
that happens while that one still runs (programmatic dependent launch). Then it quantises the vector
for itself, or reads what :func:`quantise_token` left (``SPLIT``), multiplies, and finishes its own
outputs. Maxima and sums of squares of a whole vector go through atomic adds and maxima on integers,
which give the same in any order. Their slots: three maxima, three parts of the sum of squares, the sum
of squared sums.

The sum of squares under a root has an addend (``ADDEND``): a constant (0), that times what the block
before left in ``extra`` (1), the same and the sum of squared sums times another constant (2).
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .decode import plane_dot
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
    silu,
    squares,
)
from .rows import step

__all__ = ["STATISTICS", "embed_token", "gates_token", "glu_token", "head_token", "quantise_token",
           "residual_token"]  # fmt: skip

STATISTICS = 8  #: int64 slots of a vector's statistics; the last is unused.


@triton.jit
def _wait(PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Waits for what the kernel before has written."""
    if PDL:
        gdc_wait()


@triton.jit
def _release(PDL: tl.constexpr):  # type: ignore[no-untyped-def]
    """Lets the next kernel begin to load its weights."""
    if PDL:
        gdc_launch_dependents()


@triton.jit
def _weights(words, out, live, line, LINE: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, LINE)
    at = words + out.to(tl.int64)[:, None] * line + place[None, :]
    return tl.load(at, mask=live[:, None] & (place < line)[None, :], other=0, eviction_policy="evict_first")


@triton.jit
def _quantise(source, norm, width, most, table, scratch, padded, PADDED: tl.constexpr):  # type: ignore[no-untyped-def]
    """The activations of a vector into ``scratch``; their sum, and the maximum as a scalar."""
    column = tl.arange(0, PADDED)
    live = column < width
    v = tl.load(source + column, mask=live, other=0).to(tl.int64)
    v = v * tl.load(norm + column, mask=live, other=0).to(tl.int64)
    mm, me = maximum(most)
    rm, re = recip(mm, me, table)
    q = quantised(v, rm, re)
    tl.store(scratch + column, q.to(tl.int8), mask=column < padded)
    return tl.sum(q), mm, me


@triton.jit
def _sums(w, activations, total, line, LINE: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr,  # type: ignore[no-untyped-def]
          SPLIT: tl.constexpr):
    """Sums of a tile of words with activations, int64; ``activations`` are words, ``total`` their sum."""
    place = tl.arange(0, LINE)
    live = place < line
    q0 = tl.load(activations + place, mask=live, other=0)[None, :]
    q1 = tl.load(activations + line + place, mask=live, other=0)[None, :]
    q2 = tl.load(activations + 2 * line + place, mask=live, other=0)[None, :]
    q3 = tl.load(activations + 3 * line + place, mask=live, other=0)[None, :]
    q4 = q0
    if PLANES == 5:
        q4 = tl.load(activations + 4 * line + place, mask=live, other=0)[None, :]
    zero = w * 0
    made = plane_dot(w, q0 + zero, q1 + zero, q2 + zero, q3 + zero, q4 + zero, PLANES, ASM)
    if SPLIT:  # words of zero trits count every activation once
        ones = q0 * 0 + (0x55555555 if PLANES == 4 else -0x7F7F7F80)
        total = tl.sum(plane_dot(ones, q0, q1, q2, q3, q4, PLANES, ASM))
    return (tl.sum(made, 1) - total).to(tl.int64)


@triton.jit
def _count(stats, z, live):  # type: ignore[no-untyped-def]
    """Adds a part of a vector to the sum of squares."""
    z = tl.where(live, z, 0)
    high, low = z >> 16, z & 65535
    tl.atomic_add(stats + 3, tl.sum(high * high), sem="relaxed")
    tl.atomic_add(stats + 4, tl.sum(high * low), sem="relaxed")
    tl.atomic_add(stats + 5, tl.sum(low * low), sem="relaxed")


@triton.jit
def _largest(stats, v, norm, at, live):  # type: ignore[no-untyped-def]
    v = tl.abs(v * tl.load(norm + at, mask=live, other=0).to(tl.int64))
    tl.atomic_max(stats, tl.max(tl.where(live, v, 0)), sem="relaxed")


@triton.jit
def _reduce(stats, v, norms, square, at, live, width, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Statistics of a part of the residual stream, for the matrices that read it next."""
    for k in tl.static_range(COUNT):
        _largest(stats + k, v, norms + k * width, at, live)
    z = tl.abs(v) * tl.abs(tl.load(square + at, mask=live, other=0).to(tl.int64))
    _count(stats, round_shift(z, 15), live)


@triton.jit
def _scale(rm, re, mm, me, constant):  # type: ignore[no-untyped-def]
    sm, se = mul(rm, re, mm, me)
    cm, ce = load(constant)
    return mul(sm, se, cm, ce)


@triton.jit
def _root(stats, constants, extra, table, ADDEND: tl.constexpr):  # type: ignore[no-untyped-def]
    """Inverse root of a vector's sum of squares."""
    am, ae = load(constants)
    if ADDEND > 0:
        em, ee = load(extra)
        am, ae = mul(em, ee, am, ae)
    if ADDEND == 2:
        gm, ge = from_int(tl.load(stats + 6))
        cm, ce = load(constants + 2)
        gm, ge = mul(gm, ge, cm, ce)
        am, ae = add(am, ae, gm, ge)
    zm, ze = squares(tl.load(stats + 3), tl.load(stats + 4), tl.load(stats + 5))
    zm, ze = add(zm, ze, am, ae)
    return rsqrt(zm, ze, table)


@triton.jit
def _store_scalar(at, m, e, mask):  # type: ignore[no-untyped-def]
    tl.store(at, m, mask=mask)
    tl.store(at + 1, e, mask=mask)


@triton.jit
def quantise_token(source, norms, stats, constants, extra, q, scales, table, width, padded,  # type: ignore[no-untyped-def]
                   ADDEND: tl.constexpr, PDL: tl.constexpr, BLOCK: tl.constexpr):
    """Activations of a vector for each matrix that reads it (the grid's second axis), and their scales.

    The programs of number 0 make the scale, the others ``BLOCK`` activations each. Without an addend
    from ``extra`` the inverse square of the last scale goes there.
    """
    _release(PDL)
    _wait(PDL)
    part, k = tl.program_id(0), tl.program_id(1)
    mm, me = maximum(tl.load(stats + k))
    if part == 0:
        rm, re = _root(stats, constants, extra, table, ADDEND)
        sm, se = _scale(rm, re, mm, me, constants + (4 if ADDEND == 2 else 2) + 2 * k)
        _store_scalar(scales + 2 * k, sm, se, True)
        if ADDEND == 0:
            im, ie = inverse_square(sm, se, table)
            _store_scalar(extra, im, ie, k == tl.num_programs(1) - 1)
    else:
        column = (part - 1) * BLOCK + tl.arange(0, BLOCK)
        live = column < width
        v = tl.load(source + column, mask=live, other=0).to(tl.int64)
        v = v * tl.load(norms + k * width + column, mask=live, other=0).to(tl.int64)
        rm, re = recip(mm, me, table)
        tl.store(q + k * padded + column, quantised(v, rm, re).to(tl.int8), mask=column < padded)


@triton.jit
def _read(source, norm, stats, constants, extra, scratch, activations, scales, table, width, padded,  # type: ignore[no-untyped-def]
          ADDEND: tl.constexpr, SPLIT: tl.constexpr, PADDED: tl.constexpr):
    """Where a program finds the activations as words, their sum (not with ``SPLIT``), their scale."""
    total = 0
    if SPLIT:
        sm, se = load(scales)
    else:
        at = tl.program_id(0).to(tl.int64) * padded
        activations += at // 4
        total, mm, me = _quantise(source, norm, width, tl.load(stats), table, scratch + at, padded, PADDED)
        rm, re = _root(stats, constants, extra, table, ADDEND)
        sm, se = _scale(rm, re, mm, me, constants + (4 if ADDEND == 2 else 2))
    return activations, total, sm, se


@triton.jit
def embed_token(values, scale, token, x, norms, square, stats, shift, width,  # type: ignore[no-untyped-def]
                COUNT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    _wait(PDL)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < width
    row = tl.load(token)
    v = tl.load(values + row * width + at, mask=live, other=0).to(tl.int64)
    v = round_shift(v * tl.load(scale + row).to(tl.int64), shift)
    tl.store(x + at, v.to(tl.int32), mask=live)
    _reduce(stats, v, norms, square, at, live, width, COUNT)


@triton.jit
def gates_token(words, x, norms, stats, constants, lower, state, o_norm, o_square, product, following, extra,  # type: ignore[no-untyped-def]
                scratch, activations, scales, sigma, table, width, line, padded, shift,
                PLANES: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr, OUT: tl.constexpr,
                LINE: tl.constexpr, PADDED: tl.constexpr):
    """Forget, input and output gate of the same channels, the recurrence, the product with g."""
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    live = out < width
    wf = _weights(words, out, live, line, LINE)
    wi = _weights(words + width.to(tl.int64) * line, out, live, line, LINE)
    wg = _weights(words + 2 * width.to(tl.int64) * line, out, live, line, LINE)
    low = 65536 - tl.load(lower + out, mask=live, other=0).to(tl.int64)
    _wait(PDL)
    if SPLIT:
        tf, ti, tg = 0, 0, 0
        fm, fe = load(scales)
        im, ie = load(scales + 2)
        gm, ge = load(scales + 4)
    else:
        at = tl.program_id(0).to(tl.int64) * 3 * padded
        scratch += at
        activations += at // 4
        tf, fm, fe = _quantise(x, norms, width, tl.load(stats), table, scratch, padded, PADDED)
        ti, im, ie = _quantise(x, norms + width, width, tl.load(stats + 1), table, scratch + padded, padded, PADDED)
        tg, gm, ge = _quantise(x, norms + 2 * width, width, tl.load(stats + 2), table, scratch + 2 * padded, padded,
                               PADDED)  # fmt: skip
        rm, re = _root(stats, constants, extra, table, 0)
        fm, fe = _scale(rm, re, fm, fe, constants + 2)
        im, ie = _scale(rm, re, im, ie, constants + 4)
        gm, ge = _scale(rm, re, gm, ge, constants + 6)
    h = tl.load(state + out, mask=live, other=0).to(tl.int64)
    tl.debug_barrier()
    _release(PDL)
    f = _sums(wf, activations, tf, line, LINE, PLANES, ASM, SPLIT)
    i = _sums(wi, activations + padded // 4, ti, line, LINE, PLANES, ASM, SPLIT)
    g = _sums(wg, activations + padded // 2, tg, line, LINE, PLANES, ASM, SPLIT)
    h, made = step(f, i, g, fm, fe, im, ie, low, h, shift, sigma)
    tl.store(state + out, h.to(tl.int32), mask=live)
    tl.store(product + out, made.to(tl.int32), mask=live)
    _largest(following, made, o_norm, out, live)
    z = tl.abs(made) * tl.abs(tl.load(o_square + out, mask=live, other=0).to(tl.int64))
    _count(following, round_shift(z, 15), live)
    tl.atomic_add(following + 6, tl.sum(tl.where(live, g * g, 0)), sem="relaxed")
    if not SPLIT:
        gm, ge = inverse_square(gm, ge, table)
        _store_scalar(extra, gm, ge, tl.program_id(0) == 0)


@triton.jit
def residual_token(words, product, norm, stats, constants, extra, x, norms, square, following,  # type: ignore[no-untyped-def]
                   scratch, activations, scales, table, inputs, outputs, line, padded,
                   ADDEND: tl.constexpr, COUNT: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr,
                   PDL: tl.constexpr, SPLIT: tl.constexpr, OUT: tl.constexpr, LINE: tl.constexpr,
                   PADDED: tl.constexpr):
    """The output or the down projection (``ADDEND`` 2 or 1), onto the residual stream."""
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    live = out < outputs
    w = _weights(words, out, live, line, LINE)
    _wait(PDL)
    activations, total, sm, se = _read(product, norm, stats, constants, extra, scratch, activations, scales, table,
                                       inputs, padded, ADDEND, SPLIT, PADDED)  # fmt: skip
    v = tl.load(x + out, mask=live, other=0).to(tl.int64)
    tl.debug_barrier()
    _release(PDL)
    s = _sums(w, activations, total, line, LINE, PLANES, ASM, SPLIT)
    v = saturate(v + scaled(s, sm, se, 16), 32)
    tl.store(x + out, v.to(tl.int32), mask=live)
    _reduce(following, v, norms, square, out, live, outputs, COUNT)


@triton.jit
def glu_token(words, x, norm, stats, constants, product, down_norm, following, extra,  # type: ignore[no-untyped-def]
              scratch, activations, scales, sigma, table, inputs, outputs, line, padded, shift,
              PLANES: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr, OUT: tl.constexpr,
              LINE: tl.constexpr, PADDED: tl.constexpr):
    """Gate and up in turns (``outputs`` rows of both), and their product."""
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    w = _weights(words, out, out < outputs, line, LINE)
    _wait(PDL)
    activations, total, sm, se = _read(x, norm, stats, constants, extra, scratch, activations, scales, table,
                                       inputs, padded, 0, SPLIT, PADDED)  # fmt: skip
    tl.debug_barrier()
    _release(PDL)
    sums = _sums(w, activations, total, line, LINE, PLANES, ASM, SPLIT)
    gate, up = tl.split(tl.reshape(sums, [OUT // 2, 2]))
    made = round_shift(up * silu(saturate(scaled(gate, sm, se, 12), 18), sigma), shift)
    pair = tl.program_id(0) * (OUT // 2) + tl.arange(0, OUT // 2)
    live = pair < outputs // 2
    tl.store(product + pair, made.to(tl.int32), mask=live)
    _largest(following, made, down_norm, pair, live)
    _count(following, tl.abs(made), live)
    if not SPLIT:
        sm, se = inverse_square(sm, se, table)
        _store_scalar(extra, sm, se, tl.program_id(0) == 0)


@triton.jit
def head_token(words, x, norm, stats, constants, logits, scale, best,  # type: ignore[no-untyped-def]
               scratch, activations, scales, table, inputs, outputs, line, padded,
               PLANES: tl.constexpr, ASM: tl.constexpr, PDL: tl.constexpr, SPLIT: tl.constexpr, OUT: tl.constexpr,
               LINE: tl.constexpr, PADDED: tl.constexpr):
    """Logits, their scale, and the best: ``(sum + 2³⁰) · 2²⁰`` and how far before token 2²⁰ it lies."""
    out = tl.program_id(0) * OUT + tl.arange(0, OUT)
    live = out < outputs
    w = _weights(words, out, live, line, LINE)
    _wait(PDL)
    activations, total, sm, se = _read(x, norm, stats, constants, scale, scratch, activations, scales, table,
                                       inputs, padded, 0, SPLIT, PADDED)  # fmt: skip
    tl.debug_barrier()
    _release(PDL)
    s = _sums(w, activations, total, line, LINE, PLANES, ASM, SPLIT)
    tl.store(logits + out, s.to(tl.int32), mask=live)
    key = (s + 1073741824) * 1048576 + (1048575 - out)
    tl.atomic_max(best, tl.max(tl.where(live, key, 0)), sem="relaxed")
    _store_scalar(scale, sm, se, tl.program_id(0) == 0)
