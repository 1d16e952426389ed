# SPDX-License-Identifier: Apache-2.0
"""The best configuration of each board, as a file that ``nomul build BOARD --config FILE`` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nomul.host.configuration import FORMAT
from nomul.model.core_config import CoreConfig
from nomul.model.files import atomic

from .rows import Row

__all__ = ["best", "write_configurations"]


def best(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """The fastest row for each board and model; of equals that with fewer block RAMs and LUTs."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if not row.tokens_per_second or row.point.scope == "engine":
            continue
        key = row.point.board, row.point.model
        if key not in found or _rank(row) > _rank(found[key]):
            found[key] = row
    return found


def _rank(row: Row) -> tuple[float, ...]:
    assert row.area is not None
    return row.tokens_per_second or 0.0, -row.area["bram"], -row.area["comb"]


def _clock(row: Row) -> float:
    """What the file asks for: a board's own clock as it was met; out of context what routing gave, whole MHz."""
    assert row.clock_mhz is not None
    if row.point.scope == "board" or row.point.weights == "memory":
        return row.point.aim_mhz
    return float(int(row.clock_mhz))


def configuration(row: Row) -> dict[str, Any]:
    """What the file says."""
    point = row.point
    return {
        "format": FORMAT,
        "board": point.board,
        "name": f"explored-{point.model}",
        "kind": "onchip" if isinstance(point.config, CoreConfig) else "streamed",
        "core": asdict(point.config),
        "geometry": asdict(point.geometry),
        "clock_mhz": _clock(row),
        "seed": row.seed,
        "found": {
            "scope": point.scope, "tokens_per_second": row.tokens_per_second, "fmax_mhz": row.fmax_mhz,
            "area": row.area, "cycles": row.cycles, "watts": row.watts,
        },
    }  # fmt: skip


def write_configurations(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """``BOARD-MODEL.json`` for each board and model; the paths by those names."""
    made = {}
    for (board, model), row in best(rows).items():
        path = folder / f"{board}-{model}.json"
        with atomic(path) as out:
            out.write(json.dumps(configuration(row), indent=2).encode() + b"\n")
        made[f"{board}-{model}"] = path
    return made
