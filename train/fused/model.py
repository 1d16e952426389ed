# SPDX-License-Identifier: Apache-2.0
"""The fused training path of a :class:`~nomul.train.model.MatMulFreeLM`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import MatMulFreeLM
from . import plain
from .functions import Head, Mixer, Mlp

__all__ = ["FusedLM", "fused_backend"]


def fused_backend(device: torch.device) -> tuple[ModuleType, str]:
    """The kernels, or their plain form, and a line that says which and why."""
    if device.type != "cuda":
        return plain, f"plain PyTorch (the device is {device.type})"
    try:
        from . import kernels
    except ImportError:
        return plain, "plain PyTorch (Triton is not installed: pip install triton)"
    return kernels, "Triton kernels"


def _block(
    layer: nn.Module, ops: ModuleType, exact: torch.dtype, lean: bool, x: Tensor, h: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor]:
    """A block's output, ``[N, d]``, and the state after the last token, from the block's input."""
    attn, mlp = layer.attn, layer.mlp
    weights = [w for p in (attn.i_proj, attn.f_proj, attn.g_proj, attn.o_proj) for w in (p.norm.weight, p.weight)]
    x, h = Mixer.apply(ops, exact, lean, x, h, bound, layer.attn_norm.weight, *weights, attn.g_norm.weight)
    x = Mlp.apply(ops, exact, lean, x, layer.mlp_norm.weight, mlp.gate_proj.norm.weight, mlp.gate_proj.weight,
                  mlp.down_proj.norm.weight, mlp.down_proj.weight)
    return x, h


class FusedLM(nn.Module):
    """Loss of a model, with the weights of that model and a small memory.

    Same function and same gradients as the model's own, within the rounding of the products' dtype:
    bfloat16 on CUDA, else that of the weights. Dropout is not part of it.

    Parameters
    ----------
    model : MatMulFreeLM
    lean : bool
        Keep one vector a block instead of six or so, for a fifth more arithmetic.
    chunk : int
        Rows of logits that exist at a time.
    exact : torch.dtype, optional
        Of the products; default as above.
    """

    def __init__(
        self, model: MatMulFreeLM, *, lean: bool = False, chunk: int = 4096, exact: torch.dtype | None = None
    ):  # fmt: skip
        super().__init__()
        self.model, self.lean, self.chunk, self.exact = model, lean, chunk, exact

    def features(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The last layer's output, ``[B, T, d]``, and the state after the last token; see the model."""
        backbone = self.model.model
        ops, exact = self._backend(tokens)
        if state is None:
            state = self.model.initial_state(len(tokens))
        share = backbone.lower_bounds.softmax(0)
        bounds = share.cumsum(0) - share[0]
        x = F.embedding(tokens, backbone.embeddings.weight).flatten(0, 1)
        states = []
        for layer, h, bound in zip(backbone.layers, state, bounds, strict=True):
            x, h = layer.by(_block, ops, exact, self.lean, x, h, bound)
            states.append(h)
        return x.unflatten(0, tokens.shape), torch.stack(states)

    def forward(
        self, tokens: Tensor, targets: Tensor, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy in nats, and the state after the last token.

        Parameters
        ----------
        tokens, targets : Tensor of int64, shape ``[B, T]``
        state : Tensor, shape ``[layers, B, d]``, or None
            State before the first token; None for zeros.
        """
        x, state = self.features(tokens, state)
        ops, exact = self._backend(tokens)
        head = self.model.lm_head
        loss = Head.apply(ops, exact, self.chunk, x.flatten(0, 1), targets.flatten(),
                          self.model.model.norm.weight, head.norm.weight, head.weight)
        return loss, state

    def _backend(self, tokens: Tensor) -> tuple[ModuleType, Any]:
        ops, _ = fused_backend(tokens.device)
        wide = self.model.lm_head.weight.dtype
        return ops, self.exact or (torch.bfloat16 if tokens.device.type == "cuda" else wide)
