# SPDX-License-Identifier: Apache-2.0
"""The whole vector unit: refusals, simulation against the golden one, what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from nomul.hw.vector import VectorUnit
from nomul.sim.harness import run

ODD: dict[str, Any] = {
    "lanes": 1, "hidden": 45, "intermediate": 39, "layers": 2, "inputs": 45, "bytes_per_beat": 4,
    "vocab": 37,
}  # fmt: skip
TWO = ODD | {"lanes": 2, "hidden": 38, "intermediate": 50, "bytes_per_beat": 8}
TINY = ODD | {"hidden": 1, "intermediate": 1, "layers": 1, "inputs": 1, "vocab": 1}
SHIPPED = ODD | {
    "hidden": 180, "intermediate": 540, "layers": 3, "inputs": 540, "bytes_per_beat": 36,
    "vocab": 256,
}  # fmt: skip
LONG = ODD | {"inputs": 6912}


@pytest.mark.parametrize(
    ("geometry", "rounds"),
    [(ODD, 20), (TWO, 20), (TINY, 30), (SHIPPED, 3), (LONG, 10)],
    ids=["odd", "two lanes", "tiny", "shipped", "long rows"],
)
def test_equals_golden(geometry: dict[str, Any], rounds: int) -> None:
    run(VectorUnit(**geometry), "unit_tb", parameters={"geometry": geometry, "rounds": rounds})
