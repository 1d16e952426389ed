# SPDX-License-Identifier: Apache-2.0
"""Points that need not be routed: the model says that they do not fit, or that another is better in everything."""

from __future__ import annotations

from collections.abc import Sequence

from .cost import Cost, capacity, clock_band, cost_of, dram_cycles
from .point import Point

__all__ = ["MARGIN", "pruned"]

#: By how much the model's LUTs and flip-flops may be wrong, before a point is given up for it: beyond any error seen.
MARGIN = 0.20


def pruned(points: Sequence[Point]) -> tuple[list[Point], list[tuple[Point, str]]]:
    """Points worth routing, and the others with the reason.

    A point goes if the model, margins off, says that it does not fit its chip; or if another point for the same board
    and model is at least as good in tokens a second, LUTs, block RAMs and watts and better in one, even with the margins
    against it: its clock at the low end of what such designs reach, the other's at the high end. So no point of a
    front goes as long as the model is not further off than its margins.

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
                gone.append((point, f"{beaten.label} is better in everything"))
    return better, gone


def _too_large(point: Point, cost: Cost) -> str | None:
    there = capacity(point.chip.device)
    for name, word, margin in (
        ("bram", "block RAMs", 0.0), ("multipliers", "multipliers", 0.0), ("comb", "LUT4", MARGIN), ("ff", "flip-flops", MARGIN),
    ):  # fmt: skip
        least = getattr(cost, name) * (1.0 - margin)
        if least > there[name]:
            return f"needs {least:,.0f} {word} at least, an {point.chip.device} has {there[name]:,}"
    return None


def _speed(point: Point, cost: Cost) -> tuple[float, float]:
    """Tokens a second, least and most; a board whose clock may not be met gives none at the least."""
    low, high = clock_band(point)
    if point.scope == "board":
        low, high = (point.aim_mhz if low >= point.aim_mhz else 0.0), (point.aim_mhz if high >= point.aim_mhz else 0.0)
    cycles = dram_cycles(point, cost)
    return point.lanes * low * 1e6 / cycles, point.lanes * high * 1e6 / cycles


def _beats(a: Point, b: Point) -> bool:
    """Whether ``a`` is better than ``b`` for certain."""
    mine, theirs = cost_of(a), cost_of(b)
    if mine.bram > theirs.bram or mine.multipliers > theirs.multipliers:
        return False
    most, least = 1.0 + MARGIN, 1.0 - MARGIN
    if mine.comb * most > theirs.comb * least or mine.ff * most > theirs.ff * least:
        return False
    # Watts: less of everything at a clock that is not higher for certain.
    if clock_band(a)[1] > clock_band(b)[0] and not _cooler(a, b):
        return False
    return _speed(a, mine)[0] >= _speed(b, theirs)[1]


def _cooler(a: Point, b: Point) -> bool:
    """Whether ``a`` takes fewer watts than ``b``, its clock the highest and the other's the lowest."""
    from .rows import watts

    mine, theirs = cost_of(a), cost_of(b)
    high, low = clock_band(a)[1], clock_band(b)[0]
    if a.scope == "board":
        high, low = a.aim_mhz, b.aim_mhz
    more = {"comb": mine.comb * (1 + MARGIN), "ff": mine.ff * (1 + MARGIN)}
    less = {"comb": theirs.comb * (1 - MARGIN), "ff": theirs.ff * (1 - MARGIN)}
    return watts(a, mine, {**mine.area, **more}, high) <= watts(b, theirs, {**theirs.area, **less}, low)
