# SPDX-License-Identifier: Apache-2.0
"""docs/power.md shows the coefficients that are computed with."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nomul.host.power import KINDS
from nomul.host.power.modelled import Estimate, ModelledMeter, coefficients

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
    """A row for each memory: its currents, and where they come from."""
    found = []
    for part, chip in coefficients()["memory"].items():
        currents = ", ".join(f"{name[3:].upper()} {chip[name]:g}" for name in chip if name.startswith("idd"))
        at = f"{chip['volts']:g} V, {chip['clock_mhz']:g} MHz"
        found.append(f"| {part}, {chip['kind']} | {currents} | {at} | {chip['source']} |")
    return found


def test_coefficients():
    flat = " ".join(PAGE.split())
    for row in [*rows(), *memories()]:
        assert row in flat


def test_every_kind_of_meter():
    for kind in KINDS:
        assert f"| `{kind}" in PAGE


EXAMPLES = {
    "on-chip": ("### An example", "µJ", 1e6), "ecpix5-370m": ("### An example: 370M on an ECPIX-5", "mJ", 1e3),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_follow_from_their_inputs(name: str):
    """Tables and sums, computed again from a stored report with activity."""
    heading, unit, scale = EXAMPLES[name]
    section = PAGE.partition(f"{heading}\n")[2].partition("\n### ")[0]
    path = Path(__file__).parent / "examples" / f"{name}.json"
    rate = json.loads(path.read_text())["tokens_per_second"]
    meter = ModelledMeter(path)
    memory = [watts for part, watts in meter.parts.items() if part.startswith("memory_")]
    parts = {part: watts for part, watts in meter.parts.items() if not part.startswith("memory_") and part != "pins"}
    if memory:
        parts["DDR3"] = sum(memory, start=Estimate(low=0.0, value=0.0, high=0.0))
    told = [f"| {part} | {w.value:.2g} ({w.low:.2g} to {w.high:.2g}) |" for part, w in parts.items()]
    whole = meter.estimate
    told.append(f"| **all** | **{whole.value:.2g}** ({whole.low:.2g} to {whole.high:.2g}) |")
    assert re.findall(r"^\| .*\|$", section, re.M)[1:] == told
    joules = [scale * watts / rate for watts in (whole.value, whole.low, whole.high)]
    tokens = [rate / watts for watts in (whole.value, whole.high, whole.low)]
    for text in ("{:.3g} {unit} a token ({:.3g} to {:.3g})".format(*joules, unit=unit),
                 "{:,.0f} tokens a joule ({:,.0f} to {:,.0f})".format(*tokens), f"{rate:,} tokens/s"):  # fmt: skip
        assert text in " ".join(section.split())


def test_areas_of_the_examples_are_the_page_s():
    names = {"comb": "LUT4", "ff": "flip-flops", "bram": "block RAMs", "multipliers": "multipliers"}
    for name in EXAMPLES:
        core = json.loads((Path(__file__).parent / "examples" / f"{name}.json").read_text())["core"]
        for key, what in names.items():
            assert f"{core[key]:,} {what}" in " ".join(PAGE.split())
