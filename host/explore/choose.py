# SPDX-License-Identifier: Apache-2.0
"""The best configuration of each board, as a file that ``nomul build BOARD --config FILE`` takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nomul.host.configuration import FORMAT
from nomul.hw.boards.configurations import CONFIGURATIONS, find_configuration
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.files import atomic

from .clocks import clock_below
from .cost import check_room
from .rows import Row

__all__ = ["Choice", "Skipped", "build_clock", "choose", "configuration", "write_configurations"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A row that can be built, and the clock that its board gets."""

    row: Row
    clock_mhz: float

    @property
    def tokens_per_second(self) -> float:
        """At that clock."""
        assert self.row.cycles is not None
        return round(self.row.point.lanes * self.clock_mhz * 1e6 / self.row.cycles, 3)

    @property
    def _rank(self) -> tuple[float, ...]:
        assert self.row.area is not None
        on_board = self.row.point.scope == "board"
        return float(on_board), self.tokens_per_second, -self.row.area["bram"], -self.row.area["comb"]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """The fastest row that could not be built in place of the choice, and why."""

    row: Row
    why: str


def build_clock(row: Row) -> float:
    """MHz that a board gets for a row: its own as it was met; out of context the next below that it can make.

    Raises
    ------
    NomulError
        If the board has no such configuration or no room for it, or none of its clocks is low enough.
    """
    point = row.point
    assert row.fmax_mhz is not None
    check_room(point.board, point.chip.device, point.config)
    if isinstance(point.config, CoreConfig):
        find_configuration("onchip", point.chip)
        if point.scope == "board":
            return point.aim_mhz
        found = clock_below(point.board, row.fmax_mhz)
        if found is None:
            raise NomulError(f"{point.board} has no clock of at most {row.fmax_mhz:g} MHz")
        return found
    find_configuration(next(n for n, c in CONFIGURATIONS.items() if c.lanes), point.chip)
    dram = point.chip.memory
    assert dram is not None
    if point.config.word_bytes != dram.word_bytes:
        raise NomulError(f"words of {point.config.word_bytes} bytes; the memory of {point.board} has {dram.word_bytes}")
    clock = dram.clock_hz / 1e6
    if row.fmax_mhz < clock:
        raise NomulError(f"{row.fmax_mhz:g} MHz; the controller of {point.board} runs at {clock:g}")
    return clock


def choose(rows: Sequence[Row]) -> tuple[dict[tuple[str, str], Choice], dict[tuple[str, str], Skipped]]:
    """The fastest row for each board and model; of equals that with fewer block RAMs and LUTs.

    Rows of all of a board's chip come before those out of context.

    Returns
    -------
    dict of (str, str) to Choice
    dict of (str, str) to Skipped
        Where a faster row can not be built.
    """
    found: dict[tuple[str, str], Choice] = {}
    left: dict[tuple[str, str], Skipped] = {}
    for row in rows:
        speed = row.tokens_per_second
        if not speed or row.point.scope == "engine":
            continue
        key = row.point.board, row.point.model
        try:
            made = Choice(row=row, clock_mhz=build_clock(row))
        except NomulError as error:
            if key not in left or speed > (left[key].row.tokens_per_second or 0.0):
                left[key] = Skipped(row=row, why=str(error).splitlines()[0])
            continue
        if key not in found or made._rank > found[key]._rank:
            found[key] = made
    faster = {
        key: one for key, one in left.items()
        if key not in found or (one.row.tokens_per_second or 0.0) > found[key].tokens_per_second
    }  # fmt: skip
    return found, faster


def configuration(choice: Choice) -> dict[str, Any]:
    """What the file says."""
    row = choice.row
    point = row.point
    return {
        "format": FORMAT,
        "board": point.board,
        "name": f"explored-{point.model}",
        "kind": "onchip" if isinstance(point.config, CoreConfig) else "streamed",
        "core": asdict(point.config),
        "geometry": asdict(point.geometry),
        "clock_mhz": choice.clock_mhz,
        "seed": row.seed,
        "found": {
            "scope": point.scope, "tokens_per_second": choice.tokens_per_second, "fmax_mhz": row.fmax_mhz,
            "area": row.area, "cycles": row.cycles, "watts": row.watts,
        },
    }  # fmt: skip


def write_configurations(rows: Sequence[Row], folder: Path) -> dict[str, Path]:
    """``BOARD-MODEL.json`` for each board and model; the paths by those names."""
    made = {}
    for (board, model), choice in choose(rows)[0].items():
        path = folder / f"{board}-{model}.json"
        with atomic(path) as out:
            out.write(json.dumps(configuration(choice), indent=2).encode() + b"\n")
        made[f"{board}-{model}"] = path
    return made
