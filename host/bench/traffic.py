# SPDX-License-Identifier: Apache-2.0
"""What a step of a streamed core moves through its memory, from image and configuration: nothing is simulated."""

from __future__ import annotations

from dataclasses import dataclass, field

from nomul.model import isa
from nomul.model.isa import INSTRUCTION_BYTES
from nomul.model.memory_map import LOGIT_BYTES, STATE_BYTES
from nomul.model.numbers import SOURCE_BITS
from nomul.model.placement import load_beats
from nomul.model.program import Image
from nomul.model.streamed_config import StreamedConfig

__all__ = ["PROGRAM_AHEAD_WORDS", "Traffic", "step_traffic"]

_SCALE_BYTES = 2  # before the elements of an embedding row
_AHEAD = 64  # words of the program that the core fetches ahead
_PIPELINE = 8  # more words, between the queue and the sequencer

#: Most words of memory that are fetched behind the program's end and thrown away, in each step.
PROGRAM_AHEAD_WORDS = _AHEAD + _PIPELINE


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Bytes of a step, all lanes together, in whole words of the memory.

    Attributes
    ----------
    reads, writes : dict of str to int
        By what they are for. Weights and norms share one run of words; the last word, if it is not full, counts as
        weights.
    ahead_most : int
        Bytes beyond the program's end that the core may fetch in vain; not in ``reads``.
    """

    reads: dict[str, int]
    writes: dict[str, int] = field(default_factory=dict)
    ahead_most: int = 0

    @property
    def read(self) -> int:
        """Bytes that are read, without what is fetched in vain."""
        return sum(self.reads.values())

    @property
    def total(self) -> int:
        """Bytes that are read or written."""
        return self.read + sum(self.writes.values())


def step_traffic(
    image: Image, config: StreamedConfig, *, texts: int, logits: int
) -> Traffic:
    """Bytes of one step.

    Parameters
    ----------
    image : Image
    config : StreamedConfig
        The core that it was compiled for.
    texts : int
        Recurrent states among them: lanes of one text share it.
    logits : int
        Lanes whose logits, or residual streams, are written.
    """
    word, g = config.word_bytes, image.geometry

    def whole(size: int) -> int:
        return -(-size // word) * word

    stream = whole(image.weights.size)
    norms = image.bytes_per_beat * sum(
        load_beats(i.words, image.bytes_per_beat) for i in image.program if isinstance(i, isa.Load)
    )
    reads = {
        "program": whole(len(image.program) * INSTRUCTION_BYTES),
        "weights": stream - norms,
        "norms": norms,
        # A row is read for every lane: one that is not active reads that of some token too.
        "embeddings": config.lanes * whole(_SCALE_BYTES + g.hidden),
    }
    if image.section.takes:
        del reads["embeddings"]
        reads["residuals"] = config.lanes * whole(g.hidden * SOURCE_BITS // 8)
    writes = {}
    if config.state == "memory":
        state = texts * g.layers * whole(g.hidden * STATE_BYTES)
        reads["state"] = state
        writes["state"] = state
    if config.logits == "memory":
        name = "residuals" if image.section.gives else "logits"
        writes[name] = logits * whole(image.results * LOGIT_BYTES)
    return Traffic(reads=reads, writes=writes, ahead_most=PROGRAM_AHEAD_WORDS * word)
