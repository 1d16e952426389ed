# SPDX-License-Identifier: Apache-2.0
"""The golden model: executes a memory image in integers. The only definition of right.

It runs the same program from the same memory image as the core, instruction by instruction, vectorised over
lanes. Sums of ternary products use float32 matrix products, which are exact below 2²⁴.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nomul.model import isa, scalar
from nomul.model.errors import NomulError
from nomul.model.isa import Mode, Source, Statistic
from nomul.model.numbers import (
    ACT_MAX,
    NORM_BITS,
    SIGMA_FRAC,
    SOURCE_BITS,
    STATE_FRAC,
    T_BITS,
    T_FRAC,
    X_FRAC,
    round_shift,
    saturate,
    sigma,
)
from nomul.model.program import Image
from nomul.model.scalar import MANTISSA_BITS, Scalar
from nomul.model.ternary import DECODE, TRITS_PER_BYTE

__all__ = ["Golden", "quantise", "scale_shift"]

_SQUARE_DROP = NORM_BITS - 1
_MAX_FLOOR = 1 << (MANTISSA_BITS - 1)  # a smaller maximum counts as this, as the reference's 1e-5 does
_SHIFT_MAX = 63

#: Called as ``trace(instruction index, name, values [L, n])`` for whatever an instruction stores.
Trace = Callable[[int, str, np.ndarray], None]


def quantise(v: np.ndarray, reciprocal: Scalar) -> np.ndarray:
    """``q = round(127 · v / max|v|)``, half away from zero, by the reciprocal of the maximum.

    The magnitude is cut to the 18 bits that the maximum has, then multiplied by 127/128 of the reciprocal's mantissa.

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


class _Tile:
    """One tile of weights, ready to multiply: float32 ``[K, N]``, K filled up to whole chunks."""

    def __init__(self, beats: np.ndarray, outputs: int, chunks: int):
        trits = DECODE[beats].reshape(chunks, outputs, -1)
        self.matrix = np.ascontiguousarray(
            trits.transpose(0, 2, 1).reshape(-1, outputs).astype(np.float32)
        )


class Golden:
    """A core of so many lanes that holds one memory image.

    Parameters
    ----------
    image : Image
    lanes : int
        Independent streams.

    Attributes
    ----------
    logits : ndarray of int64, shape ``[L, V]``
        Sums of the head after the latest token; times ``logit_scale`` they are the logits.
    logit_scale : list of float, one a lane
    saturated : dict
        How many values were limited so far, by kind.
    """

    def __init__(self, image: Image, *, lanes: int = 1):
        self.image = image
        self.lanes = lanes
        g = image.geometry
        self.state = np.zeros((lanes, g.state_values), dtype=np.int64)
        self.logits = np.zeros((lanes, g.vocab), dtype=np.int64)
        self.logit_scale = [0.0] * lanes
        self.saturated = {"residual": 0, "t": 0}
        self.trace: Trace | None = None
        norms = image.norms.reshape(-1)
        self._signed_norms = norms.view(np.int16).astype(np.int64)
        self._unsigned_norms = norms.astype(np.int64)
        self._tiles: dict[int, _Tile] = {}
        at = 0
        for index, i in enumerate(image.program):
            if isinstance(i, isa.Tile):
                size = i.outputs * i.chunks
                self._tiles[index] = _Tile(image.weights[at : at + size], i.outputs, i.chunks)
                at += size
        if at != len(image.weights):
            raise NomulError(
                f"image: the program streams {at} weight beats, the image has {len(image.weights)}"
            )
        self._depth = TRITS_PER_BYTE * image.bytes_per_beat

    def reset(self, lane: int | None = None) -> None:
        """Clears the recurrent state of one lane, or of all."""
        self.state[slice(None) if lane is None else lane] = 0

    def step(self, tokens: int | Sequence[int] | np.ndarray) -> np.ndarray:
        """Processes one token in each lane.

        Parameters
        ----------
        tokens : int, or ints of shape ``[L]``

        Returns
        -------
        ndarray of int64, shape ``[L]``
            Arg-max of the logits; the smallest of equals.

        Raises
        ------
        NomulError
            If a token lies outside the vocabulary.
        """
        token = np.broadcast_to(np.asarray(tokens, dtype=np.int64), (self.lanes,))
        if token.min() < 0 or token.max() >= self.image.geometry.vocab:
            raise NomulError(
                f"token {int(token.max() if token.min() >= 0 else token.min())} lies outside the vocabulary "
                f"of {self.image.geometry.vocab}"
            )
        machine = _Token(self, token)
        for index, instruction in enumerate(self.image.program):
            machine.execute(index, instruction)
        register = self.image.logit_scale_register
        self.logit_scale = [float(lane[register]) for lane in machine.registers]
        return self.logits.argmax(axis=1)


class _Token:
    """The working state of one token in all lanes."""

    def __init__(self, core: Golden, token: np.ndarray):
        self.core = core
        self.token = token
        g, lanes = core.image.geometry, core.lanes
        self.registers = [[scalar.ZERO] * isa.REGISTERS for _ in range(lanes)]
        self.x = np.zeros((lanes, g.hidden), dtype=np.int64)
        self.product = np.zeros((lanes, max(g.hidden, g.intermediate)), dtype=np.int64)
        self.keep = np.zeros((lanes, g.hidden), dtype=np.int64)  # 1 - f
        self.activated = np.zeros((lanes, g.hidden), dtype=np.int64)  # silu(h)
        self.maxima = np.zeros((3, lanes), dtype=np.int64)
        self.squares = [0] * lanes
        self.sums_squared = [0] * lanes
        self.acts: np.ndarray | None = None
        self.setup: isa.Pass | None = None
        self.scales: list[Scalar] = []
        self.done: list[np.ndarray] = []  # sums of this pass so far
        self.index = 0

    def execute(self, index: int, i: isa.Instruction) -> None:
        self.index = index
        match i:
            case isa.Const():
                for lane in self.registers:
                    lane[i.rd] = Scalar(i.mantissa, i.exponent)
            case isa.Mul():
                for lane in self.registers:
                    lane[i.rd] = scalar.mul(lane[i.ra], lane[i.rb])
            case isa.Add():
                for lane in self.registers:
                    lane[i.rd] = scalar.add(lane[i.ra], lane[i.rb])
            case isa.Recip():
                for lane in self.registers:
                    lane[i.rd] = scalar.recip(lane[i.ra])
            case isa.Rsqrt():
                for lane in self.registers:
                    lane[i.rd] = scalar.rsqrt(lane[i.ra])
            case isa.Stat():
                for lane, values in enumerate(self.registers):
                    values[i.rd] = scalar.from_int(self.statistic(i.statistic, lane))
            case isa.Quant():
                self.quant(i)
            case isa.Tile():
                self.tile(i)
            case isa.Pass():
                self.setup, self.done = i, []
                self.scales = [lane[i.rs] for lane in self.registers]
            case isa.Embed():
                self.embed(i)
            case isa.End():
                pass

    def store(self, name: str, values: np.ndarray) -> None:
        if self.core.trace is not None:
            self.core.trace(self.index, name, values.copy())

    def statistic(self, which: Statistic, lane: int) -> int:
        if which is Statistic.SQUARES:
            return self.squares[lane]
        if which is Statistic.SUMS:
            return self.sums_squared[lane]
        return max(int(self.maxima[which, lane]), _MAX_FLOOR)

    def norm(self, at: int, elements: int) -> np.ndarray:
        return self.core._signed_norms[4 * at : 4 * at + elements]

    def embed(self, i: isa.Embed) -> None:
        rows = self.core.image.embeddings[self.token]
        row_scale = rows[:, :2].copy().view("<u2").astype(np.int64)
        values = rows[:, 2 : 2 + i.elements].view(np.int8).astype(np.int64)
        self.x = round_shift(values * row_scale, i.shift)
        self.store("x", self.x)
        self.reduce(self.x, i.norm, i.vectors, i.square)

    def reduce(self, source: np.ndarray, at: int, vectors: int, square: int) -> None:
        """Maxima of ``|source · norm|`` and the sum of squares."""
        n = source.shape[1]
        words = -(-n // 4)
        for k in range(vectors):
            weight = self.norm(at + k * words, n)
            self.maxima[k] = np.abs(source * weight).max(axis=1)
        z = np.abs(source)
        if square:
            weight = self.norm(at + vectors * words, n)
            z = round_shift(np.abs(source * weight), _SQUARE_DROP)
        high, low = z >> 16, z & 0xFFFF
        for lane in range(len(z)):
            h, w = high[lane], low[lane]
            self.squares[lane] = (int(h @ h) << 32) + (int(h @ w) << 17) + int(w @ w)

    def quant(self, i: isa.Quant) -> None:
        source = self.x if i.source is Source.RESIDUAL else self.product
        v = source[:, : i.elements] * self.norm(i.norm, i.elements)
        depth = self.core._depth
        acts = np.zeros((len(v), -(-i.elements // depth) * depth), dtype=np.float32)
        for lane, registers in enumerate(self.registers):
            acts[lane, : i.elements] = quantise(v[lane], registers[i.rs])
        self.acts = acts
        self.store("q", acts[:, : i.elements])

    def tile(self, i: isa.Tile) -> None:
        assert self.acts is not None
        assert self.setup is not None
        sums = (self.acts @ self.core._tiles[self.index].matrix).astype(np.int64)
        self.done.append(sums)
        if sum(s.shape[1] for s in self.done) == self.setup.outputs:
            sums = self.done[0] if len(self.done) == 1 else np.concatenate(self.done, axis=1)
            self.store("sums", sums)
            self.finish(self.setup, sums)

    def t(self, sums: np.ndarray) -> np.ndarray:
        """Arguments of σ, Q5.12."""
        wide = np.stack([_scaled(s, c, T_FRAC) for s, c in zip(sums, self.scales, strict=True)])
        t = saturate(wide, T_BITS)
        self.core.saturated["t"] += int((t != wide).sum())
        return t

    def silu(self, t: np.ndarray) -> np.ndarray:
        return round_shift(t * sigma(t), T_FRAC + SIGMA_FRAC - STATE_FRAC)

    def finish(self, i: isa.Pass, sums: np.ndarray) -> None:
        match i.mode:
            case Mode.FORGET:
                n = sums.shape[1]
                lower = self.core._unsigned_norms[4 * i.address : 4 * i.address + n]
                one = 1 << SIGMA_FRAC
                self.keep = round_shift((one - lower) * (one - sigma(self.t(sums))), SIGMA_FRAC)
                self.store("keep", self.keep)
            case Mode.INPUT:
                n = sums.shape[1]
                h = self.core.state[:, i.address : i.address + n]
                h += round_shift(self.keep * (self.silu(self.t(sums)) - h), SIGMA_FRAC)
                t = saturate(round_shift(h, STATE_FRAC - T_FRAC), T_BITS)
                self.activated = round_shift(h * sigma(t), SIGMA_FRAC)
                self.store("h", h)
                self.store("activated", self.activated)
            case Mode.OUTPUT:
                self.sums_squared = [int(s @ s) for s in sums]
                self.products(sums, self.activated, i)
            case Mode.GATED:
                self.products(sums[:, 1::2], self.silu(self.t(sums[:, ::2])), i)
            case Mode.RESIDUAL:
                wide = self.x + np.stack(
                    [_scaled(s, c, X_FRAC) for s, c in zip(sums, self.scales, strict=True)]
                )
                self.x = saturate(wide, SOURCE_BITS)
                self.core.saturated["residual"] += int((wide != self.x).sum())
                self.store("x", self.x)
                self.reduce(self.x, i.address, i.vectors, i.square)
            case Mode.LOGITS:
                self.core.logits = sums

    def products(self, sums: np.ndarray, factor: np.ndarray, i: isa.Pass) -> None:
        self.product = round_shift(sums * factor, i.shift)
        self.store("product", self.product)
        self.reduce(self.product, i.address, i.vectors, i.square)
