# SPDX-License-Identifier: Apache-2.0
"""What MatMul-free models are measured against: a Transformer with RMSNorm, rotary positions and SwiGLU.

With the same ``d``, ``m``, layers and vocabulary it has as many weights in its matrices and embeddings as
the MatMul-free model: attention has four matrices of ``d × d`` where token mixing has four, and both gated
units are alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry

from .model import RMSNorm

__all__ = ["TransformerLM"]

_HEAD = 64  # channels of a head, fewer where the width has no such divisor
_BASE = 10000.0


def _heads(width: int) -> int:
    """Heads of an even number of channels, about :data:`_HEAD`."""
    return next((width // size for size in range(min(_HEAD, width), 1, -1) if width % size == 0 and size % 2 == 0), 1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)


class _Attention(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.heads = _heads(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, size).permute(2, 0, 3, 1, 4)
        turns = _BASE ** (-torch.arange(0, size, 2, device=x.device) / size)
        angle = torch.arange(length, device=x.device)[:, None] * turns
        cos, sin = angle.cos().to(q.dtype), angle.sin().to(q.dtype)
        made = F.scaled_dot_product_attention(_rotated(q, cos, sin), _rotated(k, cos, sin), v, is_causal=True)
        return self.out(made.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(d), _Attention(d)
        self.mlp_norm = RMSNorm(d)
        self.gate_up, self.down = nn.Linear(d, 2 * m, bias=False), nn.Linear(m, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_norm(x))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class TransformerLM(nn.Module):
    """A causal language model in floating point.

    Parameters
    ----------
    geometry : Geometry
        Sizes; ``hidden`` must be even.
    spread : float
        Standard deviation of the initial weights; those that add to the residual stream have it over
        ``√(2 · layers)``.

    Raises
    ------
    NomulError
        If ``hidden`` is odd.
    """

    def __init__(self, geometry: Geometry, *, spread: float = 0.02):
        super().__init__()
        d, m = geometry.hidden, geometry.intermediate
        if d % 2:
            raise NomulError(f"transformer: hidden is {d}; it must be even, rotary positions turn pairs")
        self.geometry = geometry
        self.embeddings = nn.Embedding(geometry.vocab, d)
        self.layers = nn.ModuleList(_Block(d, m) for _ in range(geometry.layers))
        self.norm, self.lm_head = RMSNorm(d), nn.Linear(d, geometry.vocab, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                inner = name.endswith(("attn.out.weight", "down.weight"))
                nn.init.normal_(parameter, std=spread / (2 * geometry.layers) ** 0.5 if inner else spread)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token, ``[B, T, V]``, of tokens ``[B, T]``."""
        x = self.embeddings(tokens)
        for block in self.layers:
            x = block(x)
        return self.lm_head(self.norm(x))
