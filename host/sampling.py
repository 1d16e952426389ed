# SPDX-License-Identifier: Apache-2.0
"""The choice of the next token from logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.model.errors import NomulError

__all__ = ["Sampler"]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Temperature, then top-k, then top-p.

    Parameters
    ----------
    temperature : float
        0 takes the largest logit (of equals the first).
    top_k : int
        Keep so many of the largest; 0 keeps all.
    top_p : float
        Keep the most probable tokens that together reach this probability, at least one.

    Raises
    ------
    NomulError
        Naming the setting that is out of range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise NomulError(f"temperature is {self.temperature}; it must be 0 or more")
        if self.top_k < 0:
            raise NomulError(f"top-k is {self.top_k}; it must be 0 (all) or more")
        if not 0 < self.top_p <= 1:
            raise NomulError(f"top-p is {self.top_p}; it must lie above 0 and be at most 1")

    @property
    def greedy(self) -> bool:
        """Whether the arg-max is all that is needed."""
        return self.temperature == 0

    def choose(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """A token.

        Parameters
        ----------
        logits : ndarray of float, shape ``[V]``
        rng : numpy.random.Generator
        """
        if self.greedy:
            return int(np.argmax(logits))
        values = np.asarray(logits, dtype=np.float64)
        order = np.argsort(-values, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        with np.errstate(over="ignore"):  # however cold: the others' probability is 0 then
            p = np.exp((values[order] - values[order[0]]) / self.temperature)
        p /= p.sum()
        if self.top_p < 1:
            keep = int(np.searchsorted(np.cumsum(p), self.top_p)) + 1
            order, p = order[:keep], p[:keep] / p[:keep].sum()
        return int(rng.choice(order, p=p))
