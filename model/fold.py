# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to the integers that hardware uses: ternary matrices, folded norms, int8 embeddings.

Folding (``docs/numbers.md``): absmax quantisation cancels any positive per-token factor, so a block norm and the
norm of a BitLinear become one elementwise weight, and what remains of both is one scalar per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from .errors import NomulError
from .geometry import Geometry
from .numbers import NORM_BITS
from .ternary import pack, ternarise, unpack

__all__ = ["Embedding", "Layer", "Matrix", "Model", "NormVector", "Part", "fold", "fold_parts"]

_ROWS = 256  # of a matrix in float64 at a time


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
        weight = np.asarray(weight)
        step = np.maximum(weight.max(axis=1), -weight.min(axis=1)).astype(np.float64) / 127
        largest = float(step.max())
        values = np.zeros(weight.shape, np.int8)
        if largest == 0:
            return cls(values=values, scale=np.zeros(len(weight), np.uint16), exponent=16)
        exponent = 16 - int(np.frexp(largest)[1])
        scale = np.minimum(np.rint(np.ldexp(step, exponent)), 65535)
        for n in range(0, len(weight), _ROWS):
            rows = slice(n, n + _ROWS)
            unit = scale[rows, None]
            wide = np.ldexp(weight[rows].astype(np.float64), exponent)
            wide = np.rint(wide / np.where(unit == 0, 1, unit))
            values[rows] = np.clip(np.where(unit == 0, 0, wide), -127, 127)
        return cls(values=values, scale=scale.astype(np.uint16), exponent=exponent)


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


#: What a model is made of.
Part = Matrix | NormVector | Embedding | np.ndarray


def fold_parts(weights: Weights) -> Iterator[tuple[str, Part]]:
    """Ternarises, folds and quantises a checkpoint part by part: only one is in memory at a time.

    Yields
    ------
    (name, part)
        ``embedding``, the fields of every :class:`Layer` in their order as ``layers.{l}.{field}``,
        ``head_square``, ``head_norm``, ``head``.

    Raises
    ------
    NomulError
        From the checkpoint, if it is damaged.
    """
    geometry, eps = weights.geometry, weights.eps
    if not np.isfinite(eps) or eps < 0:
        raise NomulError(f"config: rms_norm_eps is {eps}; it must be a small number that is not negative")

    def wide(name: str) -> np.ndarray:
        return weights.tensor(f"{name}.weight").astype(np.float64)

    def square(norm: np.ndarray) -> NormVector:
        return NormVector.of(np.sqrt(norm * norm + eps))  # ε of the inner norm, folded in

    def matrix(name: str) -> Matrix:
        return _matrix(weights.tensor(f"{name}.weight"))

    def gate_up(name: str) -> Matrix:
        gate = matrix(name)
        turns = np.arange(gate.outputs).reshape(2, -1).T.ravel()
        return Matrix(code=gate.code[turns], inputs=gate.inputs, scale=gate.scale)

    def folded(block: np.ndarray, name: str) -> NormVector:
        return NormVector.of(block * wide(f"{name}.norm"))

    yield "embedding", Embedding.of(weights.tensor("model.embeddings.weight"))
    lower = _lower_bounds(weights.tensor("model.lower_bounds"))
    for number in range(geometry.layers):
        here = f"layers.{number}."
        attn, mlp = f"model.{here}attn", f"model.{here}mlp"
        into, out, gated = wide(f"{attn}_norm"), wide(f"{attn}.g_norm"), wide(f"{mlp}_norm")
        bound = np.clip(np.rint(lower[number] * 65536), 0, 65535).astype(np.uint16)
        yield here + "attn_square", square(into)
        for gate in "ifg":
            yield f"{here}{gate}_norm", folded(into, f"{attn}.{gate}_proj")
        for gate in "ifg":
            yield f"{here}{gate}_proj", matrix(f"{attn}.{gate}_proj")
        yield here + "lower_bound", bound
        yield here + "o_square", NormVector.of(out)
        yield here + "o_norm", folded(out, f"{attn}.o_proj")
        yield here + "o_proj", matrix(f"{attn}.o_proj")
        yield here + "mlp_square", square(gated)
        yield here + "gate_norm", folded(gated, f"{mlp}.gate_proj")
        yield here + "gate_up", gate_up(f"{mlp}.gate_proj")
        yield here + "down_norm", folded(np.ones(geometry.intermediate), f"{mlp}.down_proj")
        yield here + "down_proj", matrix(f"{mlp}.down_proj")
    final = wide("model.norm")
    yield "head_square", square(final)
    yield "head_norm", folded(final, "lm_head")
    yield "head", matrix("lm_head")


def fold(weights: Weights) -> Model:
    """A whole checkpoint, folded in memory: what :func:`fold_parts` yields.

    Raises
    ------
    NomulError
        From the checkpoint, if it is damaged.
    """
    parts: dict[str, Any] = dict(fold_parts(weights))
    layers = tuple(
        Layer(**{f.name: parts.pop(f"layers.{number}.{f.name}") for f in fields(Layer)})
        for number in range(weights.geometry.layers)
    )
    return Model(geometry=weights.geometry, eps=weights.eps, layers=layers, **parts)
