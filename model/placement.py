# SPDX-License-Identifier: Apache-2.0
"""Where norm vectors lie: all of a model in memory on the chip, or a layer's, brought by the weight stream.

Five groups of vectors belong to a layer, in the order of their use:

======  =========================================  ======================================
group   vectors                                    read by
======  =========================================  ======================================
gates   norms of f, i and g, that of the squares   the reduction before the layer, its quantisations
state   lower bound, norm of o, of the squares     FORGET, OUTPUT, the quantisation of o
mlp     norm of gate and up, of the squares        RESIDUAL of o, the quantisation of gate and up
down    norm of down                               GATED, the quantisation of down
next    gates of the next layer, or of the head    RESIDUAL of down
======  =========================================  ======================================

Streamed, they come in the gaps between matrices, where the engine waits for its first activations
anyway. Two areas hold them in turns: ``gates`` and ``mlp`` in the first, ``state`` and ``down`` in the
second. A group is loaded when the engine has taken the last beat of the matrix before; by then nobody
reads what lay there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from . import isa
from .geometry import Geometry
from .numbers import NORM_BITS, VECTOR_LANES

__all__ = [
    "NORM_WORD_BYTES",
    "NormPlacement",
    "OnChipNorms",
    "StreamedNorms",
    "load_beats",
    "streamed_norm_words",
]

NORM_WORD_BYTES = VECTOR_LANES * NORM_BITS // 8  #: Bytes of a word of norm memory.


def load_beats(words: int, bytes_per_beat: int) -> int:
    """Beats that so many words of norm memory take in the weight stream."""
    return -(-words * NORM_WORD_BYTES // bytes_per_beat)


def _words(vector: np.ndarray) -> np.ndarray:
    """A vector in whole words, uint16 ``[words, 4]``."""
    count = -(-len(vector) // VECTOR_LANES)
    padded = np.zeros(count * VECTOR_LANES, dtype=np.uint16)
    padded[: len(vector)] = vector.view(np.uint16) if vector.dtype == np.int16 else vector
    return padded.reshape(count, VECTOR_LANES)


class NormPlacement(Protocol):
    """Places groups of norm vectors."""

    def store(self, area: int, *vectors: np.ndarray) -> int:
        """The word where a group begins; its vectors lie one behind the other."""

    def ahead(self, last: np.ndarray, before: int) -> None:
        """May bring the last vector of the next group in area 0 now; ``before`` is how many precede it there."""


class OnChipNorms:
    """Every group has its own place for good.

    Attributes
    ----------
    words : list of ndarray
        What norm memory holds.
    """

    def __init__(self) -> None:
        self.words: list[np.ndarray] = []
        self._end = 0

    def store(self, area: int, *vectors: np.ndarray) -> int:
        """See :class:`NormPlacement`."""
        begin = self._end
        for vector in vectors:
            self.words.append(_words(vector))
            self._end += len(self.words[-1])
        return begin

    def ahead(self, last: np.ndarray, before: int) -> None:
        """See :class:`NormPlacement`."""


def _areas(geometry: Geometry, bytes_per_beat: int) -> tuple[int, int]:
    """Words of both areas, each a whole number of beats."""
    step = max(1, bytes_per_beat // NORM_WORD_BYTES)
    d, m = (-(-n // VECTOR_LANES) for n in (geometry.hidden, geometry.intermediate))
    first, second = 4 * d, max(3 * d, m)
    return -(-first // step) * step, -(-second // step) * step


def streamed_norm_words(geometry: Geometry, bytes_per_beat: int) -> int:
    """Words of norm memory that a streamed model needs."""
    return sum(_areas(geometry, bytes_per_beat))


class StreamedNorms:
    """Groups are loaded from the weight stream into two areas.

    Parameters
    ----------
    geometry : Geometry
    bytes_per_beat : int
        ``G``, a multiple of 8.
    emit : callable
        Takes the instructions.
    stream : callable
        Takes beats, uint8 ``[beats, G]``.
    """

    def __init__(
        self,
        geometry: Geometry,
        bytes_per_beat: int,
        emit: Callable[[isa.Instruction], None],
        stream: Callable[[np.ndarray], None],
    ) -> None:
        self._beat = bytes_per_beat
        self._step = bytes_per_beat // NORM_WORD_BYTES
        self._begin = (0, _areas(geometry, bytes_per_beat)[0])
        self._vector = -(-geometry.hidden // VECTOR_LANES)
        self._emit, self._stream = emit, stream
        self._is_ahead = False

    def _load(self, address: int, words: np.ndarray) -> None:
        beats = load_beats(len(words), self._beat)
        made = np.zeros(beats * self._beat, dtype=np.uint8)
        made[: words.size * 2] = words.astype("<u2").reshape(-1).view(np.uint8)
        self._emit(isa.Load(address=address, words=len(words)))
        self._stream(made.reshape(beats, self._beat))

    def store(self, area: int, *vectors: np.ndarray) -> int:
        """See :class:`NormPlacement`."""
        if area == 0 and self._is_ahead:
            vectors, self._is_ahead = vectors[:-1], False
        self._load(self._begin[area], np.concatenate([_words(v) for v in vectors]))
        return self._begin[area]

    def ahead(self, last: np.ndarray, before: int) -> None:
        """See :class:`NormPlacement`: so that no gap has more to load than the others.

        Done only where the place is the beginning of a beat, and behind what lies in the area now.
        """
        place = before * self._vector
        if before > 2 and place % self._step == 0:
            self._load(self._begin[0] + place, _words(last))
            self._is_ahead = True
