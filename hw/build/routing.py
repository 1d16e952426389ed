# SPDX-License-Identifier: Apache-2.0
"""Placement and routing: nextpnr with one seed, and with several."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from time import monotonic

from nomul.hw.boards.board import Board
from nomul.model.errors import NomulError
from nomul.model.files import os_errors

from .capacity import check_fit
from .progress import Seen, stage
from .seeds import Tried, try_seeds
from .timing import Report, read_report
from .tools import Ended, Stop, TookTooLong
from .toolset import Toolset

__all__ = ["PLACERS", "SEED_S", "Router", "copy_files", "route_seeds"]

#: nextpnr's placers for ECP5, with what goes with them. HeAP solves for wire length, spreads and legalises by turns.
#: Static moves cells down the gradient of wire length and density, and leaves less wire to route; with it, routes that
#: are too slow are taken up again.
_PLACERS = {"heap": (), "static": ("--placer", "static", "--tmg-ripup")}
PLACERS = tuple(_PLACERS)
#: What a seed leaves for people.
_ROUTED = {name: name for name in ("pins.lpf", "report.json", "nextpnr.log")}
#: Seconds that a seed may take.
SEED_S = 2 * 3600
#: nextpnr's router takes up routes again that are in the way of others, and may go on like that for ever. What ends has
#: routed each arc 1.4 to 2.3 times; counted in arcs, the limit is the same on every machine.
_MOST_ROUTED = 6

#: A kind of cells in nextpnr's log, used and there.
_UTILISATION = re.compile(r"^Info:\s+(\w+):\s+(\d+)/\s*\d+", re.M)
_ARCS = re.compile(r"^Info: Routing (\d+) arcs\.")
_ITERATION = re.compile(r"^Info:\s+(\d+) \|.*\|\s+(\d+)\|")


class _Watch:
    """Passes nextpnr's lines on, and ends it when its router goes round in circles."""

    def __init__(self, seen: Callable[[str], None]) -> None:
        self._seen, self._arcs = seen, 0

    def __call__(self, line: str) -> None:
        self._seen(line)
        if found := _ARCS.match(line):
            self._arcs = int(found[1])
        elif self._arcs and (found := _ITERATION.match(line)) and int(found[1]) > _MOST_ROUTED * self._arcs:
            raise TookTooLong(
                f"nextpnr-ecp5 does not converge: {int(found[1]):,} routes for {self._arcs:,} arcs, {int(found[2]):,} "
                f"still to do"
            )


@dataclass(frozen=True, kw_only=True)
class Router:
    """Places and routes a netlist.

    Attributes
    ----------
    name : str
        For messages.
    board : Board
    folder : Path
        With ``netlist.json``; results are kept there.
    pins : str
        As LPF.
    placer : str
        One of :data:`PLACERS`.
    tools : Toolset
    related : sequence of (int, int)
        Clocks between which paths are judged too, see :func:`~.timing.read_report`.
    check : callable
        Called with each report.
    logs : Path
        Folder that messages name.
    limit_s : float
        Seconds that a seed may take.
    """

    name: str
    board: Board
    folder: Path
    pins: str
    placer: str
    tools: Toolset
    related: Sequence[tuple[int, int]]
    check: Callable[[Report], None]
    logs: Path
    limit_s: float

    def _arguments(self, seed: int) -> list[str]:
        return [*self.board.nextpnr, "--lpf", "pins.lpf", "--lpf-allow-unconstrained", "--seed", str(seed),
                "--timing-allow-fail", "--report", "report.json", "--textcfg", "part.config", *_PLACERS[self.placer]]

    def folder_of(self, seed: int) -> Path:
        """Where a seed's files are."""
        version = self.tools.version("nextpnr-ecp5")
        key = hashlib.sha256(f"{self.pins}{self._arguments(seed)}{version}".encode()).hexdigest()[:8]
        return self.folder / f"routed-{key}-{seed}"

    def route(self, seed: int, seen: Callable[[str], None], stop: Stop) -> Tried:
        """One seed; its folder has ``routed.config`` and ``report.json`` if it came to an end.

        Raises
        ------
        NomulError
            If nextpnr fails, or the design does not fit (and by how much).
        """
        routed = self.folder_of(seed)
        took_s = None
        try:
            if not (routed / "routed.config").is_file():
                routed.mkdir(exist_ok=True)
                (routed / "pins.lpf").write_text(self.pins)
                shutil.copyfile(self.folder / "netlist.json", routed / "netlist.json")
                begun = monotonic()
                self.tools.run("nextpnr-ecp5", "--json", "netlist.json", *self._arguments(seed), folder=routed,
                               log="nextpnr.log", limit_s=self.limit_s, seen=_Watch(seen), stop=stop)  # fmt: skip
                took_s = monotonic() - begun
                (routed / "part.config").replace(routed / "routed.config")  # whole or not at all
        except TookTooLong as error:
            return Tried(seed=seed, folder=routed, report=None, why=str(error))
        except Ended:
            raise
        except NomulError as error:
            log = (routed / "nextpnr.log").read_text()
            check_fit(self.name, self.board.device, {kind: int(count) for kind, count in _UTILISATION.findall(log)})
            raise NomulError(f"{error}; logs are in {self.logs}") from None
        finally:
            (routed / "netlist.json").unlink(missing_ok=True)
        report = read_report(routed / "report.json", self.related)
        self.check(report)
        return Tried(seed=seed, folder=routed, report=report, took_s=took_s)


def route_seeds(router: Router, seeds: Sequence[int], jobs: int, seen: Seen) -> Tried:
    """The first seed, in their order, that meets timing, whichever is ready first.

    Its logs, and those of the ones before it, go to where people look.

    Parameters
    ----------
    router : Router
    seeds : sequence of int
    jobs : int
        How many at once.
    seen : callable
        Progress.

    Raises
    ------
    NomulError
        As :meth:`Router.route`; or if none meets timing, with the path that limits the best.
    """

    def one(seed: int, stop: Stop) -> Tried:
        count = f" ({seeds.index(seed) + 1} of {len(seeds)})" if len(seeds) > 1 else ""
        name = f"placing and routing, seed {seed}{count}"
        with stage(seen, name):
            try:
                found = router.route(seed, partial(seen, name), stop)
            except Ended:
                seen(name, "ended")
                raise
            except NomulError:
                copy_files(router.folder_of(seed), router.logs, _ROUTED)
                raise
            seen(name, _outcome(found))
            return found

    tried = try_seeds(seeds, max(1, min(jobs, len(seeds))), one)
    best = max(tried, key=lambda one: -inf if one.report is None else one.report.worst.slack_ns)
    with os_errors(router.logs):
        for missed in tried:
            copy_files(missed.folder, router.logs, {"nextpnr.log": f"seed-{missed.seed}.log"} if missed is not best else
                  _ROUTED)
    if not best.met:
        raise NomulError(f"{_unmet(router.name, best, tried)}; logs are in {router.logs}")
    return best


def copy_files(source: Path, to: Path, names: Mapping[str, str]) -> None:
    """Those files that are there, under other names."""
    for name, new in names.items():
        if (source / name).is_file():
            shutil.copyfile(source / name, to / new)


def _outcome(tried: Tried) -> str:
    if tried.report is None:
        return f"missed: {tried.why}"
    clock = tried.report.worst
    word = "met" if tried.met else "missed"
    return f"{word}: {clock.routed_mhz:.1f} MHz of {clock.wanted_mhz:.1f} MHz wanted"


def _unmet(name: str, best: Tried, tried: Sequence[Tried]) -> str:
    lost = "".join(f"; seed {one.seed}: {one.why}" for one in tried if one.report is None)
    if best.report is None:
        return f"{name}: none of {len(tried)} seed(s) came to an end{lost}; try other seeds"
    clock = best.report.worst
    where = f"; the longest path goes {clock.path}" if clock.path else ""
    return (
        f"{name}: timing is not met: {clock.routed_mhz:.1f} MHz of {clock.wanted_mhz:.1f} MHz wanted, "
        f"{-clock.slack_ns:.2f} ns too slow, with the best of {len(tried)} seed(s), {best.seed}{where}{lost}; "
        f"try other seeds"
    )
