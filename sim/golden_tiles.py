# SPDX-License-Identifier: Apache-2.0
"""Sums of ternary products of one tile of the weight stream, in two ways that give the same integers.

Small models are unpacked once: 32 bits a weight, one matrix product a tile. Large ones stay packed as
they lie in the memory image, 1.6 bits a weight, and are looked up or unpacked piece by piece.
Sums are float32 matrix products, which are exact below 2²⁴: rows of up to 132,104 inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from nomul.model.ternary import DECODE, TRITS_PER_BYTE

__all__ = ["DENSE_MAX", "DenseTile", "PackedTile", "Tile"]

DENSE_MAX = 1 << 24  #: Weight bytes up to which a model is unpacked: 320 MB of float32.

_PIECE = 1 << 14  # weight bytes worked on at a time: what they become stays in the cache

_TRITS = DECODE.astype(np.float32)
# The first four trits of a byte as one element, so that a look-up copies 16 bytes.
_FOUR = np.ascontiguousarray(_TRITS[:, :4]).view(np.complex128)[:, 0]
_FIFTH = np.ascontiguousarray(_TRITS[:, 4])


class Tile(Protocol):
    """One tile of weights."""

    @staticmethod
    def operand(acts: np.ndarray, beat: int) -> Any:
        """What :meth:`sums` of all tiles of a pass take.

        Parameters
        ----------
        acts : ndarray of float32, shape ``[L, chunks · 5 · G]``
            Integers, -127 to 127.
        beat : int
            ``G``.
        """

    def sums(self, operand: Any) -> np.ndarray:
        """Sums of its outputs, int64 ``[L, outputs]``."""


class DenseTile:
    """A tile unpacked once, float32 ``[K, outputs]``.

    Parameters
    ----------
    beats : ndarray of uint8, shape ``[chunks · outputs, G]``
        In the order of streaming.
    outputs, chunks : int
    """

    def __init__(self, beats: np.ndarray, outputs: int, chunks: int):
        trits = DECODE[beats].reshape(chunks, outputs, -1)
        self._matrix = np.ascontiguousarray(
            trits.transpose(0, 2, 1).reshape(-1, outputs).astype(np.float32)
        )

    @staticmethod
    def operand(acts: np.ndarray, beat: int) -> np.ndarray:
        """See :class:`Tile`."""
        return acts

    def sums(self, operand: np.ndarray) -> np.ndarray:
        """See :class:`Tile`."""
        return (operand @ self._matrix).astype(np.int64)


@dataclass(frozen=True)
class _Looked:
    """Of one lane: the sum that each byte stands for, float32 ``[chunks, G · 256]``."""

    tables: np.ndarray


@dataclass(frozen=True)
class _Split:
    """Of several: activations as unpacked bytes meet them, ``[chunks, 4 · G, L]`` and ``[chunks, G, L]``."""

    four: np.ndarray
    fifth: np.ndarray


class PackedTile:
    """A tile that stays in the memory image; the parameters are those of :class:`DenseTile`.

    With one lane a weight byte is a table index, as it is in the core's table engine. With more it is
    cheaper to unpack it and multiply.
    """

    def __init__(self, beats: np.ndarray, outputs: int, chunks: int):
        self._beats = beats.reshape(chunks, outputs, -1)

    @staticmethod
    def operand(acts: np.ndarray, beat: int) -> _Looked | _Split:
        """See :class:`Tile`."""
        lanes = len(acts)
        if lanes == 1:
            sums = acts.reshape(-1, TRITS_PER_BYTE) @ _TRITS.T
            return _Looked(sums.reshape(-1, beat * len(_TRITS)))
        split = acts.reshape(lanes, -1, beat, TRITS_PER_BYTE).transpose(1, 2, 3, 0)
        return _Split(
            np.ascontiguousarray(split[:, :, :4]).reshape(-1, 4 * beat, lanes),
            np.ascontiguousarray(split[:, :, 4]),
        )

    def sums(self, operand: _Looked | _Split) -> np.ndarray:
        """See :class:`Tile`."""
        chunks, outputs, beat = self._beats.shape
        lanes = operand.fifth.shape[2] if isinstance(operand, _Split) else 1
        total = np.zeros((outputs, lanes), dtype=np.float32)
        begins, ones = np.arange(beat) * len(_TRITS), np.ones((beat, 1), dtype=np.float32)
        rows = max(1, _PIECE // beat)
        for begin in range(0, outputs, rows):
            here = total[begin : begin + rows]
            for chunk in range(chunks):
                code = self._beats[chunk, begin : begin + rows]
                if isinstance(operand, _Looked):
                    here += operand.tables[chunk].take(code + begins, mode="clip") @ ones
                else:
                    index = code.astype(np.intp)
                    here += _FOUR.take(index, mode="clip").view(np.float32) @ operand.four[chunk]
                    here += _FIFTH.take(index, mode="clip") @ operand.fifth[chunk]
        return total.T.astype(np.int64)
