# SPDX-License-Identifier: Apache-2.0
"""The released bitstreams; ``python -m nomul.host.cli.released`` prints the tables of ``docs/boards/README.md``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from nomul.model.manifest import Manifest, read_manifest

__all__ = ["DETAILED", "main", "released", "table", "units_table"]

#: Of which the table of units tells: each kind of core once.
DETAILED = ("ulx3s-85f-onchip", "ulx3s-85f-lanes1", "versa-ecp5-5g-lanes1", "ecpix5-85f-lanes8")

_KINDS = {"TRELLIS_COMB": "LUT4", "TRELLIS_FF": "flip-flops", "DP16KD": "block RAMs", "MULT18X18D": "multipliers"}


def released() -> list[Path]:
    """Manifests of the released bitstreams."""
    return sorted(Path(str(resources.files("nomul.bitstreams"))).glob("*.json"))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns


def table(manifests: Sequence[Manifest]) -> str:
    """Cells in use, and clocks wanted and routed, the worst first, as Markdown."""
    lines = [_row("bitstream", *_KINDS.values(), "clocks wanted", "routed"), _rule(7)]
    for one in manifests:
        counts = []
        for kind in _KINDS:
            cell = one.area.get(kind, {"used": 0, "available": 0})
            counts.append(f"{cell['used']:,}" + (f" of {cell['available']}" if kind == "DP16KD" else ""))
        clocks = one.timing["clocks"]
        wanted = ", ".join(f"{clock['wanted_mhz']:.4g}" for clock in clocks)
        routed = ", ".join(f"{clock['routed_mhz']:.1f}" for clock in clocks)
        name = f"`{one.board}` `{one.configuration}`"
        made = f"{routed} MHz; slack {one.timing['worst_slack_ns']:.2f} ns, seed {one.seed}"
        lines.append(_row(name, *counts, f"{wanted} MHz", made))
    return "\n".join(lines)


def units_table(manifests: Sequence[Manifest]) -> str:
    """LUT4, flip-flops, block RAMs and multipliers by unit, before packing, as Markdown."""
    names = list(dict.fromkeys(name for one in manifests for name in one.units))
    heads = [f"`{one.board}` `{one.configuration}`" for one in manifests]
    lines = [_row("unit", *heads), _rule(1 + len(manifests))]
    for name in names:
        cells = []
        for one in manifests:
            found = one.units.get(name)
            counts = ("comb", "ff", "bram", "multipliers")
            cells.append("–" if found is None else " / ".join(f"{found[kind]:,}" for kind in counts))
        lines.append(_row(name, *cells))
    return "\n".join(lines)


def main() -> None:
    """Prints them."""
    found = {path.stem: read_manifest(path) for path in released()}
    print(table([*found.values()]), units_table([found[name] for name in DETAILED]), sep="\n\n")


if __name__ == "__main__":
    main()
