# SPDX-License-Identifier: Apache-2.0
"""The recurrence ``h[t] = f[t]·h[t-1] + b[t]``, parallel over time.

:func:`scan` is one operator with a backward pass of its own. In plain PyTorch it doubles spans
(log₂ T passes); on CUDA one Triton kernel a direction reads every value once. Both are the same
function; :func:`use_kernel` turns the kernel on after it has proved equal to the plain form on
the device at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds of PyTorch come without Triton
    triton = None

__all__ = ["scan", "scan_plain", "use_kernel"]

_TIME, _CHANNELS = 64, 32  # tile of a program: 32 float32 channels are one 128-byte line
_kernel_on = False


def scan_plain(f: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """All states of the recurrence, in log₂ T passes of plain PyTorch; not differentiable itself.

    Parameters
    ----------
    f, b : Tensor, shape ``[B, T, d]``
        Decay and input.
    h0 : Tensor, shape ``[B, d]``
        State before the first step.

    Returns
    -------
    Tensor, shape ``[B, T, d]``
    """
    f, b = (x.clone(memory_format=torch.contiguous_format) for x in (f, b))
    b[:, 0] += f[:, 0] * h0
    span, length = 1, f.shape[1]
    while span < length:
        b[:, span:] = b[:, span:] + f[:, span:] * b[:, :-span]
        f[:, span:] = f[:, span:] * f[:, :-span]
        span *= 2
    return b


def _backward_plain(g: Tensor, f: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of ``b`` and ``f`` from that of ``h``: the same recurrence, from the end."""
    decay = torch.cat([torch.zeros_like(f[:, :1]), f.flip(1)[:, :-1]], 1)
    db = scan_plain(decay, g.flip(1), torch.zeros_like(h0)).flip(1).contiguous()
    return db, db * torch.cat([h0[:, None], h[:, :-1]], 1)


if triton is not None:

    @triton.jit
    def _combine(f_left, b_left, f_right, b_right):  # type: ignore[no-untyped-def]
        return f_left * f_right, f_right * b_left + b_right

    @triton.jit
    def _forward_kernel(f, b, h0, h, length, width,  # type: ignore[no-untyped-def]
                        TIME: tl.constexpr, CHANNELS: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        live = channel < width
        step = tl.arange(0, TIME)
        carry = tl.load(h0 + row * width + channel, mask=live, other=0.0)
        for start in range(0, length, TIME):
            t = start + step
            at = (row * length + t[:, None]) * width + channel[None, :]
            mask = (t < length)[:, None] & live[None, :]
            fv = tl.load(f + at, mask=mask, other=1.0)
            bv = tl.load(b + at, mask=mask, other=0.0)
            fv, bv = tl.associative_scan((fv, bv), 0, _combine)
            hv = bv + fv * carry[None, :]
            tl.store(h + at, hv, mask=mask)
            carry = tl.sum(tl.where((step == TIME - 1)[:, None], hv, 0.0), 0)

    @triton.jit
    def _backward_kernel(g, f, h, h0, db, df, length, width,  # type: ignore[no-untyped-def]
                         TIME: tl.constexpr, CHANNELS: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
        live = channel < width
        step = tl.arange(0, TIME)
        first = tl.load(h0 + row * width + channel, mask=live, other=0.0)
        carry = tl.zeros([CHANNELS], dtype=tl.float32)
        for start in range(0, length, TIME):
            t = length - 1 - start - step
            at = (row * length + t[:, None]) * width + channel[None, :]
            mask = (t >= 0)[:, None] & live[None, :]
            gv = tl.load(g + at, mask=mask, other=0.0)
            decay = tl.load(f + at + width, mask=mask & (t < length - 1)[:, None], other=0.0)
            decay, gv = tl.associative_scan((decay, gv), 0, _combine)
            dv = gv + decay * carry[None, :]
            before = tl.load(h + at - width, mask=mask & (t > 0)[:, None], other=0.0)
            before = tl.where((t == 0)[:, None], first[None, :], before)
            tl.store(db + at, dv, mask=mask)
            tl.store(df + at, dv * before, mask=mask)
            carry = tl.sum(tl.where((step == TIME - 1)[:, None], dv, 0.0), 0)


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[0], -(-x.shape[2] // _CHANNELS)


def _forward_tiled(f: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    f, b, h0 = f.contiguous(), b.contiguous(), h0.contiguous()
    h = torch.empty_like(b)
    _forward_kernel[_grid(f)](f, b, h0, h, f.shape[1], f.shape[2], TIME=_TIME, CHANNELS=_CHANNELS)
    return h


def _backward_tiled(g: Tensor, f: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    g, f, h, h0 = g.contiguous(), f.contiguous(), h.contiguous(), h0.contiguous()
    db, df = torch.empty_like(g), torch.empty_like(g)
    _backward_kernel[_grid(f)](g, f, h, h0, db, df, f.shape[1], f.shape[2],
                               TIME=_TIME, CHANNELS=_CHANNELS)
    return db, df


# Opaque operators, so that torch.compile keeps them whole.
@torch.library.custom_op("nomul::scan", mutates_args=())
def scan(f: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """All states of ``h[t] = f[t]·h[t-1] + b[t]``; differentiable in all three arguments.

    Parameters
    ----------
    f, b : Tensor, shape ``[B, T, d]``
        Decay and input, float32 or float64.
    h0 : Tensor, shape ``[B, d]``
        State before the first step.

    Returns
    -------
    Tensor, shape ``[B, T, d]``
    """
    tiled = _kernel_on and f.is_cuda and f.dtype == torch.float32
    return (_forward_tiled if tiled else scan_plain)(f, b, h0)


@torch.library.custom_op("nomul::scan_backward", mutates_args=())
def _scan_backward(g: Tensor, f: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    tiled = _kernel_on and f.is_cuda and f.dtype == torch.float32
    return (_backward_tiled if tiled else _backward_plain)(g, f, h, h0)


@scan.register_fake
def _(f: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    return torch.empty(b.shape, dtype=b.dtype, device=b.device)


@_scan_backward.register_fake
def _(g: Tensor, f: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    return (torch.empty(g.shape, dtype=g.dtype, device=g.device),
            torch.empty(g.shape, dtype=g.dtype, device=g.device))


def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
    f, _, h0 = inputs
    ctx.save_for_backward(f, output, h0)


def _differentiate(ctx, g):  # type: ignore[no-untyped-def]
    f, h, h0 = ctx.saved_tensors
    db, df = _scan_backward(g, f, h, h0)
    return df, db, f[:, 0] * db[:, 0]


scan.register_autograd(_differentiate, setup_context=_save)


def use_kernel(device: torch.device) -> str | None:
    """Turns the Triton kernel on if it equals the plain form on ``device``, gradients included.

    Returns
    -------
    str or None
        Why the plain form stays, or None if the kernel is on.
    """
    global _kernel_on
    _kernel_on = False
    if device.type != "cuda":
        return f"the device is {device.type}"
    if triton is None:
        return "Triton is not installed"
    generator = torch.Generator().manual_seed(0)
    f, b, g = (torch.rand(3, 2 * _TIME + 5, 45, generator=generator).to(device) for _ in range(3))
    h0 = torch.rand(3, 45, generator=generator).to(device)
    h = scan_plain(f, b, h0)
    try:
        tiled = (_forward_tiled(f, b, h0), *_backward_tiled(g, f, h, h0))
    except Exception as error:  # whatever the compiler says, the plain form works
        return f"the kernel does not run here: {error}"
    for name, ours, plain in zip(("h", "db", "df"), tiled, (h, *_backward_plain(g, f, h, h0)),
                                 strict=True):
        worst = float((ours - plain).abs().max())
        if not worst < 1e-4:
            return f"the kernel's {name} is off by {worst:.2g}"
    _kernel_on = True
    return None
