# SPDX-License-Identifier: Apache-2.0
"""What number formats would cost: the float64 reference, rounded where the core rounds.

``python -m nomul.sim.precision`` prints the table of ``docs/numbers.md`` for the upstream fixture. It
models formats, not the core: the order of operations is the reference's, and an error that the
core's truncations make is drawn at random within its bounds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from nomul.model.checkpoint import read_checkpoint

from .reference import Block, Reference, Weights, rms, round_half_away, sigmoid

__all__ = ["NOW", "Formats", "Rounded", "deviation"]


@dataclass(frozen=True, kw_only=True)
class Formats:
    """Bits of each place that rounds; None is exact.

    Attributes
    ----------
    embedding : bits of an element, by its row's largest
    norm : bits of a folded norm weight, by its vector's largest
    quantiser : bits of ``|v| / max|v|`` and of the reciprocal
    scalar : bits of a matrix's scale
    t, sigma, state, residual : fraction bits
    """

    embedding: int | None = None
    norm: int | None = None
    quantiser: int | None = None
    scalar: int | None = None
    t: int | None = None
    sigma: int | None = None
    state: int | None = None
    residual: int | None = None


#: The number contract, as far as this models it.
NOW = Formats(
    embedding=8, norm=16, quantiser=17, scalar=17, t=12, sigma=16, state=18, residual=16
)


def _fixed(value: np.ndarray, fraction: int | None) -> np.ndarray:
    return value if fraction is None else np.rint(np.ldexp(value, fraction)) * 2.0**-fraction


def _shared(value: np.ndarray, bits: int | None, axis: int | None = None) -> np.ndarray:
    """Signed integers of so many bits, the largest magnitude taking all of them."""
    if bits is None:
        return value
    step = np.abs(value).max(axis=axis, keepdims=axis is not None) / ((1 << bits - 1) - 1)
    return np.rint(value / step) * step


class Rounded(Reference):
    """The reference with ``formats``; ``seed`` draws the truncations."""

    def __init__(self, weights: Weights, formats: Formats, *, seed: int = 0):
        super().__init__(weights)
        self._formats = formats
        self._random = np.random.default_rng(seed)
        self._embeddings = _shared(self._embeddings.astype(np.float64), formats.embedding, axis=1)
        self._norm = _shared(self._norm, formats.norm)
        for linear in [self._head, *(m for block in self._blocks for m in block.matrices())]:
            linear.norm = _shared(linear.norm, formats.norm)
            linear.quantise, linear.rescale = self._quantise, self._rescale
        for block in self._blocks:
            for name in ("attn_norm", "g_norm", "mlp_norm"):
                setattr(block, name, _shared(getattr(block, name), formats.norm))

    def _error(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        return 1 + self._random.uniform(-1, 1, shape) * 2.0**-bits

    def _quantise(self, y: np.ndarray, largest: np.ndarray) -> np.ndarray:
        ratio, bits = y / largest, self._formats.quantiser
        if bits is not None:
            cut = np.floor(np.ldexp(np.abs(ratio), bits)) * 2.0**-bits
            ratio = np.copysign(cut, ratio) * self._error(largest.shape, bits)
        return np.clip(round_half_away(127 * ratio), -127, 127)

    def _rescale(self, sums: np.ndarray, scale: np.ndarray) -> np.ndarray:
        bits = self._formats.scalar
        return sums * scale if bits is None else sums * scale * self._error(scale.shape, bits)

    def _layer(self, block: Block, x: np.ndarray) -> np.ndarray:
        """As :meth:`Block.__call__`, with the formats of what is not a matrix."""
        f = self._formats

        def gate(t: np.ndarray) -> np.ndarray:
            return _fixed(sigmoid(_fixed(t, f.t)), f.sigma)

        def silu(t: np.ndarray) -> np.ndarray:
            return _fixed(_fixed(t, f.t) * gate(t), f.state)

        n = rms(x, block.attn_norm, block.eps)
        keep = 1 - gate(block.f(n))
        if block.lower_bound is not None:
            keep = (1 - _fixed(block.lower_bound, f.sigma)) * keep
        keep = _fixed(keep, f.sigma)
        hidden = silu(block.i(n))
        for now, new in zip(hidden, keep, strict=True):
            block.h = block.h + _fixed(new * (now - block.h), f.state)
            now[:] = block.h
        activated = _fixed(hidden * gate(hidden), f.state)
        x = _fixed(x + block.o(rms(block.g(n), block.g_norm, block.eps) * activated), f.residual)
        u = block.gate(rms(x, block.mlp_norm, block.eps))
        m = block.intermediate
        return _fixed(x + block.down(silu(u[:, :m]) * u[:, m:]), f.residual)


def deviation(found: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference over the largest magnitude."""
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def main(folder: str = "tests/fixtures/upstream-a") -> None:
    """Prints, for each set of formats, the smallest and largest deviation over four seeds."""
    weights = read_checkpoint(Path(folder))
    expected = safetensors.numpy.load_file(Path(folder) / "expected.safetensors")

    def show(name: str, formats: Formats) -> None:
        found = [
            deviation(Rounded(weights, formats, seed=s).forward(expected["input_ids"]),
                      expected["logits"])
            for s in range(4)
        ]
        print(f"{name:32} {min(found):.2%} to {max(found):.2%}", flush=True)

    show("exact", Formats())
    show("now", NOW)
    for bits in (18, 20, 22, 24):
        show(f"everything {bits} bits", Formats(
            embedding=bits, norm=bits, quantiser=bits, scalar=bits,
            t=bits - 4, sigma=bits, state=bits, residual=bits))


if __name__ == "__main__":
    main(*sys.argv[1:])
