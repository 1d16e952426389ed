# SPDX-License-Identifier: Apache-2.0
"""What the kernels of :mod:`nomul.train.fused.kernels` compute, in plain PyTorch, in any dtype.

Both modules have the same functions. Here they run on every device, in float64 for the tests of the
formulas; there they are one pass over memory each.

Terms: ``q`` is the quantised activation of a BitLinear, ``unit`` what one step of it is worth (one
value a row, ``max|y|/127``), ``t`` the trits and ``scale`` (``1/s``) what they are worth, ``sums`` is
``q·tᵀ``; so the BitLinear's value is ``sums · unit · scale``. Backward passes take and give gradients
in the units of the integer operands: ``scaled = gradient · unit`` multiplies ``q`` and ``t``, and what
comes back from ``t`` is worth ``scale / unit``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..scan import _backward_plain, scan_plain

__all__ = [
    "add", "cross_entropy", "glu_quantise", "glu_quantise_backward", "mix", "mix_backward", "norm_quantise",
    "norm_quantise_backward", "product", "scaled", "swish_quantise", "swish_quantise_backward",
    "ternarise", "weight_gradient",
]  # fmt: skip

_EPSILON, _FLOOR = 1e-6, 1e-5


def _wide(x: Tensor) -> Tensor:
    """Float32, or float64 where everything is."""
    return x if x.dtype == torch.float64 else x.float()


def _root(x: Tensor) -> Tensor:
    return torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON)


def _root_backward(g: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """Gradient of ``x`` from that of ``x · r``, ``r = _root(x)``."""
    return r * (g - x * r.square() * (g * x).mean(-1, keepdim=True))


def _quantised(y: Tensor, exact: torch.dtype) -> tuple[Tensor, Tensor]:
    a = y.abs().amax(-1, keepdim=True).clamp_min(_FLOOR)
    q = y * (127 / a)
    q = (torch.sign(q) * torch.floor(q.abs() + 0.5)).clamp(-127, 127)
    return q.to(exact), a[..., 0] / 127


def _value(sums: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """What a BitLinear gives, from its sums."""
    return _wide(sums) * (unit * scale)[:, None]


def _back(sums: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """Gradient of a BitLinear's normalised input, from its scaled gradient times the trits."""
    return _wide(sums) * (scale / unit)[:, None]


def ternarise(weight: Tensor, exact: torch.dtype, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Trits in the dtype ``exact``, and their scale, float32, which a second call may give back."""
    w = weight.float()  # as the published code does it
    if scale is None:
        scale = w.abs().mean().clamp_min(_FLOOR)
    return torch.round(w * (1 / scale)).clamp(-1, 1).to(exact), scale


def product(q: Tensor, t: Tensor) -> Tensor:
    """``q·tᵀ``."""
    return q @ t.T


def weight_gradient(g: Tensor, q: Tensor) -> Tensor:
    """``gᵀ·q``, float32 or float64."""
    return _wide(g.T @ q)


def norm_quantise(x: Tensor, block: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Norm of a block, then for each BitLinear that reads it its own norm and int8 quantisation.

    Parameters
    ----------
    x : Tensor, shape ``[N, d]``
        In the dtype of the products.
    block : Tensor, shape ``[d]``
    weights : sequence of P Tensors, shape ``[d]``

    Returns
    -------
    q : Tensor, shape ``[P, N, d]``, the dtype of ``x``
    unit : Tensor, shape ``[P, N]``
    """
    wide = _wide(x)
    n = wide * _root(wide) * block
    n = n * _root(n)
    made = [_quantised(n * w, x.dtype) for w in weights]
    return torch.stack([q for q, _ in made]), torch.stack([unit for _, unit in made])


def norm_quantise_backward(
    back: Sequence[Tensor], units: Tensor, scales: Sequence[Tensor], x: Tensor, block: Tensor,
    weights: Sequence[Tensor], residual: Tensor,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """Gradients of ``x`` (added to ``residual``), ``block`` and ``weights``.

    Parameters
    ----------
    back : sequence of P Tensors, shape ``[N, d]``
        Scaled gradients times trits.
    units, scales : Tensor of shape ``[P, N]``, sequence of P Tensors without axes
    """
    wide = _wide(x)
    r = _root(wide)
    n = wide * r * block
    rn = _root(n)
    of_y = [_back(b, u, s) for b, u, s in zip(back, units, scales, strict=True)]
    of_weights = [(g * n * rn).sum(0) for g in of_y]
    inner = sum((g * w for g, w in zip(of_y, weights, strict=True)), torch.zeros_like(n))
    of_n = _root_backward(inner, n, rn)
    return residual + _root_backward(of_n * block, wide, r), (of_n * wide * r).sum(0), of_weights


def _gates(
    sums: tuple[Tensor, Tensor], units: Tensor, scales: Sequence[Tensor], bound: Tensor, batch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """σ and f of the forget gate, and the input, ``[B, T, d]``."""
    i, f = (_value(s, u, c).unflatten(0, (batch, -1))
            for s, u, c in zip(sums, units, scales, strict=True))  # fmt: skip
    sigma = torch.sigmoid(f)
    return sigma, bound + (1 - bound) * sigma, i


def mix(
    i: Tensor, f: Tensor, units: Tensor, scales: Sequence[Tensor], bound: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence ``h = f·h + silu(i)·(1 - f)`` from the sums of both gates.

    Parameters
    ----------
    i, f : Tensor, shape ``[B·T, d]``
        Sums.
    units : Tensor, shape ``[2, B·T]``
    scales : sequence of two Tensors without axes
    bound : Tensor, shape ``[d]``
        Lower bound of f.
    h0 : Tensor, shape ``[B, d]``

    Returns
    -------
    h : Tensor, shape ``[B·T, d]``, the dtype of the sums
    last : Tensor, shape ``[B, d]``
    """
    _, decay, wide_i = _gates((i, f), units, scales, bound, len(h0))
    h = scan_plain(decay, F.silu(wide_i) * (1 - decay), h0)
    return h.to(i.dtype).flatten(0, 1), h[:, -1]


def mix_backward(
    of_h: Tensor, of_last: Tensor, i: Tensor, f: Tensor, units: Tensor, scales: Sequence[Tensor], bound: Tensor,
    h0: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Scaled gradients of both gates, and gradients of ``bound`` and ``h0``."""
    batch = len(h0)
    sigma, decay, wide_i = _gates((i, f), units, scales, bound, batch)
    swish = F.silu(wide_i)
    h = scan_plain(decay, swish * (1 - decay), h0)
    g = _wide(of_h).unflatten(0, (batch, -1)).clone()
    g[:, -1] += of_last
    of_b, of_decay = _backward_plain(g, decay, h, h0)
    of_decay = of_decay - of_b * swish
    slope = torch.sigmoid(wide_i)
    of_i = of_b * (1 - decay) * (slope * (1 + wide_i * (1 - slope)))
    of_f = of_decay * (1 - bound) * sigma * (1 - sigma)
    scaled_i, scaled_f = ((g.flatten(0, 1) * unit[:, None]).to(i.dtype)
                          for g, unit in zip((of_i, of_f), units, strict=True))  # fmt: skip
    return scaled_i, scaled_f, (of_decay * (1 - sigma)).sum((0, 1)), decay[:, 0] * of_b[:, 0]


def swish_quantise(
    g: Tensor, unit: Tensor, scale: Tensor, h: Tensor, norm: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """``RMS(g; norm)·silu(h)``, normed and quantised for the output projection: q and unit."""
    wide = _value(g, unit, scale)
    z = wide * _root(wide) * norm * F.silu(_wide(h))
    return _quantised(z * _root(z) * weight, g.dtype)


def swish_quantise_backward(
    back: Tensor, unit_o: Tensor, scale_o: Tensor, g: Tensor, unit: Tensor, scale: Tensor, h: Tensor, norm: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Scaled gradient of ``g``, and gradients of ``h``, ``norm`` and ``weight``."""
    wide, h_wide = _value(g, unit, scale), _wide(h)
    r = _root(wide)
    normed = wide * r
    swish = F.silu(h_wide)
    z = normed * norm * swish
    rz = _root(z)
    of_y = _back(back, unit_o, scale_o)
    of_z = _root_backward(of_y * weight, z, rz)
    of_normed = of_z * swish
    slope = torch.sigmoid(h_wide)
    of_h = of_z * normed * norm * slope * (1 + h_wide * (1 - slope))
    of_g = _root_backward(of_normed * norm, wide, r)
    return ((of_g * unit[:, None]).to(g.dtype), of_h.to(g.dtype),
            (of_normed * normed).sum(0), (of_y * z * rz).sum(0))  # fmt: skip


def glu_quantise(
    sums: Tensor, unit: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """``silu(gate)·up``, normed and quantised for the down projection: q and unit.

    ``sums`` is ``[N, 2m]``, gate before up.
    """
    gate, up = _value(sums, unit, scale).chunk(2, -1)
    p = F.silu(gate) * up
    return _quantised(p * _root(p) * weight, sums.dtype)


def glu_quantise_backward(
    back: Tensor, unit_d: Tensor, scale_d: Tensor, sums: Tensor, unit: Tensor, scale: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Scaled gradient of the sums, ``[N, 2m]``, and gradient of ``weight``."""
    gate, up = _value(sums, unit, scale).chunk(2, -1)
    slope = torch.sigmoid(gate)
    p = gate * slope * up
    r = _root(p)
    of_y = _back(back, unit_d, scale_d)
    of_p = _root_backward(of_y * weight, p, r)
    both = torch.cat([of_p * up * slope * (1 + gate * (1 - slope)), of_p * gate * slope], -1)
    return (both * unit[:, None]).to(sums.dtype), (of_y * p * r).sum(0)


def add(x: Tensor, sums: Tensor, unit: Tensor, scale: Tensor) -> Tensor:
    """The residual stream with a BitLinear's value added."""
    return x + _value(sums, unit, scale)


def scaled(g: Tensor, unit: Tensor, exact: torch.dtype) -> Tensor:
    """A gradient of a BitLinear's value in the units of ``q``."""
    return (g * unit[:, None]).to(exact)


def cross_entropy(
    sums: Tensor, unit: Tensor, scale: Tensor, targets: Tensor, share: float
) -> Tensor:
    """Cross-entropy of each row, ``[N]``; ``sums`` becomes the scaled gradient of their ``share``."""
    logits = _value(sums, unit, scale)
    log_p = logits.log_softmax(-1)
    loss = -log_p.gather(-1, targets[:, None])[:, 0]
    g = log_p.exp()
    g[torch.arange(len(g), device=g.device), targets] -= 1
    sums.copy_(g * (unit * share)[:, None])
    return loss
