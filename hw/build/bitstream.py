# SPDX-License-Identifier: Apache-2.0
"""From a board and a core to a bitstream that meets timing, with its manifest."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from nomul.hw.boards.board import Board, UartLink
from nomul.hw.boards.constraints import lpf
from nomul.hw.boards.memory import MemoryTop
from nomul.hw.boards.top import BoardTop
from nomul.hw.dram.controller import packages
from nomul.model.errors import NomulError
from nomul.model.files import atomic, os_errors
from nomul.model.manifest import Manifest

from . import netlist, verilog
from .capacity import CAPACITY, check_fit
from .progress import Seen, stage, unseen
from .routing import PLACERS, SEED_S, Router, copy_files, route_seeds
from .sources import hash_sources
from .synth import RECIPES, cell_parts, netlist_folder
from .timing import Report
from .tools import build_folder
from .toolset import YOWASP, Toolset
from .units import unit_areas
from .verilog import convert

__all__ = ["CAPACITY", "Built", "Chip", "board_sources", "build", "check_fit", "installed", "used_tools"]

_TOP = "board"
_CLOCK_SLACK = 1e-3
_YOSYS_S, _PACK_S = 1800, 600

@dataclass(frozen=True, kw_only=True)
class Chip:
    """What is to be on a board.

    Attributes
    ----------
    top : BoardTop or MemoryTop
    configuration : str
    design : bytes
        By which the board says what it is.
    core : dict or None
        The configuration of the core, for the manifest.
    geometry : dict or None
        The model that it is sized for.
    command : str
        That builds it; seed and tools are appended.
    """

    top: BoardTop | MemoryTop
    configuration: str
    design: bytes
    core: dict[str, Any] | None
    geometry: dict[str, Any] | None
    command: str

    @property
    def board(self) -> Board:
        """Where it goes."""
        return self.top.board

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.board.name}-{self.configuration}"

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the core's units."""
        core: Any = self.top.top.core
        while hasattr(core, "core"):  # with its memory's controller around it
            core = core.core
        return tuple(getattr(core, "units", ()))


@dataclass(frozen=True, kw_only=True)
class Built:
    """A bitstream.

    Attributes
    ----------
    folder : Path
        With bitstream, manifest, nextpnr's report and the logs.
    manifest : Manifest
    report : Report
    """

    folder: Path
    manifest: Manifest
    report: Report


def used_tools(chip: Chip, tools: Mapping[str, str]) -> dict[str, str]:
    """Versions of all that makes a chip's bitstream: yosys and its kin, and the packages that write its Verilog."""
    names = ["amaranth"]
    if isinstance(chip.top, MemoryTop):
        names += packages()
    if not isinstance(chip.board.link, UartLink):
        names += ["luna-usb"]
    return {**tools, **{name: metadata.version(name) for name in names}}


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions, here, of what manifests name; of yosys and its kin those from pip."""
    found = YOWASP.versions
    return {name: found[name] if name in found else metadata.version(name) for name in names}


def board_sources(chip: Chip, tools: Mapping[str, str]) -> str:
    """SHA-256 of all that a bitstream is made of: sources, pins and facts of the board, the build flow, tools."""
    flow = [str(RECIPES), *(Path(str(module.__file__)).read_text() for module in (netlist, verilog))]
    salt = [chip.design.hex(), repr(chip.board), chip.top.constraints(), *flow, json.dumps(dict(tools), sort_keys=True)]
    modules = [BoardTop.__module__]
    if isinstance(chip.top, MemoryTop):  # LiteX runs in a process of its own
        modules = [MemoryTop.__module__, "nomul.hw.dram.litex"]
    return hash_sources(*modules, salt="\0".join(salt)).hex()


def build(
    chip: Chip,
    *,
    seeds: Sequence[int],
    jobs: int = 1,
    placer: str = PLACERS[0],
    tools: Toolset = YOWASP,
    constraints: str | None = None,
    output: Path | None = None,
    seen: Seen = unseen,
    seed_limit_s: float = SEED_S,
) -> Built:
    """Builds a bitstream with the first seed, in their order, that meets timing.

    It is the same one, and so are the bytes, however many run at once. What yosys and nextpnr made is kept below
    ``build/`` and taken from there the next time. Their logs are in the folder of the results also if this fails:
    ``nextpnr.log`` of the seed that is told of, ``seed-N.log`` of those that missed before.

    Parameters
    ----------
    chip : Chip
    seeds : sequence of int
        Of placement.
    jobs : int
        How many of them at once.
    placer : str
        One of :data:`~.routing.PLACERS`.
    tools : Toolset
    constraints : str, optional
        Pins and clocks as LPF, in place of the board's.
    output : Path, optional
        Folder for the results; by default ``build/boards/NAME``.
    seen : callable
        Called with the stage and each line that a tool prints, from several threads where several run; with ``None``
        when the stage is over.
    seed_limit_s : float
        Seconds that a seed may take; one that takes longer counts as missed.

    Raises
    ------
    NomulError
        If a tool fails, the design does not fit (and by how much), no clock of the constraints is the core's, or no
        seed meets timing (with the path that limits it).
    """
    board = chip.board
    used = used_tools(chip, tools.versions)
    sources = board_sources(chip, used)  # before the minutes in which files may change
    with stage(seen, "generating Verilog"):
        source = convert(chip.top, _TOP) + chip.top.verilog
    with stage(seen, "synthesising"):
        folder = netlist_folder(source, _TOP, name=chip.name, limit_s=_YOSYS_S, tools=tools)
        cells = json.loads((folder / "netlist.json").read_text())["modules"][_TOP]["cells"]
    check_fit(chip.name, board.device, Counter(cell["type"] for cell in cells.values()))
    units = unit_areas(cell_parts(cells), chip.units)
    pins = chip.top.constraints() if constraints is None else _with_clock(constraints, board.input_hz)
    where = build_folder("boards", chip.name) if output is None else output
    with os_errors(where):
        where.mkdir(parents=True, exist_ok=True)
        for old in where.glob("seed-*.log"):
            old.unlink()
        copy_files(folder, where, {"source.v": "board.v", "yosys.log": "yosys.log"})
    router = Router(
        name=chip.name, board=board, folder=folder, pins=pins, placer=placer, tools=tools, related=chip.top.related,
        check=partial(_check_clock, chip), logs=where, limit_s=seed_limit_s,
    )  # fmt: skip
    chosen = route_seeds(router, seeds, jobs, seen)
    assert chosen.report is not None
    report, seed = chosen.report, chosen.seed
    with stage(seen, "packing"):
        bitstream = _pack(board, chosen.folder, tools)
    command = f"{chip.command} --seed {seed} --placer {placer} --tools {tools.kind}"
    manifest = _manifest(chip, report, units, bitstream, sources=sources, seed=seed, used=used, command=command)
    with os_errors(where):
        copy_files(chosen.folder, where, {"ecppack.log": "ecppack.log"})
    with atomic(where / manifest.file) as out:
        out.write(bitstream)
    manifest.write(where / f"{chip.name}.json")
    return Built(folder=where, manifest=manifest, report=report)


def _with_clock(constraints: str, input_hz: int) -> str:
    """Constraints that say at least how fast the oscillator is: without, nextpnr aims at 12 MHz."""
    if re.search(r"^\s*FREQUENCY\s", constraints, re.M | re.I):
        return constraints
    return constraints.rstrip("\n") + "\n" + lpf({}, {"clk": input_hz})


def _check_clock(chip: Chip, report: Report) -> None:
    wanted = [clock.wanted_mhz for clock in report.clocks]
    if not any(abs(mhz * 1e6 / chip.top.clock_hz - 1) < _CLOCK_SLACK for mhz in wanted):
        raise NomulError(
            f"{chip.name}: the core's clock is {chip.top.clock_hz / 1e6:g} MHz, by the constraints it is "
            f"{', '.join(f'{mhz:g}' for mhz in wanted)} MHz; they want "
            f'FREQUENCY PORT "clk" {chip.board.input_hz / 1e6:g} MHZ;'
        )


def _pack(board: Board, routed: Path, tools: Toolset) -> bytes:
    tools.run("ecppack", *board.packing, "--input", "routed.config", "--bit", "part.bit",
              folder=routed, log="ecppack.log", limit_s=_PACK_S)  # fmt: skip
    return (routed / "part.bit").read_bytes()


def _manifest(
    chip: Chip, report: Report, units: dict[str, dict[str, int]], bitstream: bytes,
    *, sources: str, seed: int, used: dict[str, str], command: str,
) -> Manifest:
    board, top = chip.board, chip.top
    core_clock = min(report.clocks, key=lambda clock: abs(clock.wanted_mhz * 1e6 - top.clock_hz))
    return Manifest(
        board=board.name,
        configuration=chip.configuration,
        file=f"{chip.name}.bit",
        sha256=hashlib.sha256(bitstream).hexdigest(),
        size=len(bitstream),
        device=board.device,
        package=board.package,
        speed=board.speed,
        design=chip.design.hex(),
        sources=sources,
        clock_hz=top.clock_hz,
        pll=_pll(top),
        link={"kind": "uart", "baud": top.stream.baud} if top.stream.baud else {"kind": "usb"},
        loader=list(board.loader),
        cables=list(board.cables),
        memory=_memory(top),
        core=chip.core,
        geometry=chip.geometry,
        timing={
            "how": "routed",
            "clocks": [
                {"wanted_mhz": round(clock.wanted_mhz, 3), "routed_mhz": round(clock.routed_mhz, 3)}
                for clock in report.clocks
            ],
            "fmax_mhz": round(core_clock.routed_mhz, 3),
            "worst_slack_ns": round(report.worst.slack_ns, 3),
            "worst_path": str(report.worst.path) if report.worst.path else None,
        },
        area={
            kind: {"used": count, "available": there} for kind, (count, there) in report.area.items() if count
        },
        units=units,
        seed=seed,
        tools=used,
        command=command,
    )  # fmt: skip


def _pll(top: BoardTop | MemoryTop) -> dict[str, Any]:
    if isinstance(top, MemoryTop):
        return {}  # it is LiteDRAM's
    return {
        "input_hz": top.pll.input_hz, "input_div": top.pll.input_div,
        "feedback_div": top.pll.feedback_div, "output_divs": list(top.pll.output_divs),
    }  # fmt: skip


def _memory(top: BoardTop | MemoryTop) -> dict[str, Any] | None:
    """What a host needs to bring the memory up, as JSON has it."""
    if not isinstance(top, MemoryTop):
        return None
    assert top.board.memory is not None
    control = top.controller.control(top.board.memory).as_dict()
    return {**control, "init": list(control["init"])}
