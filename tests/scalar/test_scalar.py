# SPDX-License-Identifier: Apache-2.0
"""pytest side of the scalar unit: validation, simulation, area."""

from __future__ import annotations

import re

import pytest

from nomul.hw.build.synth import synthesise
from nomul.hw.scalar import ScalarUnit
from nomul.sim.harness import run


def test_refuses_no_lanes():
    with pytest.raises(ValueError, match=re.escape("lanes is 0; it must be at least 1")):
        ScalarUnit(lanes=0)


@pytest.mark.parametrize("lanes", [1, 2, 3, 8])
def test_equals_the_model(lanes):
    run(ScalarUnit(lanes=lanes), "scalar_tb", parameters={"lanes": lanes})


@pytest.mark.parametrize("lanes", [1, 3])
def test_takes_one_table_and_two_multipliers(lanes):
    area = synthesise(ScalarUnit(lanes=lanes), name="scalarunit", seeds=())
    assert (area.bram, area.multipliers) == (1, 2)
