# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to the integers that hardware uses: ternary matrices, folded norms, int8 embeddings.

Folding (``docs/numbers.md``): absmax quantisation cancels any positive per-token factor, so a block norm and the
norm of a BitLinear become one elementwise weight, and what remains of both is one scalar per token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .errors import NomulError
from .geometry import Geometry
from .numbers import NORM_BITS
from .ternary import pack, ternarise, unpack

__all__ = ["Embedding", "Layer", "Matrix", "Model", "NormVector", "fold"]


class Weights(Protocol):
    """What :func:`fold` reads: a checkpoint."""

    @property
    def geometry(self) -> Geometry:
        """Sizes."""

    @property
    def eps(self) -> float:
        """What every RMSNorm adds to the mean square."""

    def tensor(self, name: str) -> np.ndarray:
        """Tensor by its published name, float32."""


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """A ternary matrix: ``W ≈ trits · scale``.

    Attributes
    ----------
    code : ndarray of uint8, shape ``[out, ceil(in / 5)]``
        Packed trits (:mod:`nomul.model.ternary`).
    inputs : int
        Length of a row.
    scale : float
        ``1/s`` of the specification.
    """

    code: np.ndarray
    inputs: int
    scale: float

    @property
    def outputs(self) -> int:
        """Number of rows."""
        return int(self.code.shape[0])

    def trits(self) -> np.ndarray:
        """int8 ``[out, in]``."""
        return unpack(self.code, self.inputs)


@dataclass(frozen=True, kw_only=True)
class NormVector:
    """Elementwise weights with one exponent: ``w ≈ values · 2^-exponent``; values int16 ``[n]``."""

    values: np.ndarray
    exponent: int

    @classmethod
    def of(cls, weight: np.ndarray) -> NormVector:
        """Quantises so that the largest magnitude takes all 15 bits."""
        weight = np.asarray(weight, dtype=np.float64)
        largest = float(np.abs(weight).max())
        exponent = NORM_BITS - 1 - int(np.frexp(largest)[1]) if largest > 0 else 0
        limit = (1 << NORM_BITS - 1) - 1
        values = np.clip(np.rint(np.ldexp(weight, exponent)), -limit, limit).astype(np.int16)
        return cls(values=values, exponent=exponent)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Token vectors: ``row[j] ≈ values[token, j] · scale[token] · 2^-exponent``.

    Attributes
    ----------
    values : ndarray of int8, shape ``[V, d]``
    scale : ndarray of uint16, shape ``[V]``
    exponent : int
    """

    values: np.ndarray
    scale: np.ndarray
    exponent: int

    @classmethod
    def of(cls, weight: np.ndarray) -> Embedding:
        """Quantises each row to int8 by its own largest magnitude."""
        weight = np.asarray(weight, dtype=np.float64)
        step = np.abs(weight).max(axis=1) / 127
        largest = float(step.max())
        if largest == 0:
            return cls(values=np.zeros(weight.shape, np.int8), scale=np.zeros(len(weight), np.uint16), exponent=16)
        exponent = 16 - int(np.frexp(largest)[1])
        scale = np.minimum(np.rint(np.ldexp(step, exponent)), 65535)
        safe = np.where(scale == 0, 1, scale)
        values = np.rint(np.ldexp(weight, exponent) / safe[:, None])
        values = np.clip(np.where(scale[:, None] == 0, 0, values), -127, 127)
        return cls(values=values.astype(np.int8), scale=scale.astype(np.uint16), exponent=exponent)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One block. ``*_square`` weighs the sum of squares, ``*_norm`` what is quantised.

    ``lower_bound`` is uint16 ``[d]``, Q0.16. ``gate_up`` holds the rows of gate and up in turns, so that their product
    leaves a tile at once.
    """

    attn_square: NormVector
    i_norm: NormVector
    f_norm: NormVector
    g_norm: NormVector
    i_proj: Matrix
    f_proj: Matrix
    g_proj: Matrix
    lower_bound: np.ndarray
    o_square: NormVector
    o_norm: NormVector
    o_proj: Matrix
    mlp_square: NormVector
    gate_norm: NormVector
    gate_up: Matrix
    down_norm: NormVector
    down_proj: Matrix


@dataclass(frozen=True, kw_only=True)
class Model:
    """Everything that a token needs, as integers and a few offline floats; what a model file holds."""

    geometry: Geometry
    eps: float
    embedding: Embedding
    layers: tuple[Layer, ...]
    head_square: NormVector
    head_norm: NormVector
    head: Matrix


def _matrix(weight: np.ndarray) -> Matrix:
    ternary = ternarise(weight)
    return Matrix(code=pack(ternary.trits), inputs=weight.shape[1], scale=ternary.scale)


def _lower_bounds(raw: np.ndarray) -> np.ndarray:
    """``LB = cumsum(softmax(raw, layers)) - first``: float64 ``[Ly, d]``."""
    raw = raw.astype(np.float64)
    p = np.exp(raw - raw.max(axis=0))
    p /= p.sum(axis=0)
    return np.cumsum(p, axis=0) - p[0]


def fold(weights: Weights) -> Model:
    """Ternarises, folds and quantises a checkpoint, matrix by matrix.

    Raises
    ------
    NomulError
        From the checkpoint, if it is damaged.
    """
    geometry, eps = weights.geometry, weights.eps

    def wide(name: str) -> np.ndarray:
        return weights.tensor(name).astype(np.float64)

    def square(norm: np.ndarray) -> NormVector:
        return NormVector.of(np.sqrt(norm * norm + eps))  # ε of the inner norm, folded in

    lower = _lower_bounds(weights.tensor("model.lower_bounds"))
    layers = []
    for number in range(geometry.layers):
        prefix = f"model.layers.{number}."
        attn, mlp = wide(prefix + "attn_norm.weight"), wide(prefix + "mlp_norm.weight")
        g_out = wide(prefix + "attn.g_norm.weight")

        def norm(block: np.ndarray, name: str, prefix: str = prefix) -> NormVector:
            return NormVector.of(block * wide(f"{prefix}{name}.norm.weight"))

        def projection(name: str, prefix: str = prefix) -> Matrix:
            return _matrix(weights.tensor(f"{prefix}{name}.weight"))

        gate = projection("mlp.gate_proj")
        m = geometry.intermediate
        turns = np.arange(2 * m).reshape(2, m).T.ravel()
        layers.append(
            Layer(
                attn_square=square(attn),
                i_norm=norm(attn, "attn.i_proj"),
                f_norm=norm(attn, "attn.f_proj"),
                g_norm=norm(attn, "attn.g_proj"),
                i_proj=projection("attn.i_proj"),
                f_proj=projection("attn.f_proj"),
                g_proj=projection("attn.g_proj"),
                lower_bound=np.clip(np.rint(lower[number] * 65536), 0, 65535).astype(np.uint16),
                o_square=NormVector.of(g_out),
                o_norm=norm(g_out, "attn.o_proj"),
                o_proj=projection("attn.o_proj"),
                mlp_square=square(mlp),
                gate_norm=norm(mlp, "mlp.gate_proj"),
                gate_up=Matrix(code=gate.code[turns], inputs=gate.inputs, scale=gate.scale),
                down_norm=norm(np.ones(m), "mlp.down_proj"),
                down_proj=projection("mlp.down_proj"),
            )
        )
    final = wide("model.norm.weight")
    model = Model(
        geometry=geometry,
        eps=eps,
        embedding=Embedding.of(weights.tensor("model.embeddings.weight")),
        layers=tuple(layers),
        head_square=square(final),
        head_norm=NormVector.of(final * wide("lm_head.norm.weight")),
        head=_matrix(weights.tensor("lm_head.weight")),
    )
    if not np.isfinite(eps) or eps < 0:
        raise NomulError(f"config: rms_norm_eps is {eps}; it must be a small number that is not negative")
    return model
