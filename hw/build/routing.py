# SPDX-License-Identifier: Apache-2.0
"""One placement seed: nextpnr, and what becomes of it."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomul.hw.boards.board import Board
from nomul.model.errors import NomulError

from .capacity import check_fit
from .seeds import Tried
from .timing import Report, read_report
from .tools import Stop, TookTooLong
from .toolset import Toolset

__all__ = ["PLACERS", "ROUTED_FILES", "SEED_S", "Router"]

#: Placers that nextpnr has for ECP5. HeAP solves for wire length, spreads and legalises by turns; static moves cells
#: down the gradient of wire length and density, and leaves less wire to route.
PLACERS = ("heap", "static")
#: What a seed leaves for people.
ROUTED_FILES = ("pins.lpf", "report.json", "nextpnr.log")
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
        arguments = [*self.board.nextpnr, "--lpf", "pins.lpf", "--lpf-allow-unconstrained", "--seed", str(seed),
                     "--timing-allow-fail", "--report", "report.json", "--textcfg", "part.config"]  # fmt: skip
        return arguments if self.placer == PLACERS[0] else [*arguments, "--placer", self.placer]

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
        try:
            if not (routed / "routed.config").is_file():
                routed.mkdir(exist_ok=True)
                (routed / "pins.lpf").write_text(self.pins)
                shutil.copyfile(self.folder / "netlist.json", routed / "netlist.json")
                self.tools.run("nextpnr-ecp5", "--json", "netlist.json", *self._arguments(seed), folder=routed,
                               log="nextpnr.log", limit_s=self.limit_s, seen=_Watch(seen), stop=stop)  # fmt: skip
                (routed / "part.config").replace(routed / "routed.config")  # whole or not at all
        except TookTooLong as error:
            return Tried(seed=seed, folder=routed, report=None, why=str(error))
        except NomulError as error:
            if stop.is_set():
                raise
            log = (routed / "nextpnr.log").read_text()
            check_fit(self.name, self.board.device, {kind: int(count) for kind, count in _UTILISATION.findall(log)})
            raise NomulError(f"{error}; logs are in {self.logs}") from None
        finally:
            (routed / "netlist.json").unlink(missing_ok=True)
        report = read_report(routed / "report.json", self.related)
        self.check(report)
        return Tried(seed=seed, folder=routed, report=report)
