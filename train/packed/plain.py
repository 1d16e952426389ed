# SPDX-License-Identifier: Apache-2.0
"""What the vector unit computes, for rows of tokens, in plain PyTorch: integers on any device.

``sim/golden_vector.py`` is the definition; every function here gives its values bit for bit. Rows are
``[B, T]`` flattened: ``T`` successive tokens of each of ``B`` texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nomul.model.numbers import (
    NORM_BITS,
    SIGMA_FRAC,
    SOURCE_BITS,
    STATE_FRAC,
    T_BITS,
    T_FRAC,
    X_FRAC,
)

from .layout import PackedMatrix, unpack
from .numbers import (
    MAX_FLOOR,
    Tables,
    add,
    from_int,
    mul,
    quantise,
    recip,
    round_shift,
    rsqrt,
    saturate,
    scaled,
    sigmoid,
    sum_of_squares,
)

__all__ = ["embed", "glu", "mix", "output", "products", "residual"]

_ONE = 1 << SIGMA_FRAC


def embed(values: Tensor, scale: Tensor, tokens: Tensor, shift: int) -> Tensor:
    """Residual stream of tokens ``[N]``, int32 ``[N, d]``."""
    return round_shift(values[tokens].long() * scale[tokens].long()[:, None], shift).int()


def products(q: Tensor, matrix: PackedMatrix) -> Tensor:
    """Sums of ternary products, int32 ``[N, outputs]``.

    Parameters
    ----------
    q : Tensor of int8, shape ``[P, N, padded]``
        Each of the P activations meets its share of the rows.
    """
    work = torch.float32 if 127 * matrix.padded < 1 << 24 else torch.float64  # exact, whatever the order
    parts = matrix.words.chunk(len(q))
    made = [a.to(work) @ unpack(PackedMatrix(words=w, inputs=matrix.inputs, planes=matrix.planes)).to(work).T
            for a, w in zip(q, parts, strict=True)]
    return torch.cat(made, 1).int()


def _quantised(source: Tensor, norm: Tensor, root: Tensor, constant: Tensor, padded: int, tables: Tables
               ) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Activations, filled up with zeros, and the scale of their sums."""
    v = source.long() * norm.long()
    most = from_int(v.abs().amax(-1).clamp_min(MAX_FLOOR))
    q = v.new_zeros(len(v), padded, dtype=torch.int8)
    q[:, : v.shape[1]] = quantise(v, recip(most, tables))
    return q, mul(mul(root, most), constant)


def _squares(source: Tensor, square: Tensor | None) -> Tensor:
    z = source.long().abs()
    if square is not None:
        z = round_shift(z * square.long().abs(), NORM_BITS - 1)
    return sum_of_squares(z)


def _inverse_square(scale: Tensor, tables: Tables) -> Tensor:
    inverse = recip(scale, tables)
    return mul(inverse, inverse)


def residual(
    x: Tensor, sums: Tensor | None, scale: Tensor | None, norms: Tensor, square: Tensor, constants: Tensor,
    padded: int, tables: Tables,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Sums onto the residual stream (if there are any); what the next P matrices read.

    Parameters
    ----------
    x : Tensor of int32, shape ``[N, d]``
    sums, scale : Tensor of int32, shape ``[N, d]``; of int64, shape ``[N, 2]``
    norms, square : Tensor of int16, shape ``[P, d]`` and ``[d]``
    constants : Tensor of int64, shape ``[1 + P, 2]``
        Of the root, and of each scale.
    padded : int
        Activations of a row.

    Returns
    -------
    x : Tensor of int32
    q : Tensor of int8, shape ``[P, N, padded]``
    scales : Tensor of int64, shape ``[P, N, 2]``
    extra : Tensor of int64, shape ``[N, 2]``
        Inverse square of the last scale.
    """
    if sums is not None and scale is not None:
        x = saturate(x.long() + scaled(sums.long(), scale, X_FRAC), SOURCE_BITS).int()
    root = rsqrt(add(_squares(x, square), constants[0]), tables)
    made = [_quantised(x, norm, root, c, padded, tables) for norm, c in zip(norms, constants[1:], strict=True)]
    scales = torch.stack([s for _, s in made])
    return x, torch.stack([q for q, _ in made]), scales, _inverse_square(scales[-1], tables)


def _argument(sums: Tensor, scale: Tensor) -> Tensor:
    return saturate(scaled(sums.long(), scale, T_FRAC), T_BITS)


def _silu(t: Tensor, tables: Tables) -> Tensor:
    return round_shift(t * sigmoid(t, tables), T_FRAC + SIGMA_FRAC - STATE_FRAC)


def mix(sums: Tensor, scales: Tensor, lower: Tensor, state: Tensor, shift: int, tables: Tables) -> Tensor:
    """The recurrence and its product with g, int32 ``[N, d]``; ``state`` (int32 ``[B, d]``) goes on.

    ``sums`` is ``[N, 3d]``: forget, input and output gate; ``lower`` int32 ``[d]``, Q0.16.
    """
    forget, into, out = sums.long().chunk(3, -1)
    keep = round_shift((_ONE - lower.long()) * (_ONE - sigmoid(_argument(forget, scales[0]), tables)), SIGMA_FRAC)
    silu = _silu(_argument(into, scales[1]), tables)
    h = state.long()
    batch = len(h)
    steps = []
    for k, s in zip(keep.unflatten(0, (batch, -1)).unbind(1), silu.unflatten(0, (batch, -1)).unbind(1), strict=True):
        h = h + round_shift(k * (s - h), SIGMA_FRAC)
        steps.append(h)
    state.copy_(h)
    all_h = torch.stack(steps, 1).flatten(0, 1)
    t = saturate(round_shift(all_h, STATE_FRAC - T_FRAC), T_BITS)
    return round_shift(out * round_shift(all_h * sigmoid(t, tables), SIGMA_FRAC), shift).int()


def output(
    product: Tensor, sums: Tensor, norm: Tensor, square: Tensor, extra: Tensor, constants: Tensor, padded: int,
    tables: Tables,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Activations of the output projection, ``[1, N, padded]``, and their scale, ``[N, 2]``.

    ``sums`` is that of :func:`mix`; ``constants`` ``[3, 2]``.
    """
    g = sums.chunk(3, -1)[2].long()
    extra = add(mul(extra, constants[0]), mul(from_int((g * g).sum(-1)), constants[1]))
    root = rsqrt(add(_squares(product, square), extra), tables)
    q, scale = _quantised(product, norm, root, constants[2], padded, tables)
    return q[None], scale


def glu(
    sums: Tensor, scale: Tensor, norm: Tensor, extra: Tensor, constants: Tensor, shift: int, padded: int,
    tables: Tables,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Activations of the down projection, and their scale.

    ``sums`` is ``[N, 2m]``, gate and up in turns; ``constants`` ``[2, 2]``.
    """
    gate, up = sums[:, ::2], sums[:, 1::2]
    product = round_shift(up.long() * _silu(_argument(gate, scale), tables), shift).int()
    root = rsqrt(add(_squares(product, None), mul(extra, constants[0])), tables)
    q, made = _quantised(product, norm, root, constants[1], padded, tables)
    return q[None], made
