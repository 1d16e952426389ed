# SPDX-License-Identifier: Apache-2.0
"""What the held-out figure is measured against: ``xz -9`` and a smoothed byte-level 5-gram."""

from __future__ import annotations

import lzma
from dataclasses import dataclass

import numpy as np

from nomul.model.errors import NomulError

__all__ = ["Ngram", "xz_bits_per_byte"]


def xz_bits_per_byte(text: np.ndarray) -> float:
    """Bits per byte of ``xz -9`` on a text alone, container included.

    Parameters
    ----------
    text : ndarray of uint8, shape ``[bytes]``
    """
    return len(lzma.compress(text.tobytes(), format=lzma.FORMAT_XZ, preset=9)) * 8 / text.size


@dataclass(frozen=True)
class _Level:
    """Counts of one order: sorted grams, sorted contexts, and each context's mass and fan-out."""

    grams: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    distinct: np.ndarray
    discount: float


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each key in a sorted table, and whether it is there."""
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys


class Ngram:
    """A byte n-gram model with interpolated Kneser–Ney smoothing.

    The highest order counts occurrences, each lower one the distinct bytes seen before a gram;
    each order takes the discount ``n₁/(n₁ + 2·n₂)``, or ½ where nothing was seen once, and gives
    what that leaves to the next, the last to the uniform distribution over 256 bytes.

    Parameters
    ----------
    text : ndarray of uint8, shape ``[bytes]``
        Training text.
    order : int
        Bytes of a gram, 1..8.
    """

    def __init__(self, text: np.ndarray, *, order: int = 5):
        if not 1 <= order <= 8:
            raise NomulError(f"n-gram: order is {order}; it lies in 1..8")
        if text.size == 0:
            raise NomulError("n-gram: the training text is empty; give at least one byte")
        self.order = order
        contexts = self._contexts(text)
        grams, counts = np.unique((contexts << np.uint64(8)) | text, return_counts=True)
        self._levels = [self._level(grams, counts)]
        for width in range(order - 1, 0, -1):
            mask = np.uint64((1 << (8 * width)) - 1)
            grams, counts = np.unique(grams & mask, return_counts=True)
            self._levels.append(self._level(grams, counts))

    def _contexts(self, text: np.ndarray) -> np.ndarray:
        """Key of the ``order - 1`` bytes before each byte; zeros stand before the text."""
        key = np.zeros(text.size, dtype=np.uint64)
        for distance in range(self.order - 1, 0, -1):
            key <<= np.uint64(8)
            key[distance:] |= text[:-distance]
        return key

    @staticmethod
    def _level(grams: np.ndarray, counts: np.ndarray) -> _Level:
        prefixes = grams >> np.uint64(8)
        starts = np.flatnonzero(np.concatenate([[True], prefixes[1:] != prefixes[:-1]]))
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return _Level(grams=grams, counts=counts, contexts=prefixes[starts],
                      totals=np.add.reduceat(counts, starts),
                      distinct=np.diff(np.append(starts, len(grams))),
                      discount=once / (once + 2 * twice) if once else 0.5)

    def _probability(self, contexts: np.ndarray, text: np.ndarray) -> np.ndarray:
        p = np.full(text.size, 1 / 256)
        for width, level in enumerate(reversed(self._levels)):
            context = contexts & np.uint64((1 << (8 * width)) - 1)
            at, seen = _find(level.grams, (context << np.uint64(8)) | text)
            count = np.where(seen, level.counts[at] - level.discount, 0.0)
            at, known = _find(level.contexts, context)
            mixed = (count + level.discount * level.distinct[at] * p) / level.totals[at]
            p = np.where(known, mixed, p)
        return p

    def distribution(self, context: bytes) -> np.ndarray:
        """Probability of each next byte, shape ``[256]``, after a context."""
        tail = bytes(self.order - 1) + context
        key = int.from_bytes(tail[len(tail) - self.order + 1 :], "big")
        return self._probability(np.full(256, key, dtype=np.uint64), np.arange(256, dtype=np.uint8))

    def bits_per_byte(self, text: np.ndarray) -> float:
        """Mean of −log₂ p over a text read as one stream.

        Parameters
        ----------
        text : ndarray of uint8, shape ``[bytes]``
        """
        return float(-np.log2(self._probability(self._contexts(text), text)).mean())
