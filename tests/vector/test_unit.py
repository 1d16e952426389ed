# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The whole vector unit: refusals, simulation against the golden one, what it takes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nomul.hw.build.synth import synthesise
from nomul.hw.vector import VectorUnit
from nomul.sim.harness import run

ODD: dict[str, Any] = {
    "lanes": 1, "hidden": 45, "intermediate": 39, "state_elements": 90, "inputs": 45,
    "bytes_per_beat": 4, "vocab": 37,
}  # fmt: skip
TWO = ODD | {
    "lanes": 2, "hidden": 38, "intermediate": 50, "state_elements": 3 * 2 * 38,
    "bytes_per_beat": 8, "inputs": 6912,
}  # fmt: skip
THREE = ODD | {"lanes": 3, "state_elements": 4 * 2 * 45, "rows": 19}
EIGHT = ODD | {
    "lanes": 8, "hidden": 34, "intermediate": 25, "state_elements": 8 * 34, "inputs": 540,
    "vocab": 21, "rows": 64,
}  # fmt: skip
TINY = ODD | {"hidden": 1, "intermediate": 1, "state_elements": 1, "inputs": 1, "vocab": 1}
SHIPPED = ODD | {
    "hidden": 180, "intermediate": 540, "state_elements": 540, "inputs": 540,
    "bytes_per_beat": 36, "vocab": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("geometry", "layers", "rounds"),
    [
        (SHIPPED, 3, 4),
        (TWO, 2, 16),
        (THREE, 2, 12),
        (EIGHT, 1, 8),
        (THREE | {"sections": True}, 2, 8),
        (ODD | {"sections": True}, 1, 6),
        (TINY, 1, 20),
        (TINY | {"lanes": 2, "state_elements": 2}, 1, 20),
    ],
    ids=["shipped", "two lanes and long rows", "three lanes", "eight lanes", "sections, three lanes", "sections",
         "tiny", "tiny, two lanes"],
)
def test_equals_golden(geometry: dict[str, Any], layers: int, rounds: int) -> None:
    parameters = {"geometry": geometry, "layers": layers, "rounds": rounds}
    run(VectorUnit(**geometry), "unit_tb", parameters=parameters)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lanes": 0}, "lanes is 0; a vector unit needs at least 1"),
        ({"vocab": 65537}, "vocab is 65537; a token has 16 bits"),
        ({"state_elements": 1 << 21}, "state_elements is 2097152; a pass addresses at most 1048576"),
        ({"rows": 15}, "rows is 15; lanes that take turns need at least 16"),
        ({"bytes_per_beat": 5}, "bytes_per_beat is 5; the quantiser takes a positive multiple"),
    ],
)
def test_refuses(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VectorUnit(**ODD | fields)


def test_takes_the_planned_multipliers_and_block_rams() -> None:
    """Quantiser 12, reduction 11, scaling 2, σ 2, gates 1, recurrence 4, squares 1."""
    unit = VectorUnit(**SHIPPED)
    found = synthesise(unit, name="vectorunit", seeds=())
    assert found.multipliers == 33
    assert found.bram == 10


def test_lanes_take_no_multipliers() -> None:
    unit = VectorUnit(**THREE | {"inputs": 540})
    assert synthesise(unit, name="vectorunit", seeds=()).multipliers == 33
