# SPDX-License-Identifier: Apache-2.0
"""Our models of the cells that yosys leaves black: what it makes of memories and products does what they did."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from rams import SHAPES, Rams

from nomul.hw.build.synth import netlist_folder
from nomul.hw.build.verilog import convert
from nomul.sim.harness import run
from nomul.sim.synthesised import CELLS


@pytest.mark.parametrize("synthesis", [False, True])
def test_memories_and_products(synthesis: bool):
    """Contents that configuration leaves, all widths, reads that meet writes; the same for what it is made from."""
    run(Rams(), "rams_tb", synthesis=synthesis)


def test_the_cells_are_there():
    """Else the test above would show nothing: one block RAM for each memory, in its own mode, and a multiplier."""
    folder = netlist_folder(convert(Rams(), "rams"), "rams", name="rams", limit_s=600)
    cells = json.loads((folder / "netlist.json").read_text())["modules"]["rams"]["cells"].values()
    counts = Counter(cell["type"] for cell in cells)
    assert counts["DP16KD"] == len(SHAPES) + 1
    assert counts["MULT18X18D"] == 1
    widths = {int(cell["parameters"]["DATA_WIDTH_B"], 2) for cell in cells if cell["type"] == "DP16KD"}
    assert widths == {width for width, _ in SHAPES.values()}


def test_models_name_what_they_lack():
    text = CELLS.read_text()
    for cell in ("DP16KD", "MULT18X18D"):
        assert f'"{cell}: a mode that is not modelled"' in text
