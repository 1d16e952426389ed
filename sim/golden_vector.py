# SPDX-License-Identifier: Apache-2.0
"""Golden model of the vector unit: what passes and quantisations do, in integers, all lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nomul.model import isa
from nomul.model.isa import Mode, Source
from nomul.model.numbers import (
    ACT_MAX,
    NORM_BITS,
    SIGMA_FRAC,
    SOURCE_BITS,
    STATE_FRAC,
    T_BITS,
    T_FRAC,
    VECTOR_LANES,
    X_FRAC,
    round_shift,
    saturate,
    sigma,
)
from nomul.model.scalar import MANTISSA_BITS, Scalar

__all__ = ["Vectors", "quantise", "scale_shift"]

_SQUARE_DROP = NORM_BITS - 1
_SHIFT_MAX = 63


def quantise(v: np.ndarray, reciprocal: Scalar) -> np.ndarray:
    """``q = round(127 · v / max|v|)``, half away from zero, by the reciprocal of the maximum.

    The magnitude is cut to the 18 bits that the maximum has, then multiplied by 127/128 of the
    reciprocal's mantissa.

    Parameters
    ----------
    v : ndarray of int64
        ``source · norm``.
    reciprocal : Scalar
        ``recip(from_int(max|v|))``.

    Returns
    -------
    ndarray of int64, -127..127
    """
    shift = 1 - 2 * MANTISSA_BITS - reciprocal.exponent
    factor = (reciprocal.mantissa * ACT_MAX + 64) >> 7
    q = ((np.abs(v) >> shift) * factor + (1 << 27)) >> 28
    return np.where(v < 0, -q, q)


def scale_shift(scale: Scalar, fraction: int) -> int:
    """Right shift that brings ``sum · mantissa`` to so many fraction bits, 0..63."""
    return min(max(-(scale.exponent + fraction), 0), _SHIFT_MAX)


def _scaled(sums: np.ndarray, scale: Scalar, fraction: int) -> np.ndarray:
    return round_shift(sums * scale.mantissa, scale_shift(scale, fraction))


class Vectors:
    """The vectors of so many lanes, and what becomes of them.

    Parameters
    ----------
    norms : ndarray of uint16, any shape
        Norm memory.
    hidden, intermediate : int
    state_values : int
        Elements of a recurrent state.
    lanes, slots : int
        Vectors, and recurrent states that they can go on from.
    stored : callable, optional
        Called as ``stored(name, values [L, n])`` for every vector that is stored.

    Attributes
    ----------
    x, product, keep, activated : ndarray of int64, shape ``[L, n]``
    state : ndarray of int64, shape ``[slots, n]``
    recalled : int
        Element of the state that is element 0 of a pass.
    slots, active : ndarray of int64, bool, shape ``[L]``
        The state of each lane, and whether its token counts.
    maxima : ndarray of int64, shape ``[3, L]``
        Of the latest reducing pass.
    squares, sums_squared : list of int, one a lane
    logits : ndarray of int64, shape ``[L, V]``
        Sums of the latest LOGITS pass, or the residual stream of a pass that sent it, ``[L, d]``.
    saturated : dict
        How many values were limited so far, by kind.
    """

    def __init__(
        self,
        norms: np.ndarray,
        *,
        hidden: int,
        intermediate: int,
        state_values: int,
        lanes: int = 1,
        slots: int = 1,
        stored: Callable[[str, np.ndarray], None] | None = None,
    ):
        def zeros(*shape: int) -> np.ndarray:
            return np.zeros(shape, dtype=np.int64)

        flat = norms.reshape(-1)
        self._signed_norms = flat.view(np.int16).astype(np.int64)
        self._unsigned_norms = flat.astype(np.int64)
        self._stored = stored
        self.x = zeros(lanes, hidden)
        self.product = zeros(lanes, max(hidden, intermediate))
        self.keep = zeros(lanes, hidden)  # 1 - f
        self.activated = zeros(lanes, hidden)  # silu(h)
        self.state = zeros(slots, state_values)
        self.recalled = 0
        self.slots = zeros(lanes)
        self.active = np.ones(lanes, dtype=bool)
        self.maxima = zeros(3, lanes)
        self.squares = [0] * lanes
        self.sums_squared = [0] * lanes
        self.logits = zeros(lanes, 0)
        self.saturated = {"residual": 0, "t": 0}

    def store(self, name: str, values: np.ndarray) -> None:
        if self._stored is not None:
            self._stored(name, values)

    def load(self, at: int, words: np.ndarray) -> None:
        """Puts uint16 ``[words, 4]`` into norm memory."""
        flat = words.reshape(-1)
        place = slice(VECTOR_LANES * at, VECTOR_LANES * at + flat.size)
        self._signed_norms[place] = flat.view(np.int16)
        self._unsigned_norms[place] = flat

    def norm(self, at: int, elements: int) -> np.ndarray:
        at *= VECTOR_LANES
        return self._signed_norms[at : at + elements]

    def embed(self, i: isa.Embed, values: np.ndarray, row_scale: np.ndarray) -> None:
        """EMBED: ``values`` ``[L, n]`` and the scale of each lane's row, ``[L]``."""
        self.begin(i, round_shift(values * row_scale[:, None], i.shift))

    def begin(self, i: isa.Embed, x: np.ndarray) -> None:
        """EMBED of a residual stream, ``[L, n]``, as it is."""
        self.x = x
        self.store("x", self.x)
        self._reduce(self.x, i.norm, i.vectors, i.square)

    def quant(self, i: isa.Quant, reciprocals: Sequence[Scalar]) -> np.ndarray:
        """Activations ``[L, n]`` by the reciprocal of each lane's maximum."""
        source = self.x if i.source is Source.RESIDUAL else self.product
        v = source[:, : i.elements] * self.norm(i.norm, i.elements)
        q = np.stack([quantise(lane, r) for lane, r in zip(v, reciprocals, strict=True)])
        self.store("q", q)
        return q

    def run(self, i: isa.Pass, sums: np.ndarray, scales: Sequence[Scalar]) -> None:
        """A pass over its sums, ``[L, outputs]``, each lane with its scale."""
        match i.mode:
            case Mode.FORGET:
                n = sums.shape[1]
                lower = self._unsigned_norms[4 * i.address : 4 * i.address + n]
                one = 1 << SIGMA_FRAC
                rest = one - sigma(self._t(sums, scales))
                self.keep = round_shift((one - lower) * rest, SIGMA_FRAC)
                self.store("keep", self.keep)
            case Mode.INPUT:
                h = self._recur(self.recalled + i.address, _silu(self._t(sums, scales)))
                t = saturate(round_shift(h, STATE_FRAC - T_FRAC), T_BITS)
                self.activated = round_shift(h * sigma(t), SIGMA_FRAC)
                self.store("h", h)
                self.store("activated", self.activated)
            case Mode.OUTPUT:
                self.sums_squared = [int(s @ s) for s in sums]
                self._products(sums, self.activated, i)
            case Mode.GATED:
                self._products(sums[:, 1::2], _silu(self._t(sums[:, ::2], scales)), i)
            case Mode.RESIDUAL:
                wide = self.x + np.stack(
                    [_scaled(s, c, X_FRAC) for s, c in zip(sums, scales, strict=True)]
                )
                self.x = saturate(wide, SOURCE_BITS)
                self.saturated["residual"] += int((wide != self.x).sum())
                self.store("x", self.x)
                self._reduce(self.x, i.address, i.vectors, i.square)
                if i.send:
                    self.logits = self.x
            case Mode.LOGITS:
                self.logits = sums

    def _recur(self, at: int, silu: np.ndarray) -> np.ndarray:
        """The new state of each lane: lanes of a slot follow one another."""
        made = np.empty_like(silu)
        for lane, slot in enumerate(self.slots):
            h = self.state[slot, at : at + silu.shape[1]]
            made[lane] = h + round_shift(self.keep[lane] * (silu[lane] - h), SIGMA_FRAC)
            if self.active[lane]:
                h[:] = made[lane]
        return made

    def _t(self, sums: np.ndarray, scales: Sequence[Scalar]) -> np.ndarray:
        """Arguments of σ, Q5.12."""
        wide = np.stack([_scaled(s, c, T_FRAC) for s, c in zip(sums, scales, strict=True)])
        t = saturate(wide, T_BITS)
        self.saturated["t"] += int((t != wide).sum())
        return t

    def _products(self, sums: np.ndarray, factor: np.ndarray, i: isa.Pass) -> None:
        self.product = round_shift(sums * factor, i.shift)
        self.store("product", self.product)
        self._reduce(self.product, i.address, i.vectors, i.square)

    def _reduce(self, source: np.ndarray, at: int, vectors: int, square: int) -> None:
        """Maxima of ``|source · norm|`` and the sum of squares."""
        n = source.shape[1]
        words = -(-n // VECTOR_LANES)
        for k in range(vectors):
            self.maxima[k] = np.abs(source * self.norm(at + k * words, n)).max(axis=1)
        z = np.abs(source)
        if square:
            z = round_shift(z * np.abs(self.norm(at + vectors * words, n)), _SQUARE_DROP)
        high, low = z >> 16, z & 0xFFFF
        for lane in range(len(z)):
            h, w = high[lane], low[lane]
            self.squares[lane] = (int(h @ h) << 32) + (int(h @ w) << 17) + int(w @ w)


def _silu(t: np.ndarray) -> np.ndarray:
    return round_shift(t * sigma(t), T_FRAC + SIGMA_FRAC - STATE_FRAC)
