# SPDX-License-Identifier: Apache-2.0
"""Both engines against the golden function, on the generated Verilog; their validation and area."""

from __future__ import annotations

import pytest

from nomul.hw import engine as engines
from nomul.hw.engine.table import walk_of_sums
from nomul.model.ternary import DECODE
from nomul.sim.harness import run

ENGINES = ["TableEngine", "SelectEngine"]


def geometry(g: int, lanes: int, outputs: int, chunks: int, acts: int) -> dict[str, int]:
    return {"bytes_per_beat": g, "lanes": lanes, "outputs": outputs, "inputs": chunks * 5 * g,
            "acts_per_beat": acts}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [
    geometry(1, 1, 16, 1, 1),    # the smallest
    geometry(3, 2, 33, 4, 5),    # an odd tree, two lanes
    geometry(4, 1, 400, 2, 4),   # beats that cross tables
])
def test_equals_golden(engine: str, shape: dict[str, int]):
    component = getattr(engines, engine)(**shape)
    run(component, "engine_tb", parameters={"engine": engine, "geometry": shape})
