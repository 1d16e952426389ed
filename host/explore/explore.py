# SPDX-License-Identifier: Apache-2.0
"""A sweep from its points to its files."""

from __future__ import annotations

import datetime
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from nomul.model.errors import NomulError
from nomul.model.files import atomic, os_errors

from .cache import Cache
from .choose import choose, write_configurations
from .cost import CYCLES_EXACT, cost_of
from .farm import Progress, farm
from .page import page
from .point import Point
from .prune import pruned
from .rows import Row, fronts, row, unmodelled, write_table
from .stages import routing_work, simulation_work, synthesis_work
from .sweep import Sweep
from .work import Outcome, Work

__all__ = ["Explored", "Plan", "explore", "plan", "write"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a sweep comes to before anything is done.

    Attributes
    ----------
    sweep : Sweep
    exhaustive : bool
        Nothing is pruned.
    kept : list of Point
        To be routed.
    pruned, impossible : list of (Point, str)
        With the reason.
    """

    sweep: Sweep
    exhaustive: bool
    kept: list[Point]
    pruned: list[tuple[Point, str]]
    impossible: list[tuple[Point, str]]


@dataclass(frozen=True, kw_only=True)
class Explored:
    """What came of it: rows, and a summary that JSON can say."""

    rows: list[Row]
    summary: dict[str, Any]


def plan(sweep: Sweep, *, exhaustive: bool, seen: Callable[[int], None] = lambda count: None) -> Plan:
    """Which points are to be routed.

    Parameters
    ----------
    sweep : Sweep
    exhaustive : bool
        Prune nothing.
    seen : callable
        Progress: gets how much more is done, of three times the points without their seeds.

    Raises
    ------
    NomulError
        If no point can be; with the first reason.
    """
    possible, impossible = sweep.points(seen=seen)
    if not possible:
        point, why = impossible[0]
        raise NomulError(f"{sweep.path}: none of {len(impossible):,} points can be; {point.label}: {why}")
    kept, gone = (possible, []) if exhaustive else pruned(possible, seen=seen)
    return Plan(sweep=sweep, exhaustive=exhaustive, kept=kept, pruned=gone, impossible=impossible)


def explore(
    chosen: Plan, client: Client | Callable[[], Client], cache: Cache, *, seen: Progress | None = None
) -> Explored:
    """Synthesises, routes and, if the sweep says so, simulates what a plan keeps; most promising points first.

    Raises
    ------
    NomulError
        If the cluster is lost.
    """
    sweep = chosen.sweep
    works: list[Work] = []
    jobs: dict[tuple[Point, int | None], Work] = {}
    simulations: dict[Point, Work] = {}
    for point in chosen.kept:
        first = synthesis_work(point, sweep.limit_s)
        works.append(first)
        jobs[point, None] = first
        for seed in sweep.seeds:
            jobs[point, seed] = routing_work(point, seed, sweep.limit_s, first)
            works.append(jobs[point, seed])
        if sweep.simulate and point.scope != "engine":
            simulations[point] = simulation_work(point, sweep.limit_s)
            works.append(simulations[point])
    outcomes = farm(client, works, cache, **({} if seen is None else {"seen": seen}))
    rows = [
        _row(point, seed, outcomes[jobs[point, None].key], outcomes[jobs[point, seed].key],
             outcomes[simulations[point].key] if point in simulations else None)
        for point in chosen.kept for seed in sweep.seeds
    ]  # fmt: skip
    rows += [Row(point=p, seed=None, state="pruned", why=why, cost=cost_of(p)) for p, why in chosen.pruned]
    rows += [Row(point=p, seed=None, state="impossible", why=why) for p, why in chosen.impossible]
    unsimulated = {point: outcomes[work.key] for point, work in simulations.items() if not outcomes[work.key].done}
    return Explored(rows=rows, summary=_summary(chosen, rows, unsimulated, outcomes, cache))


def _row(point: Point, seed: int, area: Outcome, routed: Outcome, simulated: Outcome | None) -> Row:
    cost = cost_of(point)
    made = row(point, seed, cost, area.value if area.done else None, routed.value if routed.done else None)
    if not routed.done:
        state = routed.state if routed.state != "skipped" else area.state
        made = replace(made, state=state, why=routed.why if routed.state != "skipped" else area.why)
    if simulated is not None and simulated.done:
        made = replace(made, simulated=simulated.value["cycles"])
    elif simulated is not None:
        made = replace(made, why=made.why or f"simulation {simulated.state}: {simulated.why}")
    return made


def model_errors(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """How far the model is from what was routed and simulated, each design counted once."""
    designs = {one.point: one for one in rows if one.area is not None and one.cost is not None and one.fmax_mhz}
    found: dict[str, dict[str, Any]] = {}
    for name in ("comb", "ff", "bram", "multipliers"):
        errors = []
        for one in designs.values():
            assert one.area is not None
            real, said = one.area[name], getattr(one.cost, name)
            if real or said:
                errors.append(abs(said - real) / max(real, 1))
        if errors:
            found[name] = {"points": len(errors), "median": statistics.median(errors), "largest": max(errors)}
    cycles = [
        abs(one.cost.cycles - one.simulated) / one.simulated
        for one in designs.values() if one.simulated is not None and one.cost is not None
    ]  # fmt: skip
    if cycles:
        found["cycles"] = {"points": len(cycles), "median": statistics.median(cycles), "largest": max(cycles)}
    return found


def _summary(
    chosen: Plan, rows: Sequence[Row], unsimulated: dict[Point, Outcome], outcomes: dict[str, Outcome], cache: Cache
) -> dict[str, Any]:
    states = [one.state for one in rows]
    failures = [
        {"point": one.point.label, "seed": one.seed, "state": one.state, "why": one.why}
        for one in rows if one.state in ("failed", "ended")
    ]  # fmt: skip
    failures += [
        {"point": point.label, "seed": None, "state": outcome.state, "why": f"simulation: {outcome.why}"}
        for point, outcome in unsimulated.items()
    ]
    skipped = choose(rows)[1]
    return {
        "sweep": chosen.sweep.path.name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scopes": list(chosen.sweep.values["scope"]),
        "count": chosen.sweep.count,
        "possible": len(chosen.kept) + len(chosen.pruned),
        "exhaustive": chosen.exhaustive,
        "pruned": len(chosen.pruned),
        "impossible": len(chosen.impossible),
        "routed": states.count("routed") + states.count("unmet"),
        "unmet": states.count("unmet"),
        "failed": len(failures),
        "unsimulated": len(unsimulated),
        "failures": failures,
        "jobs": len(outcomes),
        "cached": sum(one.cached for one in outcomes.values()),
        "seconds_of_work": round(sum(one.seconds for one in outcomes.values()), 1),
        "damaged_entries": cache.damaged,
        "model_errors": model_errors(rows),
        "cycles": CYCLES_EXACT,
        "fronts": {
            f"{board}, {model}, {scope}, {name}": [f"{one.point.label}, seed {one.seed}" for one in made]
            for (board, model, scope, name), made in fronts(rows).items()
        },
        "not_buildable": {
            f"{board}-{model}": {"point": one.row.point.label, "seed": one.row.seed, "why": one.why}
            for (board, model), one in skipped.items()
        },
        "without_watts": sorted({name for one in rows if one.area and (name := unmodelled(one.point))}),
    }  # fmt: skip


def write(found: Explored, folder: Path) -> dict[str, Path]:
    """Table, page, summary and configurations below a folder; their paths by what they are."""
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    parquet, csv = write_table(found.rows, folder)
    paths = {"parquet": parquet, "csv": csv, "page": folder / "explore.html", "summary": folder / "summary.json"}
    with atomic(paths["page"]) as out:
        out.write(page(found.rows, found.summary).encode())
    with atomic(paths["summary"]) as out:
        out.write(json.dumps(found.summary, indent=2).encode() + b"\n")
    return paths | write_configurations(found.rows, folder)
