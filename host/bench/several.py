# SPDX-License-Identifier: Apache-2.0
"""What one model over several boards would reach: bytes and links computed, cycles given or modelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nomul.host.pipeline import MOST_LANES
from nomul.model.geometry import Geometry
from nomul.model.memory_map import BLOCK
from nomul.model.numbers import SOURCE_BITS, VECTOR_LANES
from nomul.model.placement import NORM_WORD_BYTES, load_beats
from nomul.model.program import SECTION_BUFFERS, embedding_stride
from nomul.model.protocol import LANE_BYTES, LOGIT_BYTES, MAX_DATA
from nomul.model.sections import layer_ranges
from nomul.model.ternary import TRITS_PER_BYTE

__all__ = ["Link", "Section", "Several", "model_boards"]

_FRAME = 2 + 5 + 4  # ends, header, CRC
_STATUS = 1
_PLACE = 4  # an address
_SWITCH = 8  # bytes of an instruction
_STATE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Link:
    """What carries frames, one direction at a time as the protocol has it.

    Parameters
    ----------
    name : str
    bytes_per_second : float
    """

    name: str
    bytes_per_second: float

    def write_s(self, size: int) -> float:
        """Least time of writing so many bytes: frames, nothing escaped, nobody waits."""
        frames = -(-size // MAX_DATA)
        return (size + frames * (2 * _FRAME + _PLACE + _STATUS)) / self.bytes_per_second

    def read_s(self, size: int) -> float:
        """The same of reading."""
        frames = -(-size // MAX_DATA)
        return (size + frames * (2 * _FRAME + _PLACE + 2 + _STATUS)) / self.bytes_per_second

    def job_s(self, lanes: int) -> float:
        """Of a job of one step, and a poll with its result."""
        job = 2 * _FRAME + 4 + LANE_BYTES * lanes + _STATUS
        poll = 2 * _FRAME + 4 + 4 + 2 * lanes + _STATUS
        return (job + poll) / self.bytes_per_second


@dataclass(frozen=True, kw_only=True)
class Section:
    """A board's share.

    Attributes
    ----------
    layers : int
    memory_bytes : int
        That it takes, states and buffers included.
    step_bytes : int
        Read from memory in a step, all lanes at work for a text each.
    step_s : float
        Of a step in the core.
    link_s : float
        Of a step's residual streams, job and result on its link.
    """

    layers: int
    memory_bytes: int
    step_bytes: int
    step_s: float
    link_s: float


@dataclass(frozen=True, kw_only=True)
class Several:
    """A model over boards.

    Attributes
    ----------
    sections : list of Section
    lanes : int
    """

    sections: list[Section]
    lanes: int

    @property
    def tokens_per_second(self) -> float:
        """Summed, with enough groups of lanes: the slowest board's core, or its link, sets the pace."""
        return self.lanes / max(max(s.step_s, s.link_s) for s in self.sections)

    @property
    def groups(self) -> int:
        """Groups of lanes that the driver has under way: as :class:`~nomul.host.pipeline.Pipeline` by default."""
        return max(1, min(2 * len(self.sections), MOST_LANES // self.lanes))

    @property
    def driver_tokens_per_second(self) -> float:
        """Summed, with so many groups: if they are few, boards wait for them."""
        return min(self.tokens_per_second, self.groups * self.lanes * self.single_tokens_per_second)

    @property
    def single_tokens_per_second(self) -> float:
        """One user alone: its token goes through all cores and links, one after the other."""
        return 1 / sum(s.step_s + s.link_s for s in self.sections)


def _matrix(outputs: int, inputs: int, beat: int) -> int:
    return outputs * -(-inputs // (TRITS_PER_BYTE * beat)) * beat


def stream_bytes(geometry: Geometry, layers: int, *, head: bool, beat: int) -> int:
    """Bytes of a section's weight stream: matrices, and norms between them."""
    d, m = geometry.hidden, geometry.intermediate
    words = -(-d // VECTOR_LANES)

    def norms(*vectors: int) -> int:
        return load_beats(sum(vectors), beat) * beat

    wide = -(-m // VECTOR_LANES)
    layer = 4 * _matrix(d, d, beat) + _matrix(2 * m, d, beat) + _matrix(d, m, beat)
    layer += norms(4 * words) + norms(3 * words) + norms(2 * words) + norms(wide)
    assert NORM_WORD_BYTES * words >= 2 * d
    return layers * layer + norms(2 * words) + (_matrix(geometry.vocab, d, beat) if head else 0)


def model_boards(
    geometry: Geometry,
    boards: int,
    *,
    lanes: int,
    link: Link,
    clock_hz: float,
    bytes_per_cycle: float,
    share_of_peak: float,
    beat: int = 8,
    steps_s: Sequence[float] | None = None,
) -> Several:
    """The boards of a model.

    Parameters
    ----------
    geometry : Geometry
    boards, lanes : int
        Lanes of each.
    link : Link
        Every board's own.
    clock_hz, bytes_per_cycle, share_of_peak : float
        Of a board's memory: a step takes the bytes that it reads over that share of the peak.
    beat : int
    steps_s : sequence of float, optional
        Seconds of a step on each board, where they are known.

    Raises
    ------
    NomulError
        If there are more boards than layers.
    """
    d, found = geometry.hidden, []
    width = d * SOURCE_BITS // 8
    texts = lanes * (2 * boards if boards > 1 else 1)
    ranges = layer_ranges(geometry, boards, bytes_per_beat=beat)
    for number, part in enumerate(ranges):
        first, last = number == 0, number == boards - 1
        stream = stream_bytes(geometry, len(part), head=last, beat=beat)
        state = len(part) * -(-d * _STATE_BYTES // BLOCK) * BLOCK
        memory = stream + texts * state
        memory += geometry.vocab * embedding_stride(d, streamed=True) if first else SECTION_BUFFERS * lanes * width
        memory += lanes * (LOGIT_BYTES * geometry.vocab if last else SECTION_BUFFERS * width)
        step = stream + lanes * (state + (2 + d if first else width))
        seconds = step / (bytes_per_cycle * share_of_peak * clock_hz)
        on_link = link.job_s(lanes)
        on_link += 0 if first else link.write_s(lanes * width)
        on_link += 0 if last else link.read_s(lanes * width) + link.write_s(_SWITCH)
        found.append(Section(
            layers=len(part), memory_bytes=memory, step_bytes=step,
            step_s=seconds if steps_s is None else steps_s[number], link_s=on_link,
        ))  # fmt: skip
    return Several(sections=found, lanes=lanes)
