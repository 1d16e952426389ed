# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a model lie in a board's memory (``docs/memory-image.md``).

Program, weight stream, embeddings; then what the core writes: recurrent states and logits. Everything
begins at a block of 64 bytes, so one image serves memories of any word up to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .geometry import Geometry
from .isa import INSTRUCTION_BYTES

__all__ = ["BLOCK", "LOGIT_BYTES", "STATE_BYTES", "MemoryMap", "state_place"]

BLOCK = 64  #: Bytes of a block.
STATE_BYTES = 4  #: Of an element of recurrent state in memory.
LOGIT_BYTES = 4


def _blocks(size: int) -> int:
    return -(-size // BLOCK)


def state_place(geometry: Geometry, layer: int) -> int:
    """Element at which a layer's recurrent state begins in its slot's: that of a block."""
    return layer * _blocks(geometry.hidden * STATE_BYTES) * (BLOCK // STATE_BYTES)


@dataclass(frozen=True, kw_only=True)
class MemoryMap:
    """Blocks at which parts begin. The program begins at 0.

    Attributes
    ----------
    stream, embeddings, state, logits : int
        First blocks.
    state_stride : int
        Blocks from one slot's recurrent state to the next one's; 0 if states stay on the chip.
    logits_stride : int
        Blocks from one lane's logits to the next one's.
    end : int
        Blocks in all.
    """

    stream: int
    embeddings: int
    state: int
    logits: int
    state_stride: int
    logits_stride: int
    end: int

    @classmethod
    def of(
        cls,
        geometry: Geometry,
        *,
        instructions: int,
        stream_bytes: int,
        embedding_bytes: int,
        results: int,
        lanes: int,
        slots: int,
    ) -> MemoryMap:
        """One part behind the other; ``slots`` is 0 if states stay on the chip, ``results`` are those of a lane."""
        stream = _blocks(instructions * INSTRUCTION_BYTES)
        embeddings = stream + _blocks(stream_bytes)
        state = embeddings + _blocks(embedding_bytes)
        state_bytes = state_place(geometry, geometry.layers) * STATE_BYTES
        state_stride = _blocks(state_bytes) if slots else 0
        logits = state + slots * state_stride
        logits_stride = _blocks(results * LOGIT_BYTES)
        return cls(
            stream=stream,
            embeddings=embeddings,
            state=state,
            logits=logits,
            state_stride=state_stride,
            logits_stride=logits_stride,
            end=logits + lanes * logits_stride,
        )

    @property
    def image_bytes(self) -> int:
        """Bytes that are written before the first token."""
        return self.state * BLOCK

    @property
    def size(self) -> int:
        """Bytes of memory that the model needs."""
        return self.end * BLOCK

    def parts(
        self, program: np.ndarray, weights: np.ndarray, embeddings: np.ndarray
    ) -> Iterator[tuple[str, int, np.ndarray]]:
        """Name, address and bytes (uint8 ``[n]``) of each part to be written."""
        words = program.astype("<u8").view(np.uint8)
        yield "program", 0, words
        yield "weights", self.stream * BLOCK, weights.reshape(-1)
        yield "embeddings", self.embeddings * BLOCK, embeddings.reshape(-1)
