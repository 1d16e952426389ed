# SPDX-License-Identifier: Apache-2.0
"""Area and clock of a component, synthesised and routed on its own.

yosys ``synth_ecp5``, the passes of :mod:`.netlist`, then nextpnr-ecp5 ``--out-of-context`` for
several placement seeds: no pins, so paths from and to ports don't count. Figures got this way are
labelled *routed, out of context*.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amaranth.hdl import Elaboratable

from nomul.hw.boards.board import NEXTPNR_DEVICES
from nomul.model.errors import NomulError

from . import netlist
from .netlist import optimise
from .tools import build_folder, versions
from .toolset import YOWASP, Toolset
from .verilog import convert

if TYPE_CHECKING:
    from nomul.hw.boards.memory import MemoryTop
    from nomul.hw.boards.top import BoardTop

__all__ = [
    "PART", "RECIPES", "SEEDS", "Placed", "Synthesis", "cell_parts", "netlist_folder", "pack", "place", "synthesise",
    "synthesise_board",
]  # fmt: skip

#: The device of every out-of-context figure, and its speed grade.
PART, SPEED = "LFE5U-85F", 6


#: Placement seeds of a figure: the clock moves a few percent from one to the next.
SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What a component takes and how fast it runs, routed out of context.

    Attributes
    ----------
    comb : int
        LUT4 equivalents (TRELLIS_COMB), carry chains and LUT RAM included.
    ff, bram, multipliers : int
        Flip-flops (TRELLIS_FF), block RAMs (DP16KD), multipliers (MULT18X18D).
    fmax_mhz : tuple of float
        Clock for each seed; empty if it was only synthesised.
    seeds : tuple of int
        The seeds.
    part, speed, tools
        Device, speed grade, versions of the tools.
    longest_paths : tuple of (str, str)
        For each seed, the cells at both ends of the path that limits the clock.
    parts : dict
        The same four counts, before packing, by the first six levels of hierarchy in cell
        names. Logic that yosys merged across units is counted where its name says.
    """

    comb: int
    ff: int
    bram: int
    multipliers: int
    fmax_mhz: tuple[float, ...]
    seeds: tuple[int, ...]
    part: str
    speed: int
    tools: dict[str, str]
    longest_paths: tuple[tuple[str, str], ...] = ()
    parts: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def fmax_median_mhz(self) -> float:
        """Median clock over the seeds."""
        return round(statistics.median(self.fmax_mhz), 2)

    def as_dict(self) -> dict[str, object]:
        """For JSON: the fields and the median."""
        median = self.fmax_median_mhz if self.fmax_mhz else None
        return {**asdict(self), "fmax_median_mhz": median}


#: LUT4 equivalents of cells that take any.
_COMB = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}
_COUNTED = {"TRELLIS_FF": "ff", "DP16KD": "bram", "MULT18X18D": "multipliers"}


def cell_parts(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Counts of a netlist's cells by the first six levels of hierarchy in their names."""
    parts: dict[str, dict[str, int]] = {}
    for name, cell in cells.items():
        path = name.split(".")[:-1]  # the last component is the cell's own
        owner = ".".join(path[:6])
        counts = parts.setdefault(owner, dict.fromkeys(("comb", *_COUNTED.values()), 0))
        counts["comb"] += _COMB.get(cell["type"], 0)
        if cell["type"] in _COUNTED:
            counts[_COUNTED[cell["type"]]] += 1
    return parts


#: What yosys does, and what when that fails: its ABC dies without a word on some netlists when it
#: runs as WebAssembly; the same netlist with its cells renamed goes through.
RECIPES = (
    "synth_ecp5 -top {0} -json part.json",
    "synth_ecp5 -top {0} -run :map_luts; opt_clean -purge; rename -wire; "
    "synth_ecp5 -top {0} -run map_luts: -json part.json",
)


def _synthesise(folder: Path, top: str, tools: Toolset, limit_s: int) -> None:
    """``source.v`` to ``part.json`` in ``folder``."""
    log = folder / "yosys.log"
    for last, recipe in zip((False, True), RECIPES, strict=True):
        try:
            tools.run("yosys", "-p", f"read_verilog source.v; {recipe.format(top)}",
                      folder=folder, log=log.name, limit_s=limit_s)
            return
        except NomulError:
            died_in_abc = "Running ABC command" in log.read_text().rstrip().rsplit("\n", 1)[-1]
            if last or not died_in_abc:
                raise


@dataclass(frozen=True, kw_only=True)
class Placed:
    """What nextpnr reports of a seed.

    Attributes
    ----------
    clock_mhz : float
        Of the slowest clock.
    longest_path : tuple of str
        Cells at both ends of the path that limits it.
    used : dict of str to int
        Cells by kind.
    """

    clock_mhz: float
    longest_path: tuple[str, str]
    used: dict[str, int]


def place(folder: Path, seed: int, arguments: Sequence[str], pins: str, limit_s: int) -> Placed:
    """Places and routes a netlist with one seed; kept beside it.

    Parameters
    ----------
    folder : Path
        From :func:`netlist_folder`.
    seed : int
    arguments : sequence of str
        Device and speed for nextpnr, and the clock to aim at.
    pins : str
        As LPF; empty: out of context.
    limit_s : int
        Seconds that it may take.

    Raises
    ------
    NomulError
        If nextpnr fails, is missing, or takes too long.
    """
    version = YOWASP.version("nextpnr-ecp5")
    key = hashlib.sha256(f"{arguments}{pins}{version}".encode()).hexdigest()[:8]
    name = f"{key}-{seed}"
    report = folder / f"report-{name}.json"
    if not report.is_file():
        (folder / f"{name}.lpf").write_text(pins)
        where = ["--lpf", f"{name}.lpf", "--lpf-allow-unconstrained"] if pins else ["--out-of-context"]
        YOWASP.run("nextpnr-ecp5", *arguments, *where, "--seed", str(seed), "--json", "netlist.json",
                   "--timing-allow-fail", "--report", f"part-{name}.json", folder=folder,
                   log=f"nextpnr-{name}.log", limit_s=limit_s)
        (folder / f"part-{name}.json").rename(report)  # whole or not at all
    data = json.loads(report.read_text())
    achieved, clock = min((found["achieved"], name) for name, found in data["fmax"].items())
    edges = {"from": f"posedge {clock}", "to": f"posedge {clock}"}
    (path,) = (found["path"] for found in data["critical_paths"] if edges.items() <= found.items())
    return Placed(
        clock_mhz=achieved,
        longest_path=(path[0]["from"]["cell"], path[-1]["to"]["cell"]),
        used={name: cell["used"] for name, cell in data["utilization"].items()},
    )


_USED = re.compile(r"^Info:\s+(\w+):\s+(\d+)/", re.M)


def pack(folder: Path, arguments: Sequence[str], pins: str, limit_s: int) -> dict[str, int]:
    """Cells by kind after packing, which placement and routing leave as they are; parameters as of :func:`place`.

    It takes seconds where routing takes minutes.

    Raises
    ------
    NomulError
        As :func:`place`.
    """
    key = hashlib.sha256(f"{arguments}{pins}".encode()).hexdigest()[:8]
    (folder / f"pack-{key}.lpf").write_text(pins)
    where = ["--lpf", f"pack-{key}.lpf", "--lpf-allow-unconstrained"] if pins else ["--out-of-context"]
    log = f"pack-{key}.log"
    YOWASP.run("nextpnr-ecp5", *arguments, *where, "--pack-only", "--json", "netlist.json", folder=folder, log=log,
               limit_s=limit_s)
    _, found, text = (folder / log).read_text(errors="replace").partition("Device utilisation:")
    if not found:
        raise NomulError(f"nextpnr-ecp5 does not tell what it uses (see {folder / log})")
    return {kind: int(count) for kind, count in _USED.findall(text)}


def netlist_folder(
    source: str, top: str, *, name: str, limit_s: int, tools: Toolset = YOWASP
) -> Path:
    """The folder below ``build/`` with ``netlist.json``: what yosys and the passes of :mod:`.netlist` make of Verilog.

    It is made once for each text, recipe and version of yosys.

    Parameters
    ----------
    source : str
        Verilog.
    top : str
        Its top module.
    name : str
        With which the folder's begins.
    limit_s : int
        Seconds that yosys may take.
    tools : Toolset

    Raises
    ------
    NomulError
        If yosys fails, is missing, or takes too long.
    """
    passes = Path(netlist.__file__).read_text()
    parts = [source, top, str(RECIPES), passes, tools.version("yosys")]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = build_folder("synth", f"{name}-{key}")
    with open(folder / "lock", "w") as lock:  # another process may want the same
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "netlist.json").is_file():
            (folder / "source.v").write_text(source)
            _synthesise(folder, top, tools, limit_s)
            design = json.loads((folder / "part.json").read_text())
            optimise(design)
            (folder / "part.json").write_text(json.dumps(design))
            (folder / "part.json").rename(folder / "netlist.json")
    return folder


def synthesise(
    component: Elaboratable,
    *,
    name: str,
    seeds: Sequence[int] = SEEDS,
    freq: int = 200,
    limit_s: int = 600,
) -> Synthesis:
    """Synthesises a component and routes it once for each seed, as many at once as processors.

    Results are kept below ``build/`` under a hash of the Verilog, options and tool versions.

    Parameters
    ----------
    component : Elaboratable
        A component with its ports in its signature.
    name : str
        Name of the top module and of the folder.
    seeds : sequence of int
        Placement seeds; with none, only yosys runs and ``comb`` is its count of LUTs, carries and
        LUT RAM, before packing.
    freq : int
        Clock to aim at, MHz.
    limit_s : int
        Seconds that each run of a tool may take.

    Raises
    ------
    NomulError
        If a tool fails, is missing, or takes too long.
    """
    folder = netlist_folder(convert(component, name), name, name=name, limit_s=limit_s)
    arguments = (NEXTPNR_DEVICES[PART], "--speed", str(SPEED), "--freq", str(freq))
    placed = _place_all(folder, seeds, arguments, "", limit_s)
    return _figures(folder, name, seeds, placed, part=PART, speed=SPEED)


def synthesise_board(top: BoardTop | MemoryTop, *, seeds: Sequence[int], limit_s: int) -> Synthesis:
    """The same of all of a chip, with its pins and clocks; its clock is the slowest that there is.

    Parameters
    ----------
    top : BoardTop or MemoryTop
    seeds : sequence of int
    limit_s : int

    Raises
    ------
    NomulError
        As :func:`synthesise`.
    """
    name, board = "board", top.board
    folder = netlist_folder(convert(top, name) + top.verilog, name, name=board.name, limit_s=limit_s)
    placed = _place_all(folder, seeds, board.nextpnr, top.constraints(), limit_s)
    return _figures(folder, name, seeds, placed, part=board.device, speed=board.speed)


def _place_all(
    folder: Path, seeds: Sequence[int], arguments: Sequence[str], pins: str, limit_s: int
) -> list[Placed]:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(lambda seed: place(folder, seed, arguments, pins, limit_s), seeds))


def _figures(
    folder: Path, top: str, seeds: Sequence[int], placed: Sequence[Placed], *, part: str, speed: int
) -> Synthesis:
    tools = {key: value for key, value in versions().items() if key.startswith("yowasp")}
    found = json.loads((folder / "netlist.json").read_text())["modules"][top]["cells"]
    cells = Counter(cell["type"] for cell in found.values())
    if placed:
        used = placed[0].used
        comb, ff = used["TRELLIS_COMB"], used["TRELLIS_FF"]
    else:
        comb = sum(count * cells[kind] for kind, count in _COMB.items())
        ff = cells["TRELLIS_FF"]
    return Synthesis(
        comb=comb, ff=ff, bram=cells["DP16KD"], multipliers=cells["MULT18X18D"],
        fmax_mhz=tuple(round(place.clock_mhz, 2) for place in placed), seeds=tuple(seeds),
        part=part, speed=speed, tools=tools,
        longest_paths=tuple(place.longest_path for place in placed), parts=cell_parts(found),
    )
