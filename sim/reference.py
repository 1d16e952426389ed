# SPDX-License-Identifier: Apache-2.0
"""The float64 reference: what a MatMul-free LM computes, before any of our integers.

A transcription of the published architecture. All tokens of a call go through a layer at once; only
the recurrence walks over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from nomul.model.geometry import Geometry
from nomul.model.ternary import ternarise
from nomul.model.tokenizer import check_ids

__all__ = ["Reference"]

_EXACT = 1 << 24  # float32 adds integers exactly up to here
_TIME = 2048  # tokens that go through the layers together: bounds the memory of a long text


class Weights(Protocol):
    """What the reference reads: a checkpoint."""

    @property
    def geometry(self) -> Geometry:
        """Sizes."""

    @property
    def eps(self) -> float:
        """What every RMSNorm adds to the mean square."""

    def tensor(self, name: str) -> np.ndarray:
        """Tensor by its published name, float32."""


def rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """``x / sqrt(mean(x²) + ε) · weight`` along the last axis."""
    return x * (1 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)) * weight


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1 + e)


def silu(x: np.ndarray) -> np.ndarray:
    return x * sigmoid(x)


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Rounds half away from zero."""
    magnitude = np.abs(x)
    whole = np.floor(magnitude)
    whole += magnitude - whole >= 0.5
    return np.copysign(whole, x)


def _quantise(y: np.ndarray, a: np.ndarray) -> np.ndarray:
    return np.clip(round_half_away(y * 127 / a), -127, 127)


class BitLinear:
    """Norm, absmax quantisation to int8, ternary product: ``[T, in] → [T, out]``."""

    def __init__(self, weights: Weights, name: str):
        ternary = ternarise(weights.tensor(f"{name}.weight"))
        exact = np.float32 if 127 * ternary.trits.shape[1] < _EXACT else np.float64
        self.matrix = ternary.trits.T.astype(exact)
        self.scale = ternary.scale
        self.norm = weights.tensor(f"{name}.norm.weight").astype(np.float64)
        self.eps = weights.eps
        self.quantise: Callable[[np.ndarray, np.ndarray], np.ndarray] = _quantise
        self.rescale: Callable[[np.ndarray, np.ndarray], np.ndarray] = np.multiply

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = rms(x, self.norm, self.eps)
        a = np.maximum(np.abs(y).max(axis=-1, keepdims=True), 1e-5)
        q = self.quantise(y, a)
        sums = (q.astype(self.matrix.dtype) @ self.matrix).astype(np.float64)
        return self.rescale(sums, a / 127 * self.scale)


class Block:
    """One layer: ``[T, d] → [T, d]``, with the state ``h [d]`` of the token before."""

    def __init__(self, weights: Weights, number: int, lower_bound: np.ndarray | None):
        prefix = f"model.layers.{number}."

        def norm(name: str) -> np.ndarray:
            return weights.tensor(f"{prefix}{name}.weight").astype(np.float64)

        self.eps = weights.eps
        self.lower_bound = lower_bound
        self.attn_norm, self.g_norm, self.mlp_norm = map(
            norm, ("attn_norm", "attn.g_norm", "mlp_norm")
        )
        self.i, self.f, self.g, self.o = (
            BitLinear(weights, f"{prefix}attn.{name}_proj") for name in "ifgo"
        )
        self.gate = BitLinear(weights, prefix + "mlp.gate_proj")
        self.down = BitLinear(weights, prefix + "mlp.down_proj")
        self.intermediate = weights.geometry.intermediate
        self.h = np.zeros(weights.geometry.hidden)

    def matrices(self) -> list[BitLinear]:
        """All of the layer's."""
        return [self.i, self.f, self.g, self.o, self.gate, self.down]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        n = rms(x, self.attn_norm, self.eps)
        f = sigmoid(self.f(n))
        if self.lower_bound is not None:
            f = self.lower_bound + (1 - self.lower_bound) * f
        h = silu(self.i(n)) * (1 - f)
        for now, keep in zip(h, f, strict=True):  # h[t] = f[t]·h[t-1] + what is there
            now += keep * self.h
            self.h = now
        self.h = self.h.copy()
        x = x + self.o(rms(self.g(n), self.g_norm, self.eps) * silu(h))
        u = self.gate(rms(x, self.mlp_norm, self.eps))
        m = self.intermediate
        return x + self.down(silu(u[:, :m]) * u[:, m:])


class Reference:
    """A model in float64, with the recurrent state of one stream.

    Parameters
    ----------
    weights : Checkpoint
        Anything with ``geometry``, ``eps`` and ``tensor(name)``.

    Attributes
    ----------
    geometry : Geometry
    """

    def __init__(self, weights: Weights):
        self.geometry = weights.geometry
        self._eps = weights.eps
        self._embeddings = weights.tensor("model.embeddings.weight")
        raw = weights.tensor("model.lower_bounds").astype(np.float64)
        p = np.exp(raw - raw.max(axis=0))
        p /= p.sum(axis=0)
        bounds = np.cumsum(p, axis=0) - p[0]
        self._blocks = [
            Block(weights, number, bounds[number] if number else None)
            for number in range(self.geometry.layers)
        ]
        self._norm = weights.tensor("model.norm.weight").astype(np.float64)
        self._head = BitLinear(weights, "lm_head")

    def _layer(self, block: Block, x: np.ndarray) -> np.ndarray:
        return block(x)

    def reset(self) -> None:
        """Forgets all tokens."""
        for block in self._blocks:
            block.h = np.zeros(self.geometry.hidden)

    def step(self, token: int) -> np.ndarray:
        """Processes one more token; returns its logits, float64 ``[V]``."""
        return self.forward([token])[0]

    def forward(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Processes more tokens.

        Parameters
        ----------
        ids : ints of shape ``[T]``

        Returns
        -------
        ndarray of float64, shape ``[T, V]``
            Logits after each.

        Raises
        ------
        NomulError
            If there is none, or one lies outside the vocabulary.
        """
        return self._run(ids, None)

    def forward_hidden(self, ids: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As :meth:`forward`; also every layer's output, float64 ``[Ly, T, d]``."""
        hidden = np.empty((self.geometry.layers, len(ids), self.geometry.hidden))
        return self._run(ids, hidden), hidden

    def _run(self, ids: Sequence[int] | np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
        tokens = check_ids(ids, self.geometry.vocab)
        logits = np.empty((len(tokens), self.geometry.vocab))
        for begin in range(0, len(tokens), _TIME):
            part = slice(begin, begin + _TIME)
            x = self._embeddings[tokens[part]].astype(np.float64)
            for number, block in enumerate(self._blocks):
                x = self._layer(block, x)
                if hidden is not None:
                    hidden[number, part] = x
            logits[part] = self._head(rms(x, self._norm, self._eps))
        return logits
