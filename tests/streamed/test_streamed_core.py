# SPDX-License-Identifier: Apache-2.0
"""pytest side of a whole streamed core."""

from __future__ import annotations

import dataclasses

import pytest
from tops import CoreTop

from nomul.model.geometry import Geometry
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.harness import run, seed

GEOMETRY = Geometry(hidden=37, intermediate=50, layers=2, vocab=30)
PATIENCE = 3000
WRITES = "a_write_that|writes_that|a_token_that_waits"  # names of tests about acknowledgements, a run of their own


@pytest.mark.parametrize("tests", [rf"tb\.(?!{WRITES})", rf"tb\.({WRITES})"], ids=["all but", "late writes"])
@pytest.mark.parametrize(
    "options", [{"lanes": 2, "state": "memory", "word_bytes": 16}], ids=["two lanes, states in memory"]
)
def test_core(options, tests):
    config = StreamedConfig.for_geometry(GEOMETRY, memory_bytes=1 << 20, **options)
    run(
        CoreTop(config=config, patience=PATIENCE), "streamed_core_tb", name="streamedcore",
        parameters={
            "config": dataclasses.asdict(config), "geometry": dataclasses.asdict(GEOMETRY),
            "seed": seed(), "patience": PATIENCE,
        },
        tests=tests, limit_s=550,
    )  # fmt: skip
