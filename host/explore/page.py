# SPDX-License-Identifier: Apache-2.0
"""A sweep as one HTML file that needs nothing else: fronts as plots, tables, what was pruned and what could not be."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from nomul.host.bench.plots import Scatter, scatter

from .choose import choose
from .rows import FRONTS, Row, cost_against, fronts

__all__ = ["page"]

_LISTED = 60  # points of a table; the rest is in the files
_NAMES = {"comb": "LUT4 equivalents", "bram": "block RAMs", "watts": "watts, modelled"}


def page(rows: Sequence[Row], summary: dict[str, Any]) -> str:
    """The page of a sweep.

    Parameters
    ----------
    rows : sequence of Row
    summary : dict
        As :func:`~.explore.explore` makes it.
    """
    style = resources.files("nomul.host.bench").joinpath("page.css").read_text(encoding="utf-8")
    parts = [_head(summary), _best(rows), _fronts(rows), _model(summary), _points(rows), _others(rows)]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{escape(summary["sweep"])}: nomul explore</title>\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n{''.join(parts)}</main>\n</body>\n</html>\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], numbers: range) -> str:
    def cells(kind: str, columns: Sequence[object]) -> str:
        made = "".join(
            f"<{kind}{' class=n' if k in numbers else ''}>{escape(str(text))}</{kind}>"
            for k, text in enumerate(columns)
        )
        return f"<tr>{made}</tr>\n"

    body = "".join(cells("td", one) for one in rows)
    head = cells("th", header)
    return f'<div class="table"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'


def _head(s: dict[str, Any]) -> str:
    scopes = {
        "engine": "the engine alone, out of context; its cycles are those of all matrices one after another",
        "core": "core and link, out of context",
        "board": "all of the board’s chip, with its pins",
    }
    told = "; ".join(f"{escape(one)}: {scopes[one]}" for one in s["scopes"])
    unknown = f" No power coefficients of {escape(', '.join(s['without_watts']))}." if s["without_watts"] else ""
    return (
        f"<h1>{escape(s['sweep'])}</h1>\n<p class='soft'>{s['count']:,} points with their seeds: {s['routed']:,} "
        f"routed, {s['pruned']:,} pruned by the model, {s['impossible']:,} impossible, {s['failed']:,} not done. "
        f"{s['cached']:,} of {s['jobs']:,} jobs came from the cache. {escape(s['date'][:10])}.</p>\n"
        f"<p class='soft'>Routed: {told}. No board was there: clocks and areas are <b>routed</b>, cycles "
        f"<b>computed</b>, watts <b>modelled</b>.{unknown}</p>\n"
    )


def _shown(row: Row) -> list[object]:
    area = row.area or {}
    return [
        row.point.label, "" if row.seed is None else row.seed, f"{area.get('comb', 0):,}", area.get("bram", ""),
        f"{row.fmax_mhz:.1f}" if row.fmax_mhz else "", f"{row.cycles:,.0f}" if row.cycles else "",
        f"{row.tokens_per_second:,.1f}" if row.tokens_per_second else "", f"{row.watts:.3f}" if row.watts else "",
    ]  # fmt: skip


_HEADER = ["point", "seed", "LUT4", "block RAMs", "MHz", "cycles", "tokens/s", "watts"]


def _best(rows: Sequence[Row]) -> str:
    found, skipped = choose(rows)
    if not found and not skipped:
        return ""
    made = ""
    if found:
        shown = _table(
            [*_HEADER, "MHz built"], [[*_shown(one.row), f"{one.clock_mhz:g}"] for one in found.values()], range(1, 9)
        )
        made = (
            "<p>Each is a file beside this page that <code>nomul build BOARD --config FILE</code> takes, and has the "
            f"clock that is built.</p>\n{shown}"
        )
    for one in skipped.values():
        made += f"<p class='note'>Faster, but not to be built: {escape(one.row.point.label)}: {escape(one.why)}.</p>\n"
    return f"<h2>The fastest of each board and model</h2>\n{made}"


def _fronts(rows: Sequence[Row]) -> str:
    made = []
    for (board, model, scope, name), chosen in fronts(rows).items():
        here = [
            (row, cost) for row in rows
            if row.tokens_per_second and (row.point.board, row.point.model, row.point.scope) == (board, model, scope)
            and (cost := cost_against(row, name)) is not None
        ]  # fmt: skip
        marks = [
            Scatter(
                x=cost, y=row.tokens_per_second or 0.0, front=row in chosen,
                title=f"{row.point.label}, seed {row.seed}: {row.tokens_per_second:,.1f} tokens/s, "
                f"{cost:,.4g} {FRONTS[name]}",
            )
            for row, cost in here
        ]  # fmt: skip
        where = f"{board}, {model}, {scope}"
        svg = scatter(marks, x=_NAMES[name], y="tokens a second", title=f"{where}: tokens/s against {name}")
        made.append(
            f"<figure>\n<div class='scroll'>{svg}</div>\n<figcaption>{escape(where)}: "
            f"{len(chosen)} of {len(here)} are on the front of tokens a second against "
            f"{escape(_NAMES[name])}.</figcaption>\n</figure>\n"
        )
    return "<h2>Pareto fronts</h2>\n" + ("".join(made) or "<p>No point was routed.</p>\n")


def _model(s: dict[str, Any]) -> str:
    errors = s["model_errors"]
    if not errors:
        return ""
    told = _table(
        ["figure", "points", "median error", "largest"],
        [[name, one["points"], f"{one['median']:.2%}", f"{one['largest']:.2%}"] for name, one in errors.items()],
        range(1, 4),
    )
    pruning = "switched off" if s["exhaustive"] else f"gave up {s['pruned']:,} of {s['possible']:,} possible points"
    return f"<h2>The model against what was routed</h2>\n<p>Pruning {pruning}.</p>\n{told}"


def _more(rows: Sequence[Row]) -> str:
    if len(rows) <= _LISTED:
        return ""
    return f"<p class='note'>The first {_LISTED} of {len(rows)}; points.csv has all.</p>\n"


def _points(rows: Sequence[Row]) -> str:
    good = sorted((row for row in rows if row.state == "routed"), key=lambda row: -(row.tokens_per_second or 0.0))
    if not good:
        return ""
    more = _more(good)
    return "<h2>Points</h2>\n" + _table(_HEADER, [_shown(row) for row in good[:_LISTED]], range(1, 8)) + more


def _others(rows: Sequence[Row]) -> str:
    left = [row for row in rows if row.state != "routed"]
    if not left:
        return ""
    more = _more(left)
    shown = [[row.point.label, "" if row.seed is None else row.seed, row.state, row.why] for row in left[:_LISTED]]
    return "<h2>Not routed, or too slow</h2>\n" + _table(["point", "seed", "state", "why"], shown, range(1, 2)) + more
