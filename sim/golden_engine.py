# SPDX-License-Identifier: Apache-2.0
"""What a ternary engine computes: integers, no tolerance."""

from __future__ import annotations

import numpy as np

from nomul.model.ternary import DECODE, TRITS_PER_BYTE

__all__ = ["engine"]


def engine(weights: np.ndarray, acts: np.ndarray) -> np.ndarray:
    """Sums of one tile.

    Parameters
    ----------
    weights : ndarray of uint8, shape ``[chunks, outputs, bytes_per_beat]``
        The weight stream.
    acts : ndarray of int, shape ``[chunks, lanes, 5 · bytes_per_beat]``
        Activations.

    Returns
    -------
    ndarray of int64, shape ``[outputs, lanes]``
    """
    chunks, outputs, beat = weights.shape
    trits = DECODE[weights].reshape(chunks, outputs, beat * TRITS_PER_BYTE).astype(np.int64)
    return np.einsum("coi,cli->ol", trits, acts.astype(np.int64))
