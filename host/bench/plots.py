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
    """A point in a roofline; ``text`` is in it or, of our own, beside it."""

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


def _apart(wanted: Sequence[float], least: float) -> list[float]:
    """Places near those wanted, none nearer to another than ``least``; in the order given."""
    order = sorted(range(len(wanted)), key=lambda k: wanted[k])
    placed = [wanted[k] for k in order]
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
    found = [0.0] * len(wanted)
    for k, place in zip(order, placed, strict=True):
        found[k] = place
    return found


def roofline(bounds: Sequence[Bound], marks: Sequence[Mark], *, title: str) -> str:
    """Tokens a second against ternary weights, both logarithmic, with what bounds them."""
    height, left, right, top, bottom = 470.0, 58.0, 172.0, 14.0, 48.0
    x = _Log([mark.x for mark in marks], left, _WIDTH - right, margin=0.3)
    y = _Log([mark.y for mark in marks], height - bottom, top, margin=0.45)
    parts = []
    for value in x.decades():
        parts.append(_line(x(value), top, x(value), height - bottom, "grid"))
        parts.append(_text(x(value), height - bottom + 17, _tick(value), "tick", "middle"))
    for value in y.decades():
        parts.append(_line(left, y(value), _WIDTH - right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, _tick(value), "tick", "end"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 8, "ternary weights of the model", "axis", "middle"))
    parts.append(
        f'<text class="axis" text-anchor="middle" transform="translate(14 {(top + height - bottom) / 2:.0f}) '
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
        ends.append((bound, points[1]))
    # Names of bounds right of the box, those of our points too: none over another.
    ours = [mark for mark in marks if mark.ours]
    names = _apart([end[1] for _, end in ends], 16)
    for (bound, end), at in zip(ends, names, strict=True):
        at = min(at, height - bottom - 2)
        edge = _WIDTH - right
        if end[0] > edge - 2:
            parts.append(_line(edge, end[1], edge + 8, at, f"leader {bound.style}"))
            parts.append(_text(edge + 12, at + 4, bound.name, f"name {bound.style}"))
        else:
            parts.append(_text(end[0] + 6, end[1] - 6, bound.name, f"name {bound.style}"))
    taken: list[tuple[float, float]] = [(x(mark.x), y(mark.y)) for mark in ours]
    for mark in marks:
        if mark.ours:
            continue
        px, py = x(mark.x), y(mark.y)
        place = px
        for step in range(24):
            place = px + (step + 1) // 2 * (2 * _MARK + 1) * (1 if step % 2 else -1)
            if all((place - tx) ** 2 + (py - ty) ** 2 > (2 * _MARK) ** 2 for tx, ty in taken):
                break
        taken.append((place, py))
        if place != px:
            parts.append(_line(px, py, place, py, "leader"))
            parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="2" class="peer-true"/>')
        parts.append(
            f'<g class="peer {mark.style}"><title>{escape(mark.title)}</title>'
            f'<circle cx="{place:.1f}" cy="{py:.1f}" r="{_MARK}"/>'
            f"{_text(place, py + 3.7, mark.text, '', 'middle')}</g>"
        )
    places = _apart([y(mark.y) for mark in ours], 15)
    for mark, at in zip(ours, places, strict=True):
        px, py = x(mark.x), y(mark.y)
        if abs(at - py) > 3:
            parts.append(_line(px, py, px + 12, at, f"leader {mark.style}"))
        parts.append(
            f'<g class="ours {mark.style}"><title>{escape(mark.title)}</title>'
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="5.5"/>{_text(px + 14, at + 4, mark.text, "name")}</g>'
        )
    return _svg(height, title, parts)


def dots(rows: Sequence[DotRow], *, unit: str, axis: str, title: str) -> str:
    """Rows of dots over one logarithmic axis."""
    left, right, top, step, bottom = 266.0, 118.0, 8.0, 30.0, 42.0
    height = top + step * len(rows) + bottom
    values = [v for row in rows for dot in row.dots for v in (dot.value, dot.low, dot.high) if v]
    x = _Log(values, left, _WIDTH - right)
    parts = []
    for value in x.decades():
        parts.append(_line(x(value), top, x(value), height - bottom, "grid"))
        parts.append(_text(x(value), height - bottom + 16, _tick(value, unit), "tick", "middle"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, axis, "axis", "middle"))
    for number, row in enumerate(rows):
        y = top + step * (number + 0.5)
        parts.append(_line(left, y, _WIDTH - right, y, "rail"))
        parts.append(_text(left - 12, y - 1, row.name, "row", "end"))
        parts.append(_text(left - 12, y + 11, row.small, "small", "end"))
        for dot in row.dots:
            if dot.low and dot.high:
                parts.append(_line(x(dot.low), y, x(dot.high), y, f"whisker {dot.style}"))
                for end in (dot.low, dot.high):
                    parts.append(_line(x(end), y - 4, x(end), y + 4, f"whisker {dot.style}"))
            hollow = " hollow" if dot.hollow else ""
            parts.append(
                f'<circle cx="{x(dot.value):.1f}" cy="{y:.1f}" r="5.5" class="dot {dot.style}{hollow}">'
                f"<title>{escape(dot.title)}</title></circle>"
            )
        parts.append(_text(_WIDTH - right + 12, y + 4, row.text, "value"))
    return _svg(height, title, parts)


def lines(series: Sequence[Line], *, axis: str, unit: str, title: str) -> str:
    """Lines over lengths; both axes logarithmic."""
    height, left, right, top, bottom = 330.0, 66.0, 222.0, 14.0, 46.0
    points = [point for line in series for point in line.points]
    x = _Log([point[0] for point in points], left, _WIDTH - right, margin=0.08)
    y = _Log([v for point in points for v in point[1:]], height - bottom, top)
    parts = []
    for value in sorted({point[0] for point in points}):
        parts.append(_line(x(value), top, x(value), height - bottom, "grid"))
        parts.append(_text(x(value), height - bottom + 17, f"{value:g}", "tick", "middle"))
    for value in y.decades():
        parts.append(_line(left, y(value), _WIDTH - right, y(value), "grid"))
        parts.append(_text(left - 8, y(value) + 4, _tick(value, unit), "tick", "end"))
    parts.append(_text((left + _WIDTH - right) / 2, height - 6, axis, "axis", "middle"))
    names = _apart([y(line.points[-1][1]) for line in series], 16)
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
