# SPDX-License-Identifier: Apache-2.0
"""From a board and a core to a bitstream that meets timing, with its manifest."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from .sources import hash_sources
from .synth import RECIPES, cell_parts, netlist_folder
from .timing import Report, read_report
from .tools import build_folder
from .toolset import YOWASP, Toolset
from .units import unit_areas
from .verilog import convert

__all__ = ["CAPACITY", "Built", "Chip", "board_sources", "build", "check_fit", "installed", "used_tools"]

_TOP = "board"
_ROUTED = ("pins.lpf", "report.json", "nextpnr.log")
_CLOCK_SLACK = 1e-3
_YOSYS_S, _NEXTPNR_S, _PACK_S = 1800, 4 * 3600, 600

#: Cells of the chips that a design may run out of (Lattice, FPGA-DS-02012, table "selection guide"). nextpnr packs
#: LUT4s, so how many are needed it says.
CAPACITY = {
    "25F": {"DP16KD": 56, "MULT18X18D": 28, "TRELLIS_FF": 24288, "TRELLIS_COMB": 24288},
    "45F": {"DP16KD": 108, "MULT18X18D": 72, "TRELLIS_FF": 43848, "TRELLIS_COMB": 43848},
    "85F": {"DP16KD": 208, "MULT18X18D": 156, "TRELLIS_FF": 83640, "TRELLIS_COMB": 83640},
}
_WORDS = {"DP16KD": "block RAMs", "MULT18X18D": "multipliers", "TRELLIS_FF": "flip-flops", "TRELLIS_COMB": "LUT4s"}
#: A kind of cells in nextpnr's log, used and there.
_UTILISATION = re.compile(r"^Info:\s+(\w+):\s+(\d+)/\s*\d+", re.M)

Seen = Callable[[str, str], None]


def _unseen(stage: str, line: str) -> None:
    """No progress."""


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
    tools: Toolset = YOWASP,
    constraints: str | None = None,
    output: Path | None = None,
    seen: Seen = _unseen,
) -> Built:
    """Builds a bitstream with the first seed that meets timing.

    What yosys and nextpnr made is kept below ``build/`` and taken from there the next time. Their logs are in the
    folder of the results also if this fails.

    Parameters
    ----------
    chip : Chip
    seeds : sequence of int
        Of placement, tried in this order.
    tools : Toolset
    constraints : str, optional
        Pins and clocks as LPF, in place of the board's.
    output : Path, optional
        Folder for the results; by default ``build/boards/NAME``.
    seen : callable
        Called with the stage and each line that a tool prints.

    Raises
    ------
    NomulError
        If a tool fails, the design does not fit (and by how much), no clock of the constraints is the core's, or no
        seed meets timing (with the path that limits it).
    """
    board = chip.board
    used = used_tools(chip, tools.versions)
    sources = board_sources(chip, used)  # before the minutes in which files may change
    seen("generating Verilog", "")
    source = convert(chip.top, _TOP) + chip.top.verilog
    seen("synthesising", "")
    folder = netlist_folder(source, _TOP, name=chip.name, limit_s=_YOSYS_S, tools=tools)
    cells = json.loads((folder / "netlist.json").read_text())["modules"][_TOP]["cells"]
    check_fit(chip.name, board.device, Counter(cell["type"] for cell in cells.values()))
    units = unit_areas(cell_parts(cells), chip.units)
    pins = chip.top.constraints() if constraints is None else _with_clock(constraints, board.input_hz)
    where = build_folder("boards", chip.name) if output is None else output
    with os_errors(where):
        where.mkdir(parents=True, exist_ok=True)
        _copy(folder, where, {"source.v": "board.v", "yosys.log": "yosys.log"})
    best: tuple[float, int, Report] | None = None
    for number, seed in enumerate(seeds):
        stage = f"placing and routing, seed {seed}" + (f" ({number + 1} of {len(seeds)})" if len(seeds) > 1 else "")
        routed = _route(chip, folder, pins, seed, tools, partial(seen, stage), where)
        report = read_report(routed / "report.json", chip.top.related)
        _check_clock(chip, report)
        if best is None or report.worst.slack_ns > best[0]:
            best = report.worst.slack_ns, seed, report
        if report.met:
            break
    assert best is not None
    slack, seed, report = best
    if slack < 0:
        raise NomulError(f"{_unmet(chip, best, len(seeds))}; logs are in {where}")
    seen("packing", "")
    bitstream = _pack(board, routed, tools)
    manifest = _manifest(chip, report, units, bitstream, sources=sources, seed=seed, used=used, kind=tools.kind)
    with os_errors(where):
        _copy(routed, where, {"ecppack.log": "ecppack.log"})
    with atomic(where / manifest.file) as out:
        out.write(bitstream)
    manifest.write(where / f"{chip.name}.json")
    return Built(folder=where, manifest=manifest, report=report)


def check_fit(name: str, device: str, needed: Mapping[str, int]) -> None:
    """Refuses what needs more cells of a kind than a chip has.

    Raises
    ------
    NomulError
        With how many too many.
    """
    for kind, there in CAPACITY[device.rpartition("-")[2]].items():
        count = needed.get(kind, 0)
        if count > there:
            raise NomulError(
                f"{name}: needs {count:,} {_WORDS[kind]}, an {device} has {there:,}: {count - there:,} too many; "
                f"take a smaller model or a larger chip"
            )


def _copy(source: Path, to: Path, names: Mapping[str, str]) -> None:
    """Those files that are there, under other names."""
    for name, new in names.items():
        if (source / name).is_file():
            shutil.copyfile(source / name, to / new)


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


def _route(
    chip: Chip, folder: Path, pins: str, seed: int, tools: Toolset, seen: Callable[[str], None], logs: Path
) -> Path:
    """The folder with ``report.json`` and ``routed.config`` of one seed; its logs go to another too."""
    arguments = [*chip.board.nextpnr, "--lpf", "pins.lpf", "--lpf-allow-unconstrained", "--seed", str(seed),
                 "--timing-allow-fail", "--report", "report.json", "--textcfg", "part.config"]  # fmt: skip
    version = tools.version("nextpnr-ecp5")
    key = hashlib.sha256(f"{pins}{arguments}{version}".encode()).hexdigest()[:8]
    routed = folder / f"routed-{key}-{seed}"
    try:
        if not (routed / "routed.config").is_file():
            routed.mkdir(exist_ok=True)
            (routed / "pins.lpf").write_text(pins)
            shutil.copyfile(folder / "netlist.json", routed / "netlist.json")
            tools.run("nextpnr-ecp5", "--json", "netlist.json", *arguments, folder=routed,
                      log="nextpnr.log", limit_s=_NEXTPNR_S, seen=seen)  # fmt: skip
            (routed / "part.config").replace(routed / "routed.config")  # whole or not at all
    except NomulError as error:
        log = (routed / "nextpnr.log").read_text()
        check_fit(chip.name, chip.board.device, {kind: int(count) for kind, count in _UTILISATION.findall(log)})
        raise NomulError(f"{error}; logs are in {logs}") from None
    finally:
        (routed / "netlist.json").unlink(missing_ok=True)
        _copy(routed, logs, {name: name for name in _ROUTED})
    return routed


def _unmet(chip: Chip, best: tuple[float, int, Report], tried: int) -> str:
    slack, seed, report = best
    clock = report.worst
    where = f"; the longest path goes {clock.path}" if clock.path else ""
    return (
        f"{chip.name}: timing is not met: {clock.routed_mhz:.1f} MHz of {clock.wanted_mhz:.1f} MHz wanted, "
        f"{-slack:.2f} ns too slow, with the best of {tried} seed(s), {seed}{where}; try other seeds"
    )


def _pack(board: Board, routed: Path, tools: Toolset) -> bytes:
    tools.run("ecppack", *board.packing, "--input", "routed.config", "--bit", "part.bit",
              folder=routed, log="ecppack.log", limit_s=_PACK_S)  # fmt: skip
    return (routed / "part.bit").read_bytes()


def _manifest(
    chip: Chip, report: Report, units: dict[str, dict[str, int]], bitstream: bytes,
    *, sources: str, seed: int, used: dict[str, str], kind: str,
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
        command=f"{chip.command} --seed {seed} --tools {kind}",
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
