# SPDX-License-Identifier: Apache-2.0
"""Plots as inline SVG; colours and fonts are the page's, by class, so they follow light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from .figures import shown

__all__ = [
    "Bar", "Bound", "Dot", "DotRow", "Line", "Mark", "Scatter", "bars", "dots", "lines", "roofline", "scatter",
]  # fmt: skip

_WIDTH = 760
_MARK = 8.5  # radius of a numbered mark


@dataclass(frozen=True, kw_only=True)
class Bound:
    """A straight line in a roofline: weights a second over weights."""

    name: str
    weights_per_second: float
    style: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point in a roofline; ``text`` is in it or, of our own, below the plot."""

    x: float
    y: float
    text: str
    style: str
    title: str
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A value in a row; ``low`` and ``high`` are a bar about it."""

    value: float
    style: str
    title: str
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class DotRow:
    """A row of a plot of dots: who, what beside it in small, the dots, and what stands right of them."""

    name: str
    small: str
    dots: Sequence[Dot]
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line with a bar about each point: ``(x, value, low, high)``."""

    name: str
    style: str
    points: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar of parts, each a name and a value."""

    name: str
    small: str
    parts: Sequence[tuple[str, float]]


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """A point among others; ``front``: it is on the front."""

    x: float
    y: float
    title: str
    front: bool = False


class _Log:
    """A logarithmic axis between two ends, in pixels from ``at`` to ``to``."""

    def __init__(self, values: Sequence[float], at: float, to: float, *, margin: float = 0.18):
        logs = [math.log10(value) for value in values]
        low, high = min(logs), max(logs)
        grown = max(margin, (1.0 - (high - low)) / 2)
        self.low, self.high = low - grown, high + grown
        self._at, self._to = at, to

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self._at + share * (self._to - self._at)

    def decades(self) -> list[float]:
        """Powers of ten within; of narrow axes 2 and 5 times these too."""
        wide = self.high - self.low > 2.2
        found = [
            10.0**power * step
            for power in range(math.floor(self.low), math.ceil(self.high) + 1)
            for step in ((1,) if wide else (1, 2, 5))
        ]
        return [value for value in found if self.low <= math.log10(value) <= self.high]


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{style}"/>'


def _tick(value: float, unit: str = "") -> str:
    """A round number, short."""
    if unit:
        return shown(value, unit)
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"


def _apart(wanted: Sequence[float], least: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Places near those wanted, none nearer to another than ``least``, from ``low`` to ``high``; in the order given."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    placed = [min(max(wanted[k], low), high) for k in order]
    for _ in range(60):
        moved = False
        for k in range(1, len(placed)):
            short = least - (placed[k] - placed[k - 1])
            if short > 1e-6:
                placed[k - 1] -= short / 2
                placed[k] += short / 2
                moved = True
        if not moved:
            break
    for k, place in enumerate(placed):
        placed[k] = max(place, low if k == 0 else placed[k - 1] + least)
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], high if k == len(placed) - 1 else placed[k + 1] - least)
    found = [0.0] * len(wanted)
    for k, place in zip(order, placed, strict=True):
        found[k] = place
    return found


def _free(x: float, y: float, taken: Sequence[tuple[float, float]], low: float, high: float) -> float:
    """Where a mark may be that should be at ``x``: beside those that are there already, from ``low`` to ``high``."""
    step = 2 * _MARK + 1
    for number in range(80):
        place = x + (number + 1) // 2 * step * (1 if number % 2 else -1)
        if low <= place <= high and all((place - tx) ** 2 + (y - ty) ** 2 > step**2 for tx, ty in taken):
            return place
    return x


def roofline(bounds: Sequence[Bound], marks: Sequence[Mark], *, title: str) -> str:
    """Tokens a second against ternary weights, both logarithmic, with what bounds them.

    Others' marks have numbers; ours have letters, with their names below.
    """
    height, left, right, top, bottom = 470.0, 58.0, 190.0, 14.0, 48.0
    edge, foot = _WIDTH - right, height - bottom
    x = _Log([mark.x for mark in marks], left, edge, margin=0.3)
    y = _Log([mark.y for mark in marks], foot, top, margin=0.45)
    parts = []
    for value in x.decades():
        parts.append(_line(x(value), top, x(value), foot, "grid"))
        parts.append(_text(x(value), foot + 17, _tick(value), "tick", "middle"))
    for value in y.decades():
        parts.append(_line(left, y(value), edge, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, _tick(value), "tick", "end"))
    parts.append(_text((left + edge) / 2, height - 8, "ternary weights of the model", "axis", "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(top + foot) / 2:.0f}) '
        f'rotate(-90)">tokens a second</text>'
    )
    ends = []
    for bound in bounds:
        rate = math.log10(bound.weights_per_second)
        low = max(x.low, rate - y.high)
        high = min(x.high, rate - y.low)
        if low >= high:
            continue
        points = [(x(10**at), y(10 ** (rate - at))) for at in (low, high)]
        parts.append(_line(*points[0], *points[1], f"bound {bound.style}"))
        # One that leaves at the foot is told there too, in the order in which they leave.
        ends.append((bound, points[1], points[1][1] + (edge - points[1][0])))
    places = _apart([wanted for _, _, wanted in ends], 17, top + 8, foot - 4)
    for (bound, (ex, ey), _), at in zip(ends, places, strict=True):
        parts.append(_line(ex, ey, edge + 8, at, f"leader {bound.style}"))
        parts.append(_text(edge + 12, at + 4, bound.name, f"name {bound.style}"))
    taken: list[tuple[float, float]] = []
    discs = []  # over all that leads to them
    ours = [mark for mark in marks if mark.ours]
    letters = {id(mark): chr(ord("A") + number % 26) for number, mark in enumerate(ours)}
    for mark in [*ours, *(mark for mark in marks if not mark.ours)]:
        px, py = x(mark.x), y(mark.y)
        place = _free(px, py, taken, left + _MARK, edge - _MARK)
        taken.append((place, py))
        kind = "ours" if mark.ours else "peer"
        if place != px:
            parts.append(_line(px, py, place, py, "leader"))
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2" class="{kind}-true {mark.style}"/>')
        discs.append(
            f'<g class="{kind} {mark.style}"><title>{escape(mark.title)}</title>'
            f'<circle cx="{place:.1f}" cy="{py:.1f}" r="{_MARK}"/>'
            f"{_text(place, py + 3.7, letters.get(id(mark), mark.text), '', 'middle')}</g>"
        )
    parts += discs
    for number, mark in enumerate(ours):
        at_x, at_y = left + number % 2 * (_WIDTH - left) / 2, height + 12 + 22 * (number // 2)
        parts.append(
            f'<g class="ours {mark.style}"><circle cx="{at_x + _MARK:.1f}" cy="{at_y:.1f}" r="{_MARK}"/>'
            f"{_text(at_x + _MARK, at_y + 3.7, letters[id(mark)], '', 'middle')}</g>"
            f"{_text(at_x + 2 * _MARK + 7, at_y + 4, mark.text, f'name {mark.style}')}"
        )
    return _svg(height + 22 * -(-len(ours) // 2) + 6, title, parts)


def dots(rows: Sequence[DotRow], *, unit: str, axis: str, title: str) -> str:
    """Rows of dots over one logarithmic axis."""
    left, right, top, step, bottom = 272.0, 146.0, 8.0, 34.0, 42.0
    height = top + step * len(rows) + bottom
    values = [v for row in rows for dot in row.dots for v in (dot.value, dot.low, dot.high) if v is not None and v > 0]
    x = _Log(values, left, _WIDTH - right)
    parts = []
    for value in x.decades():
        parts.append(_line(x(value), top, x(value), height - bottom, "grid"))
        parts.append(_text(x(value), height - bottom + 16, _tick(value, unit), "tick", "middle"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, axis, "axis", "middle"))
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts.append(_line(left, y, _WIDTH - right, y, "rail"))
        parts.append(_text(left - 12, y - 2, row.name, "row", "end"))
        parts.append(_text(left - 12, y + 12.5, row.small, "small", "end"))
        for dot in row.dots:
            if dot.low is not None and dot.high is not None:
                ends = [x(end) for end in (dot.low, dot.high) if end > 0]
                # A low end of 0 or less is beyond any axis of this kind: the bar goes on to its edge.
                parts.append(_line(ends[0] if len(ends) == 2 else left, y, ends[-1], y, f"whisker {dot.style}"))
                for end in ends:
                    parts.append(_line(end, y - 4, end, y + 4, f"whisker {dot.style}"))
            hollow = " hollow" if dot.hollow else ""
            parts.append(
                f'<circle cx="{x(dot.value):.1f}" cy="{y:.1f}" r="5.5" class="dot {dot.style}{hollow}">'
                f"<title>{escape(dot.title)}</title></circle>"
            )
        parts.append(_text(_WIDTH - right + 12, y + 4, row.text, "value"))
    return _svg(height, title, parts)


def lines(series: Sequence[Line], *, axis: str, unit: str, title: str) -> str:
    """Lines over lengths; both axes logarithmic."""
    height, left, right, top, bottom = 330.0, 66.0, 252.0, 14.0, 46.0
    points = [point for line in series for point in line.points]
    x = _Log([point[0] for point in points], left, _WIDTH - right, margin=0.08)
    y = _Log([v for point in points for v in point[1:]], height - bottom, top)
    parts = []
    told = -math.inf
    for value in sorted({point[0] for point in points}):
        parts.append(_line(x(value), top, x(value), height - bottom, "grid"))
        wide = 4.0 * len(f"{value:g}") + 3
        if x(value) - wide > told:  # else its number would run into the one before
            parts.append(_text(x(value), height - bottom + 17, f"{value:g}", "tick", "middle"))
            told = x(value) + wide
    for value in y.decades():
        parts.append(_line(left, y(value), _WIDTH - right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, _tick(value, unit), "tick", "end"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, axis, "axis", "middle"))
    names = _apart([y(line.points[-1][1]) for line in series], 17, top + 6, height - bottom - 2)
    for line, at in zip(series, names, strict=True):
        path = " ".join(f"{x(p[0]):.1f},{y(p[1]):.1f}" for p in line.points)
        if len(line.points) > 1:
            parts.append(f'<polyline points="{path}" class="line {line.style}"/>')
        for point in line.points:
            px = x(point[0])
            if point[2] < point[3]:
                parts.append(_line(px, y(point[2]), px, y(point[3]), f"whisker {line.style}"))
            parts.append(
                f'<circle cx="{px:.1f}" cy="{y(point[1]):.1f}" r="4.5" class="dot {line.style}">'
                f"<title>{escape(f'{line.name}: {shown(point[1], unit)} at {point[0]:g}')}</title></circle>"
            )
        last = line.points[-1]
        parts.append(_line(x(last[0]) + 6, y(last[1]), _WIDTH - right + 8, at, f"leader {line.style}"))
        parts.append(_text(_WIDTH - right + 12, at + 4, line.name, f"name {line.style}"))
    return _svg(height, title, parts)


def bars(rows: Sequence[Bar], *, title: str) -> str:
    """Bars of 100 % each, their parts in the order given; parts are coloured ``part-0``, ``part-1``, … by name."""
    left, right, top, step = 150.0, 92.0, 6.0, 44.0
    names = list(dict.fromkeys(name for row in rows for name, value in row.parts if value))
    columns = 4
    legend = 22.0 * -(-len(names) // columns)
    height = top + step * len(rows) + 12 + legend
    width = _WIDTH - left - right
    parts = []
    for number, row in enumerate(rows):
        y, at = top + step * number, left
        whole = sum(value for _, value in row.parts)
        parts.append(_text(left - 12, y + 17, row.name, "row", "end"))
        parts.append(_text(left - 12, y + 30, row.small, "small", "end"))
        for name, value in row.parts:
            if not value:
                continue
            size = width * value / whole
            style = f"part-{names.index(name)}"
            parts.append(
                f'<rect x="{at:.2f}" y="{y + 4:.1f}" width="{max(size, 0.4):.2f}" height="28" class="{style}">'
                f"<title>{escape(f'{name}: {value:,.0f} cycles, {value / whole:.1%}')}</title></rect>"
            )
            if size > 46:
                parts.append(_text(at + size / 2, y + 22, f"{value / whole:.1%}", f"on-{style}", "middle"))
            at += size
        parts.append(_text(_WIDTH - right + 10, y + 22, f"{whole:,.0f}", "value"))
    for number, name in enumerate(names):
        column, line = number % columns, number // columns
        x = left + column * (_WIDTH - left) / columns
        y = top + step * len(rows) + 14 + 22 * line
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="12" height="12" rx="2" class="part-{number}"/>')
        parts.append(_text(x + 18, y + 10.5, name, "legend"))
    return _svg(height, title, parts)


def scatter(marks: Sequence[Scatter], *, x: str, y: str, title: str) -> str:
    """Points over two logarithmic axes named ``x`` and ``y``; those of the front are joined by steps."""
    height, left, right, top, bottom = 330.0, 66.0, 24.0, 14.0, 46.0
    across = _Log([mark.x for mark in marks], left, _WIDTH - right, margin=0.08)
    up = _Log([mark.y for mark in marks], height - bottom, top, margin=0.08)
    parts = []
    for value in across.decades():
        parts.append(_line(across(value), top, across(value), height - bottom, "grid"))
        parts.append(_text(across(value), height - bottom + 17, _tick(value), "tick", "middle"))
    for value in up.decades():
        parts.append(_line(left, up(value), _WIDTH - right, up(value), "grid"))
        parts.append(_text(left - 8, up(value) + 4, _tick(value), "tick", "end"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, x, "axis", "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(top + height - bottom) / 2:.0f}) '
        f'rotate(-90)">{escape(y)}</text>'
    )
    best = sorted((mark for mark in marks if mark.front), key=lambda mark: mark.x)
    if len(best) > 1:
        steps = [f"{across(best[0].x):.1f},{up(best[0].y):.1f}"]
        for before, mark in pairwise(best):
            steps += [f"{across(mark.x):.1f},{up(before.y):.1f}", f"{across(mark.x):.1f},{up(mark.y):.1f}"]
        parts.append(f'<polyline points="{" ".join(steps)}" class="line board"/>')
    for mark in sorted(marks, key=lambda mark: mark.front):
        style = "dot board" if mark.front else "dot peer hollow"
        parts.append(
            f'<circle cx="{across(mark.x):.1f}" cy="{up(mark.y):.1f}" r="{5.5 if mark.front else 4}" class="{style}">'
            f"<title>{escape(mark.title)}</title></circle>"
        )
    return _svg(height, title, parts)
