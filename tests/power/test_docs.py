# SPDX-License-Identifier: Apache-2.0
"""docs/power.md shows the coefficients that are computed with."""

from __future__ import annotations

from pathlib import Path

from nomul.host.power import KINDS
from nomul.host.power.modelled import coefficients

PAGE = (Path(__file__).parents[2] / "docs/power.md").read_text(encoding="utf-8")


def rows() -> list[str]:
    """The page's table as the file has it: watts, or picojoules."""
    found = []
    table = coefficients()
    places = [(f"static, {part}", row) for part, row in table["static"].items()]
    places += [(name, row) for name, row in table.items() if name not in ("static", "memory")]
    for name, row in places:
        unit, scale, values = ("W", 1, row["watts"]) if "watts" in row else ("pJ", 1e12, row["joules"])
        low, value, high = (f"{x * scale:.3g}" for x in values)
        found.append(f"| {name}, {unit} | {low} | {value} | {high} | {row['source']} |")
    return found


def memories() -> list[str]:
    """A line for each memory: its currents."""
    return [
        f"IDD0 {chip['idd0']:g}, IDD2N {chip['idd2n']:g}, IDD3N {chip['idd3n']:g}, IDD4R {chip['idd4r']:g}, "
        f"IDD4W {chip['idd4w']:g}, IDD5B {chip['idd5b']:g} mA at {chip['volts']:g} V and {chip['clock_mhz']:g} MHz"
        for chip in coefficients()["memory"].values()
    ]


def test_coefficients():
    flat = " ".join(PAGE.split())
    for row in [*rows(), *memories()]:
        assert row in flat


def test_every_kind_of_meter():
    for kind in KINDS:
        assert f"| `{kind}" in PAGE
