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
    "lanes": 1, "hidden": 45, "intermediate": 39, "layers": 2, "inputs": 45, "bytes_per_beat": 4,
    "vocab": 37,
}  # fmt: skip
TWO = ODD | {"lanes": 2, "hidden": 38, "intermediate": 50, "bytes_per_beat": 8, "inputs": 6912}
TINY = ODD | {"hidden": 1, "intermediate": 1, "layers": 1, "inputs": 1, "vocab": 1}
SHIPPED = ODD | {
    "hidden": 180, "intermediate": 540, "layers": 3, "inputs": 540, "bytes_per_beat": 36,
    "vocab": 256,
}  # fmt: skip


@pytest.mark.parametrize(
    ("geometry", "rounds"),
    [(SHIPPED, 4), (TWO, 16), (TINY, 20)],
    ids=["shipped", "two lanes and long rows", "tiny"],
)
def test_equals_golden(geometry: dict[str, Any], rounds: int) -> None:
    run(VectorUnit(**geometry), "unit_tb", parameters={"geometry": geometry, "rounds": rounds})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lanes": 0}, "lanes is 0; a vector unit needs at least 1"),
        ({"vocab": 65537}, "vocab is 65537; a token has 16 bits"),
        ({"layers": 1 << 20}, "layers · hidden is 47185920; a pass addresses at most 1048576"),
        ({"bytes_per_beat": 5}, "bytes_per_beat is 5; the quantiser takes a positive multiple"),
    ],
)
def test_refuses(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VectorUnit(**ODD | fields)


def test_takes_the_planned_multipliers_and_block_rams() -> None:
    """One lane: quantiser 12, reduction 11, scaling 2, σ 2, gates 1, recurrence 4, squares 1."""
    unit = VectorUnit(**SHIPPED)
    found = synthesise(unit, name="vectorunit", seeds=())
    assert found.multipliers == 33
    assert found.bram == 10
