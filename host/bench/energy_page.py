# SPDX-License-Identifier: Apache-2.0
"""What a bench's page and table say of joules: figures, idle power, and the meter behind them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from .document import cells
from .figures import shown
from .peers import KINDS, peers
from .pieces import called, framed, label, last, table, users_of
from .plots import Dot, DotRow, dots

__all__ = ["energy_section", "idle_text", "meter_lines"]

_PARTS = (("joules_per_token", "gross"), ("joules_per_token_above_idle", "above idle"))


def meter_lines(meter: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is to be known of a meter, by what it is about."""
    yield "meter", meter["name"]
    if "watts" in meter:
        watts = meter["watts"]
        bar = f" ({shown(watts['low'], 'W')} to {shown(watts['high'], 'W')})" if "low" in watts else ""
        yield "power", f"{shown(watts['value'], 'W')}{bar}, {watts['label']}"
    else:
        yield "rate", (
            f"asked at {shown(meter['rate_hz'], 'Hz')}, {shown(meter['reached_hz'], 'Hz')} came; "
            f"{meter['samples']:,} samples"
        )
        low, high = ("no limit known" if end is None else shown(end, "W") for end in meter["range_w"])
        yield "range", f"{low} to {high}"
    yield "includes", meter["includes"]
    for gap in meter.get("gaps", []):
        yield "gap", f"outside what was used: {gap['why']}"


def idle_text(idle: dict[str, Any]) -> str:
    """Idle power before and after, and how long it was looked at."""
    before, after = (shown(idle[side]["value"], "W") for side in ("before", "after"))
    return f"{before} before, {after} after, {shown(idle['seconds'], 's')} each, {idle['before']['label']}"


def energy_section(document: dict[str, Any]) -> str:
    """A plot of joules a token with others' among ours; a table of all; the meters."""
    rows, missing = _own(document)
    own = bool(rows or missing)
    for peer in peers():
        if "joules_per_token" in peer:
            value, kind = peer["joules_per_token"], peer["energy_kind"]
            mark = Dot(value=value, style="peer", title=f"{peer['name']}: {shown(value, 'J')}, {KINDS[kind]}",
                       hollow=kind != "M")  # fmt: skip
            rows.append((value, DotRow(
                name=peer["name"], small=f"{peer['model']}, {peer['device']}, cited", dots=[mark],
                text=f"{shown(value, 'J')} {kind}",
            )))  # fmt: skip
    rows.sort(key=lambda row: row[0])
    none = "" if own else (
        "<p>No meter was read and no modelled power was given, so there is no figure of our own: <code>--meter rapl"
        "</code> measures this machine, <code>--meter modelled:REPORT.json</code> models the core.</p>\n"
    )
    caption = (
        f"Sizes of models differ, so does what a meter includes. Others are {label('cited')}: "
        + "; ".join(f"{letter} {meaning}" for letter, meaning in KINDS.items())
        + ". A bar is an error bar (modelled), quartiles, or above idle the uncertainty besides."
        + "".join(f" Not drawn, for the axis has no place for it: {escape(text)}." for text in missing)
    )
    plot = dots([row for _, row in rows], unit="J", axis="joules a token", title="Joules a token, ours and others’")
    more = _table(document) + _meters(document) if own else ""
    return "<h2>Joules a token</h2>\n" + none + framed(plot, caption) + more


def _own(document: dict[str, Any]) -> tuple[list[tuple[float, DotRow]], list[str]]:
    """Rows of our own figures by value, and in words those that are not above 0."""
    rows: list[tuple[float, DotRow]] = []
    missing = []
    for target in document["targets"]:
        for users in users_of(target):
            run = last(target, users)
            for name, extra in _PARTS:
                f = run.get("energy", {}).get("decode", {}).get(name)
                if f is None:
                    continue
                who, value = called(target, users), f["value"]
                if value <= 0:
                    doubt = shown(f.get("uncertainty", 0.0), "J")
                    missing.append(f"{who}, {extra}, {shown(value, 'J')} ± {doubt}, {f['label']}")
                    continue
                low, high = f.get("low", f.get("q1", value)), f.get("high", f.get("q3", value))
                if "uncertainty" in f:
                    low, high = min(low, value - f["uncertainty"]), max(high, value + f["uncertainty"])
                mark = Dot(value=value, low=low if low != high else None, high=high, style=target["key"],
                           title=f"{shown(value, 'J')} {f['label']}")  # fmt: skip
                small = f"{extra}, {f['label']}"
                rows.append((value, DotRow(name=who, small=small, dots=[mark], text=shown(value, "J"))))
    return rows, missing


def _table(document: dict[str, Any]) -> str:
    rows = []
    found = [(target, run) for target, run, _ in cells(document) if "energy" in run]
    any_idle = any(run["energy"].get("idle") for _, run in found)
    parts = _PARTS if any_idle else _PARTS[:1]
    for target, run in found:
        energy = run["energy"]
        idle = energy.get("idle")
        watts = ", ".join(escape(shown(idle[side]["value"], "W")) for side in ("before", "after")) if idle else ""
        rows.append([
            escape(target["name"]).replace(" ", "&nbsp;"), label(energy["decode"]["joules_per_token"]["label"]),
            str(run["users"]), f"{run['prompt']}+{run['output']}",
            *(_joules(energy[part].get(name)) for part in ("decode", "request") for name, _ in parts),
            *[watts] * any_idle,
        ])  # fmt: skip
    header = ["", "", "users", "lengths"]
    for whole in ("generating", "whole request"):
        header += [whole, *["above idle"] * any_idle]
    header += ["idle"] * any_idle
    return (
        "<p>Joules for each token that users got, from the first token on (generating) and from the request on; "
        "medians, below them quartiles or the ends of the error bar. Lengths: prompt and output."
        + " Above idle: less the mean of idle power before and after; ± half their difference." * any_idle
        + "</p>\n" + table(header, rows, range(2, len(header)))
    )


def _joules(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return ""
    text = escape(shown(figure["value"], "J"))
    if "uncertainty" in figure:
        text += f"<small>± {escape(shown(figure['uncertainty'], 'J'))}</small>"
    low, high = figure.get("low", figure.get("q1")), figure.get("high", figure.get("q3"))
    if low == high or low is None or high is None:
        return text
    return f"{text}<small>{escape(shown(low, 'J'))} – {escape(shown(high, 'J'))}</small>"


def _meters(document: dict[str, Any]) -> str:
    """The meter behind each target's last run."""
    made = []
    for target in document["targets"]:
        energy = last(target, users_of(target)[-1]).get("energy")
        if energy is None:
            continue
        lines = [*meter_lines(energy["meter"])]
        if energy.get("idle"):
            lines.append(("idle", idle_text(energy["idle"])))
        told = "<br>".join(f"{escape(name)}: {escape(text)}" for name, text in lines)
        made.append(f"<dt>{escape(target['name'])}</dt><dd>{told}</dd>\n")
    return f"<h3>Meters</h3>\n<dl>\n{''.join(made)}</dl>\n"
