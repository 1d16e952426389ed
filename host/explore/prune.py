# SPDX-License-Identifier: Apache-2.0
"""Points that need not be routed: the model says that they do not fit, or that another is faster for no more."""

from __future__ import annotations

from collections.abc import Sequence

from .cost import Cost, capacity, clock_band, cost_of, dram_cycles
from .point import Point
from .rows import watts

__all__ = ["MARGIN", "SLACK", "pruned"]

#: By how much the model's LUTs and flip-flops may be wrong, before a point is given up as too large for its chip:
#: beyond any error seen.
MARGIN = 0.20
#: What a faster point may take more of LUTs, flip-flops and watts, by the model, and still count as no dearer.
SLACK = 0.05


def pruned(points: Sequence[Point]) -> tuple[list[Point], list[tuple[Point, str]]]:
    """Points worth routing, and the others with the reason.

    A point goes if the model, its margin off, says that it does not fit its chip. Or if another for the same board and
    model is faster for certain, its own clock the lowest that such designs reach and the other's the highest, takes no
    more block RAMs and multipliers, and by the model no more LUTs, flip-flops and watts, :data:`SLACK` aside. So the
    fastest point of all stays as long as clocks stay within their bands; a front may lose a point to a faster one that
    takes a few percent more.

    Parameters
    ----------
    points : sequence of Point
        That can be.
    """
    kept: list[Point] = []
    gone: list[tuple[Point, str]] = []
    for point in points:
        found = _too_large(point, cost_of(point))
        if found is None:
            kept.append(point)
        else:
            gone.append((point, found))
    better: list[Point] = []
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in kept:
        groups.setdefault((point.board, point.model, point.scope), []).append(point)
    for group in groups.values():
        for point in group:
            beaten = next((other for other in group if other is not point and _beats(other, point)), None)
            if beaten is None:
                better.append(point)
            else:
                ratio = _speed(beaten)[0] / max(_speed(point)[1], 1e-9)
                gone.append((point, f"at least {ratio:.2f} times slower than {beaten.label}, which takes no more"))
    return better, gone


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


def _speed(point: Point) -> tuple[float, float]:
    """Tokens a second, least and most; a board whose clock may not be met gives none at the least."""
    low, high = clock_band(point)
    if point.scope == "board":
        aim = point.aim_mhz
        low, high = (aim if low >= aim else 0.0), aim
    cycles = dram_cycles(point, cost_of(point))
    return point.lanes * low * 1e6 / cycles, point.lanes * high * 1e6 / cycles


def _clock(point: Point) -> float:
    """The middle of its band, or its board's own."""
    low, high = clock_band(point)
    return point.aim_mhz if point.scope == "board" else (low + high) / 2


def _beats(a: Point, b: Point) -> bool:
    """Whether ``a`` is faster than ``b`` for certain, and no dearer."""
    mine, theirs = cost_of(a), cost_of(b)
    if mine.bram > theirs.bram or mine.multipliers > theirs.multipliers:
        return False
    most = 1.0 + SLACK
    if mine.comb > theirs.comb * most or mine.ff > theirs.ff * most or _speed(a)[0] <= _speed(b)[1]:
        return False
    return watts(a, mine, mine.area, _clock(a)) <= most * watts(b, theirs, theirs.area, _clock(b))
