# SPDX-License-Identifier: Apache-2.0
"""What nextpnr reports of a routed design, in words."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError

__all__ = ["Clock", "CriticalPath", "Report", "read_report"]

#: What yosys and nextpnr append to the name of the register or net that a cell is made for.
_TAIL = re.compile(r"(_(TRELLIS|LUT4|PFUMX|L6MUX21|CCU2C|DP16KD|MULT18X18D|EHXPLLL|DPR16X4)|\$).*$")


@dataclass(frozen=True, kw_only=True)
class CriticalPath:
    """The path that limits a clock.

    Attributes
    ----------
    begin, end : str
        Registers or memories at both ends, by their names in the hierarchy.
    delay_ns, logic_ns, routing_ns : float
        Of the whole path; its parts, clock-to-output and set-up times counted as logic.
    levels : int
        Cells passed through between the ends.
    """

    begin: str
    end: str
    delay_ns: float
    logic_ns: float
    routing_ns: float
    levels: int

    def __str__(self) -> str:
        return (
            f"from {_unit(self.begin)} to {_unit(self.end)}: {self.delay_ns:.2f} ns, logic {self.logic_ns:.2f} ns "
            f"through {self.levels} levels and routing {self.routing_ns:.2f} ns"
        )


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A clock of a routed design, or the way from one to another of its PLL: what was wanted, what it reaches."""

    name: str
    wanted_mhz: float
    routed_mhz: float
    path: CriticalPath | None

    @property
    def slack_ns(self) -> float:
        """Time that is left in a period; negative: missing."""
        return 1e3 / self.wanted_mhz - 1e3 / self.routed_mhz


@dataclass(frozen=True, kw_only=True)
class Report:
    """A routed design.

    Attributes
    ----------
    clocks : tuple of Clock
        The worst first.
    area : mapping
        Cells in use and there are, by kind.
    """

    clocks: tuple[Clock, ...]
    area: Mapping[str, tuple[int, int]]

    @property
    def met(self) -> bool:
        """Every clock reaches what was wanted."""
        return self.worst.slack_ns >= 0

    @property
    def worst(self) -> Clock:
        """The clock with the least slack."""
        return self.clocks[0]


def _bare(cell: str) -> str:
    """Name of a register or memory, without what the tools append."""
    return _TAIL.sub("", cell)


def _unit(name: str) -> str:
    """A name in words: its unit and, in brackets, the register."""
    unit, _, register = name.rpartition(".")
    return f"{unit} ({register})" if unit else name


def _path(segments: list[dict[str, Any]]) -> CriticalPath:
    kinds = {"routing": 0.0, "logic": 0.0}
    for segment in segments:
        kinds["routing" if segment["type"] == "routing" else "logic"] += segment["delay"]
    return CriticalPath(
        begin=_bare(segments[0]["from"]["cell"]),
        end=_bare(segments[-1]["to"]["cell"]),
        delay_ns=sum(kinds.values()),
        logic_ns=kinds["logic"],
        routing_ns=kinds["routing"],
        levels=sum(segment["type"] == "logic" for segment in segments),
    )


def _crossings(data: Any, related: Sequence[tuple[int, int]]) -> list[Clock]:
    """Paths between related clocks, which nextpnr measures and does not judge: a period of the faster is theirs."""
    wanted = {name: found["constraint"] for name, found in data["fmax"].items()}
    pairs = [{round(hz / 1e6, 1) for hz in pair} for pair in related]
    found = []
    for one in data["critical_paths"]:
        ends = [one[key].removeprefix("posedge ") for key in ("from", "to")]
        if not all(end in wanted for end in ends) or {round(wanted[end], 1) for end in ends} not in pairs:
            continue
        path = _path(one["path"])
        fastest = max(wanted[end] for end in ends)
        found.append(Clock(name=" to ".join(ends), wanted_mhz=fastest, routed_mhz=1e3 / path.delay_ns, path=path))
    return found


def read_report(path: Path, related: Sequence[tuple[int, int]] = ()) -> Report:
    """Reads ``nextpnr-ecp5 --report``.

    Parameters
    ----------
    path : Path
    related : sequence of (int, int)
        Pairs of clocks, Hz, one a multiple of the other and of the same PLL, between which data go without more ado.

    Raises
    ------
    NomulError
        If it has no clock.
    """
    data = json.loads(path.read_text())
    clocks = []
    for name, found in data["fmax"].items():
        edge = f"posedge {name}"
        inside = [one["path"] for one in data["critical_paths"] if (one["from"], one["to"]) == (edge, edge)]
        clocks.append(Clock(
            name=name, wanted_mhz=found["constraint"], routed_mhz=found["achieved"],
            path=_path(inside[0]) if inside else None,
        ))  # fmt: skip
    if not clocks:
        raise NomulError(f"nextpnr: found no clock (see {path.parent})")
    clocks += _crossings(data, related)
    return Report(
        clocks=tuple(sorted(clocks, key=lambda clock: clock.slack_ns)),
        area={kind: (cell["used"], cell["available"]) for kind, cell in data["utilization"].items()},
    )
