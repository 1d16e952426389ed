# SPDX-License-Identifier: Apache-2.0
"""What follows from sizes and samples: the link's time, a memory's share, the roofline. Nothing here is timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nomul.hw.dram.boards import BOARDS, DramBoard
from nomul.model.protocol import HEADER_BYTES, LANE_BYTES, max_rows
from nomul.model.ternary import TRITS_PER_BYTE

from .figures import figure
from .measure import Case

__all__ = ["BAUD", "link_figure", "peak_figure", "roofline", "traffic_figures"]

BAUD = 3_000_000  #: Of the link, for its computed share.
_LINK_BITS = 10  # a byte with its start and stop bits
_FRAME_BYTES = HEADER_BYTES + 4 + 2  # of a frame without arguments: CRC and two SLIP ends besides
_JOB_BYTES = 4  # job and steps
_POLL_BYTES = (4, 1 + 1 + 2 + 2)  # arguments; state, fault, done and an arg-max
_STATUS_BYTES = 1

Configuration = Mapping[str, Any]  #: Of a core, as a file has it.


def link_figure(case: Case, configuration: Configuration) -> dict[str, Any]:
    """Least time of the link until the first token is there: the prompt's jobs, an answer to each, and a poll."""
    lanes = configuration["lanes"]
    rows = -(-case.prompt // lanes) if case.users == 1 else case.prompt
    jobs = -(-rows // max_rows(lanes))
    size = jobs * (2 * _FRAME_BYTES + _JOB_BYTES + _STATUS_BYTES) + rows * lanes * LANE_BYTES
    size += jobs * (2 * _FRAME_BYTES + sum(_POLL_BYTES) + _STATUS_BYTES)
    return figure(size * _LINK_BITS / BAUD, "s", "computed", baud=BAUD)


def peak_figure(configuration: Configuration, memory: DramBoard | None, clock_hz: float) -> dict[str, Any] | None:
    """Bytes a second that a core's memory can move; None if its weights lie on the chip."""
    if "port" not in configuration:
        return None
    if memory is not None:
        return figure(memory.peak, "B/s", "computed", of=memory.name)
    return figure(configuration["word_bytes"] * clock_hz, "B/s", "computed", of="a word in every cycle")


def traffic_figures(
    case: Case,
    times: Sequence[tuple[float, float]],
    *,
    reads: Mapping[str, int],
    writes: Mapping[str, int],
    ahead_most: int,
    ternary_weights: int,
    peak: Mapping[str, Any],
    label: str,
) -> dict[str, Any]:
    """What a step of generating moves, of a token and a second, and the share of the memory's peak.

    Parameters
    ----------
    case : Case
    times : sequence of (float, float)
        Seconds to the first and to the last token, of each repetition.
    reads, writes : mapping of str to int
        Bytes of a step.
    ahead_most : int
        Bytes fetched in vain, at most.
    ternary_weights : int
    peak : mapping
        See :func:`peak_figure`.
    label : str
        Of the times.
    """
    total = sum(reads.values()) + sum(writes.values())
    per_second = [total * (case.output - 1) / (last - first) for first, last in times]
    return {
        "bytes_per_step": figure(total, "B", "computed", ahead_most=ahead_most),
        "bytes_per_token": figure(total / case.users, "B", "computed"),
        "weights_per_token": figure(ternary_weights / TRITS_PER_BYTE / case.users, "B", "computed"),
        "reads": dict(reads),
        "writes": dict(writes),
        "bandwidth": figure(per_second, "B/s", label),
        "peak": dict(peak),
        "share_of_peak": figure([value / peak["value"] for value in per_second], "", label),
    }


def roofline(configuration: Configuration, memory: DramBoard | None, clock_hz: float) -> dict[str, Any]:
    """What limits tokens a second of one user at any size.

    The memory of the core that was benched, if it has one; every other bandwidth that boards' memories have, once; the
    engine. Five weights are in a byte.
    """
    bounds = []
    own = peak_figure(configuration, memory, clock_hz)
    if own is not None:
        bounds.append({
            "name": f"this memory: {own['value'] / 1e6:,.0f} MB/s", "label": "computed", "kind": "own memory",
            "weights_per_second": TRITS_PER_BYTE * own["value"], "what": f"{own['of']}, five weights a byte",
        })  # fmt: skip
    by_peak: dict[int, list[str]] = {}
    for board in BOARDS.values():
        by_peak.setdefault(board.peak, []).append(board.name)
    for peak, names in sorted(by_peak.items(), reverse=True):
        if own is None or peak != own["value"]:
            bounds.append({
                "name": f"memory of {peak / 1e6:,.0f} MB/s", "label": "computed", "kind": "memory",
                "weights_per_second": TRITS_PER_BYTE * peak, "what": f"pins of {', '.join(names)}, five weights a byte",
            })  # fmt: skip
    trits = TRITS_PER_BYTE * configuration["bytes_per_beat"]
    bounds.append({
        "name": "engine of this core", "label": "computed", "kind": "engine",
        "weights_per_second": trits * clock_hz, "what": f"{trits} weights a cycle at {clock_hz / 1e6:g} MHz",
    })  # fmt: skip
    return {"bounds": bounds}
