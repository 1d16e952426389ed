# SPDX-License-Identifier: Apache-2.0
"""A model that runs from packed weights in the integers of the golden model."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from nomul.model.errors import NomulError

from . import plain
from .numbers import Tables
from .weights import PackedWeights

__all__ = ["PackedLM", "packed_backend"]


def packed_backend(device: torch.device) -> tuple[ModuleType, str]:
    """The kernels, or their plain form, and a line that says which and why."""
    if device.type != "cuda":
        return plain, f"plain PyTorch (the device is {device.type})"
    try:
        from . import kernels
    except ImportError:
        return plain, "plain PyTorch (Triton is not installed: pip install triton)"
    return kernels, "Triton kernels"


class PackedLM:
    """Logits of a packed model, for whole windows of tokens of several texts.

    Every value is the golden model's, bit for bit: arithmetic is the number contract's, in integers.

    Parameters
    ----------
    weights : PackedWeights
    batch : int
        Texts, each with a recurrent state.

    Attributes
    ----------
    state : Tensor of int32, shape ``[layers, B, d]``
        Q5.18; zeros before the first token.
    """

    def __init__(self, weights: PackedWeights, batch: int = 1):
        g = weights.geometry
        self.weights = weights
        self.device = weights.embeddings.device
        self.tables = Tables(self.device)
        self.state = torch.zeros(g.layers, batch, g.hidden, dtype=torch.int32, device=self.device)
        self._ops, _ = packed_backend(self.device)

    def reset(self) -> None:
        """Forgets all texts."""
        self.state.zero_()

    def __call__(self, tokens: Tensor, *, last: bool = True) -> tuple[Tensor, Tensor]:
        """Reads the next tokens of every text.

        Parameters
        ----------
        tokens : Tensor of int64, shape ``[B, T]``
        last : bool
            Logits of the last position only.

        Returns
        -------
        logits : Tensor of int32, shape ``[B, V]``, or ``[B, T, V]``
            Sums of the head.
        scale : Tensor of int64, shape ``[B, 2]``, or ``[B, T, 2]``
            Mantissa and exponent of what one of them is worth.

        Raises
        ------
        NomulError
            If the batch is another, or a token lies outside the vocabulary.
        """
        w, ops, tables = self.weights, self._ops, self.tables
        batch, length = tokens.shape
        if batch != self.state.shape[1]:
            raise NomulError(f"packed: tokens of {batch} texts, the model holds {self.state.shape[1]}")
        if not tokens.is_cuda and not 0 <= int(tokens.min()) <= int(tokens.max()) < w.geometry.vocab:
            raise NomulError(f"packed: a token lies outside the vocabulary of {w.geometry.vocab}")
        x = ops.embed(w.embeddings, w.embedding_scale, tokens.flatten().contiguous(), w.embedding_shift)
        sums: Tensor | None = None
        scale: Tensor | None = None
        for number, y in enumerate(w.layers):
            c = y.constants
            x, q, scales, extra = ops.residual(
                x, sums, scale, y.gate_norms, y.attn_square, c[:4], y.gates.padded, tables)
            sums = ops.products(q, y.gates)
            product = ops.mix(sums, scales, y.lower, self.state[number], w.product_shift, tables)
            q, scale = ops.output(
                product, sums, y.o_norm, y.o_square, extra, c[4:7], y.o.padded, tables)
            sums = ops.products(q, y.o)
            x, q, scales, extra = ops.residual(
                x, sums, scale, y.mlp_norm, y.mlp_square, c[7:9], y.gate_up.padded, tables)
            sums = ops.products(q, y.gate_up)
            q, scale = ops.glu(
                sums, scales[0], y.down_norm, extra, c[9:11], w.product_shift, y.down.padded, tables)
            sums = ops.products(q, y.down)
        if last and length > 1:
            end = slice(length - 1, None, length)
            assert sums is not None
            assert scale is not None
            x, sums, scale = x[end].contiguous(), sums[end].contiguous(), scale[end].contiguous()
        _, q, scales, _ = ops.residual(
            x, sums, scale, w.head_norm, w.head_square, w.constants, w.head.padded, tables)
        logits, scale = ops.products(q, w.head), scales[0]
        if last:
            return logits, scale
        return logits.unflatten(0, (batch, length)), scale.unflatten(0, (batch, length))
