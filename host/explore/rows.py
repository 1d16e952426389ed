# SPDX-License-Identifier: Apache-2.0
"""The table of a sweep: a row for each point and seed, as Parquet and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from nomul.host.power.modelled import coefficients, design_power, memory_power
from nomul.model.files import os_errors

from .cost import Cost, dram_cycles, runs_at
from .pareto import front
from .point import Point

__all__ = ["FRONTS", "Row", "cost_against", "fronts", "row", "unmodelled", "watts", "write_table"]

#: Toggles a cycle of the shipped core in simulation (docs/power.md): what modelled watts assume of every point.
RATES = {"comb": 0.1032, "ff": 0.1183, "bram": 0.7845}
_PAGE_BYTES = 2048  # of a DDR3 chip, ×16: what one activation opens

#: The fronts: tokens a second against each of these.
FRONTS = {"comb": "LUT4", "bram": "block RAMs", "watts": "watts"}

_MODELLED = ("comb", "ff", "bram", "multipliers", "cycles")
_LABELS = {
    "area": "routed, as nextpnr packs it", "clock": "routed", "cycles": "computed", "watts": "modelled",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """A point with a seed, and what is known of it.

    Attributes
    ----------
    point : Point
    seed : int or None
        None where no seed was tried.
    state : str
        ``routed``, ``unmet`` (a board's clock), ``impossible``, ``pruned``, ``failed`` or ``ended``.
    why : str
        If it is not routed, or its simulation is not done.
    cost : Cost or None
        What the model says.
    area : dict or None
        ``comb``, ``ff``, ``bram``, ``multipliers``.
    fmax_mhz : float or None
    simulated : int or None
        Cycles of a token.
    """

    point: Point
    seed: int | None
    state: str
    why: str = ""
    cost: Cost | None = None
    area: dict[str, int] | None = None
    fmax_mhz: float | None = None
    simulated: int | None = None

    @property
    def cycles(self) -> float | None:
        """Of a step of all lanes: computed, behind a board's controller no less than its memory takes."""
        if self.cost is None:
            return None
        return dram_cycles(self.point, self.cost)

    @property
    def clock_mhz(self) -> float | None:
        """At which it runs: a board's own if that is met, else what routing gave, at most a memory controller's."""
        if self.fmax_mhz is None:
            return None
        return self.point.aim_mhz if self.point.scope == "board" else runs_at(self.point, self.fmax_mhz)

    @property
    def tokens_per_second(self) -> float | None:
        """Of all lanes; of a board whose clock is not met none."""
        if self.state != "routed" or self.clock_mhz is None or self.cycles is None:
            return None
        return round(self.point.lanes * self.clock_mhz * 1e6 / self.cycles, 3)

    @property
    def watts(self) -> float | None:
        """Modelled, a DDR3 memory's among it; None without coefficients."""
        if self.area is None or self.clock_mhz is None or self.cost is None:
            return None
        return watts(self.point, self.cost, self.area, self.clock_mhz)

    def as_dict(self) -> dict[str, Any]:
        """Everything, flat."""
        area = self.area or {}
        cost = self.cost
        return {
            **self.point.as_dict(), "seed": self.seed, "state": self.state, "why": self.why,
            **{name: area.get(name) for name in ("comb", "ff", "bram", "multipliers")},
            "fmax_mhz": self.fmax_mhz, "clock_mhz_used": self.clock_mhz,
            "cycles": None if self.cycles is None else float(self.cycles), "cycles_simulated": self.simulated,
            "read_bytes": cost and cost.read_bytes, "written_bytes": cost and cost.written_bytes,
            "tokens_per_second": self.tokens_per_second, "watts": self.watts,
            **{f"model_{name}": cost and getattr(cost, name) for name in _MODELLED},
        }  # fmt: skip


def unmodelled(point: Point) -> str | None:
    """What of a point the power model has no coefficients of: its chip, or the DDR3 that it reads."""
    table = coefficients()
    if point.chip.device not in table["static"]:
        return point.chip.device
    part = _ddr3(point)
    return part if part is not None and part not in table["memory"] else None


def _ddr3(point: Point) -> str | None:
    dram = point.chip.memory
    if point.weights != "memory" or point.scope == "engine" or dram is None or dram.part.kind != "DDR3":
        return None
    return dram.part.name.partition("-")[0]


def watts(point: Point, cost: Cost, area: Mapping[str, float], clock_mhz: float) -> float | None:
    """Modelled watts of a point at a clock; None if it is :func:`unmodelled`."""
    if unmodelled(point) is not None:
        return None
    parts = design_power(part=point.chip.device, clock_mhz=clock_mhz, areas={"all": area}, rates={"all": RATES})
    total = sum(estimate.value for estimate in parts.values())
    dram, part = point.chip.memory, _ddr3(point)
    if dram is not None and part is not None:
        cycles = dram_cycles(point, cost)
        moved = cost.read_bytes + cost.written_bytes
        own = memory_power(
            part=part, clock_mhz=dram.ratio * clock_mhz,
            read_share=min(1.0, cost.read_bytes / dram.bytes_per_cycle / cycles),
            write_share=min(1.0, cost.written_bytes / dram.bytes_per_cycle / cycles),
            activates_per_second=moved / _PAGE_BYTES * clock_mhz * 1e6 / cycles,
        )  # fmt: skip
        total += sum(estimate.value for estimate in own.values())
    return round(total, 4)


def fronts(rows: Sequence[Row]) -> dict[tuple[str, str, str, str], list[Row]]:
    """Pareto fronts by board, model, scope and cost: no other row there is as fast and cheaper, or as cheap and faster.

    There is none against watts where these are not known.
    """
    found: dict[tuple[str, str, str, str], list[Row]] = {}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for one in rows:
        if one.tokens_per_second:
            groups.setdefault((one.point.board, one.point.model, one.point.scope), []).append(one)
    for (board, model, scope), here in groups.items():
        for name in FRONTS:
            known = [(cost, one) for one in here if (cost := cost_against(one, name)) is not None]
            if known:
                chosen = front(known, lambda two: (two[0], -(two[1].tokens_per_second or 0.0)))
                found[board, model, scope, name] = [one for _, one in chosen]
    return found


def cost_against(one: Row, name: str) -> float | None:
    """What a front is drawn against."""
    if name == "watts":
        return one.watts
    assert one.area is not None
    return float(one.area[name])


def write_table(rows: Sequence[Row], folder: Path) -> tuple[Path, Path]:
    """``points.parquet`` and ``points.csv``."""
    marks: dict[int, list[str]] = {}
    for (*_, name), chosen in fronts(rows).items():
        for one in chosen:
            marks.setdefault(id(one), []).append(name)
    made = [{**one.as_dict(), "front": ",".join(marks.get(id(one), ()))} for one in rows]
    columns = list(made[0]) if made else []
    table = pa.table({name: _column(name, [one[name] for one in made]) for name in columns})
    table = table.replace_schema_metadata({f"label_{name}": text for name, text in _LABELS.items()})
    paths = folder / "points.parquet", folder / "points.csv"
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table, paths[0])
        csv.write_csv(table, paths[1])
    return paths


_TEXT = {"scope", "board", "model", "weights", "engine", "state", "why", "front"}
_FLOAT = {
    "clock_mhz", "fmax_mhz", "clock_mhz_used", "cycles", "tokens_per_second", "watts", "model_comb", "model_ff",
    "model_cycles",
}  # fmt: skip


def _column(name: str, values: list[Any]) -> pa.Array:
    kind = pa.string() if name in _TEXT else pa.float64() if name in _FLOAT else pa.int64()
    return pa.array(values, type=kind)


def row(
    point: Point, seed: int | None, cost: Cost, area: dict[str, int] | None, routed: dict[str, Any] | None
) -> Row:
    """The row of a point that was worked on."""
    if routed is None:
        return Row(point=point, seed=seed, state="failed", cost=cost, area=area)
    fmax = routed["fmax_mhz"]
    own = {name: routed[name] for name in ("comb", "ff", "bram", "multipliers")}
    if point.scope == "board" and fmax < point.aim_mhz:
        return Row(
            point=point, seed=seed, state="unmet", cost=cost, area=own, fmax_mhz=fmax,
            why=f"{fmax:.1f} MHz of {point.aim_mhz:.1f} MHz wanted",
        )  # fmt: skip
    return Row(point=point, seed=seed, state="routed", cost=cost, area=own, fmax_mhz=fmax)
