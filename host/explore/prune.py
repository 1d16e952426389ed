# SPDX-License-Identifier: Apache-2.0
"""Points that need not be routed: the model says that they do not fit, or that another is faster for no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .cost import Cost, capacity, clock_band, cost_of, dram_cycles, runs_at
from .point import Point
from .rows import watts

__all__ = ["MARGIN", "SLACK", "pruned"]

#: By how much the model's LUTs and flip-flops may be wrong, before a point is given up as too large for its chip:
#: beyond any error seen.
MARGIN = 0.20
#: What a faster point may take more of LUTs, flip-flops and watts, by the model, and still count as no dearer.
SLACK = 0.05


@dataclass(frozen=True)
class _Figures:
    """What a point is judged by: slowest and fastest tokens a second, and what it takes, by the model."""

    low: float
    high: float
    takes: tuple[float, ...]
    most: tuple[float, ...]  # that a better one may take

    @classmethod
    def of(cls, point: Point, cost: Cost) -> _Figures:
        """A point's; watts that are not known count for neither side."""
        low, high = _speed(point, cost)
        takes = (cost.bram, cost.multipliers, cost.comb, cost.ff)
        most = (cost.bram, cost.multipliers, _SLACK * cost.comb, _SLACK * cost.ff)
        power = watts(point, cost, cost.area, _clock(point))
        if power is None:
            return cls(low, high, (*takes, 0.0), (*most, float("inf")))
        return cls(low, high, (*takes, power), (*most, _SLACK * power))


_SLACK = 1.0 + SLACK


def pruned(
    points: Sequence[Point], *, seen: Callable[[int], None] = lambda count: None
) -> tuple[list[Point], list[tuple[Point, str]]]:
    """Points worth routing, and the others with the reason.

    A point goes if the model, its margin off, says that it does not fit its chip. Or if another for the same board and
    model is faster for certain, its own clock the lowest that such designs reach and the other's the highest, takes no
    more block RAMs and multipliers, and by the model no more LUTs, flip-flops and watts, :data:`SLACK` aside. So the
    fastest point of all stays as long as clocks stay within their bands; a front may lose a point to a faster one that
    takes a few percent more. Where the power model has no coefficients of a chip, watts are left out.

    Each point is compared with those alone that are on the front of slowest speed and costs: whatever beats it, one of
    these does.

    Parameters
    ----------
    points : sequence of Point
        That can be.
    seen : callable
        Gets how many points more have been judged, the whole number of them twice.
    """
    gone: list[tuple[Point, str]] = []
    groups: dict[tuple[str, str, str], list[tuple[Point, _Figures]]] = {}
    for point in points:
        cost = cost_of(point)
        found = _too_large(point, cost)
        if found is None:
            own = groups.setdefault((point.board, point.model, point.scope), [])
            own.append((point, _Figures.of(point, cost)))
        else:
            gone.append((point, found))
            seen(1)
        seen(1)
    kept: list[Point] = []
    for group in groups.values():
        better = _Front(group)
        for point, figures in group:
            other = better.beats(figures)
            if other is None:
                kept.append(point)
            else:
                ratio = other[1].low / max(figures.high, 1e-9)
                gone.append((point, f"at least {ratio:.2f} times slower than {other[0].label}, which takes no more"))
            seen(1)
    return kept, gone


class _Front:
    """Points of a group that no other is at least as fast as, at its slowest, for no more of anything."""

    def __init__(self, group: Sequence[tuple[Point, _Figures]]):
        distinct: dict[tuple[float, ...], int] = {}
        for k, (_, figures) in enumerate(group):
            distinct.setdefault((-figures.low, *figures.takes), k)
        self._members: list[tuple[Point, _Figures]] = []
        self._low = np.empty(len(distinct))
        self._takes = np.empty((len(distinct), 5))
        for (_, *takes), k in sorted(distinct.items()):  # from the fastest down
            count = len(self._members)
            if not (self._takes[:count] <= takes).all(axis=1).any():
                self._low[count], self._takes[count] = group[k][1].low, takes
                self._members.append(group[k])
        self._least = -self._low[: len(self._members)]  # ascending

    def beats(self, figures: _Figures) -> tuple[Point, _Figures] | None:
        """The fastest member that is faster for certain and no dearer."""
        count = int(np.searchsorted(self._least, -figures.high, side="left"))  # so many are
        right = (self._takes[:count] <= figures.most).all(axis=1)
        return self._members[int(right.argmax())] if right.any() else None


def _too_large(point: Point, cost: Cost) -> str | None:
    there = capacity(point.chip.device)
    for name, word, margin in (
        ("bram", "block RAMs", 0.0), ("multipliers", "multipliers", 0.0), ("comb", "LUT4", MARGIN),
        ("ff", "flip-flops", MARGIN),
    ):  # fmt: skip
        least = getattr(cost, name) * (1.0 - margin)
        if least > there[name]:
            return f"needs {least:,.0f} {word} at least, an {point.chip.device} has {there[name]:,}"
    return None


def _speed(point: Point, cost: Cost) -> tuple[float, float]:
    """Tokens a second, least and most; a board whose clock may not be met gives none at the least."""
    low, high = (runs_at(point, mhz) for mhz in clock_band(point))
    if point.scope == "board":
        aim = point.aim_mhz
        low, high = (aim if low >= aim else 0.0), aim
    cycles = dram_cycles(point, cost)
    return point.lanes * low * 1e6 / cycles, point.lanes * high * 1e6 / cycles


def _clock(point: Point) -> float:
    """The middle of its band, or its board's own."""
    low, high = clock_band(point)
    return point.aim_mhz if point.scope == "board" else runs_at(point, (low + high) / 2)
