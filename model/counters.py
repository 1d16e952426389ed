# SPDX-License-Identifier: Apache-2.0
"""What the core counts: words of 32 bits, little endian, in region COUNTERS of its memory bus."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["COUNTER_BYTES", "EXPOSED", "Counter", "counter_words"]

COUNTER_BYTES = 4


class Counter(IntEnum):
    """Index of a word. All but the saturations are of the latest token.

    Every cycle of a token is one with a weight beat or belongs to exactly one ``EXPOSED_`` counter,
    the first that holds; so ``TOKEN_CYCLES = BEATS + sum of EXPOSED``.
    """

    TOKEN_CYCLES = 0  #: from the cycle after the token was taken until its end is known
    BEATS = 1  #: cycles in which the engine took a weight beat
    EXPOSED_MEMORY = 2  #: the engine could take a beat and there is none: memory is too slow
    EXPOSED_LOAD = 3  #: the same, because norms come in the weight stream
    EXPOSED_EMBED = 4  #: no Quant was issued yet: the embedding is read and reduced
    EXPOSED_ACTS = 5  #: a Quant or a Tile is under way: the engine waits for activations or tables
    EXPOSED_DRAIN = 6  #: Stat or End waits for the vector unit to finish the pass
    EXPOSED_SCALAR = 7  #: scalar operations, and whatever else
    SATURATED_RESIDUAL = 8  #: elements of the residual stream limited since reset or an aborted token, at most 65535
    SATURATED_T = 9  #: arguments of σ limited since reset or an aborted token, at most 65535
    ERROR = 10  #: a :class:`~nomul.model.protocol.Fault` other than 0: the token has no result
    LOGIT_SCALE = 11  #: two words a lane: mantissa and exponent (signed) of the scale of the logits


#: The counters of cycles without a beat.
EXPOSED = (
    Counter.EXPOSED_MEMORY, Counter.EXPOSED_LOAD,
    Counter.EXPOSED_EMBED, Counter.EXPOSED_ACTS, Counter.EXPOSED_DRAIN, Counter.EXPOSED_SCALAR,
)  # fmt: skip


def counter_words(lanes: int) -> int:
    """Words in the region of a core of so many lanes."""
    return Counter.LOGIT_SCALE + 2 * lanes
