# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The whole core in simulation: tokens, logits and counters, bit for bit."""

from __future__ import annotations

import re

import pytest
from core_socket import CoreSocket

from nomul.hw.core import Core
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.sim.harness import run

EVEN = {"hidden": 20, "intermediate": 28, "layers": 2, "vocab": 7}
ODD = {"hidden": 37, "intermediate": 50, "layers": 1, "vocab": 19}  # several chunks, several tiles
ONES = {"hidden": 1, "intermediate": 1, "layers": 1, "vocab": 2}

#: One core for all of them: it holds models of any size up to its own.
CORE = {
    "bytes_per_beat": 4, "tile_outputs": 16, "hidden": 37, "intermediate": 50, "layers": 2,
    "vocab": 19, "weight_beats": 1024, "norm_words": 256, "embedding_bytes": 1024,
    "program_words": 256,
}  # fmt: skip
#: The smallest there is.
LEAST = {
    "bytes_per_beat": 4, "tile_outputs": 2, "weight_beats": 16, "norm_words": 32,
    "embedding_bytes": 8, "program_words": 128, **ONES,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "models", "tests"),
    [
        ({**CORE, "engine": "select"}, [EVEN, ODD, ONES], None),
        ({**CORE, "engine": "table"}, [EVEN, ODD], "equals_golden"),
        ({**LEAST, "engine": "select"}, [ONES], None),
    ],
    ids=["select", "table", "least"],
)
def test_core(config, models, tests):
    core = CoreSocket(config=CoreConfig(**config))
    parameters = {"config": config, "models": models}
    run(core, "core_tb", name="core", parameters=parameters, tests=tests)


def test_core_after_synthesis():
    """The netlist of a small whole core gives golden's tokens and logits."""
    core = CoreSocket(config=CoreConfig(**{**LEAST, "engine": "table"}))
    parameters = {"config": {**LEAST, "engine": "table"}, "models": [ONES]}
    run(core, "core_tb", name="core", parameters=parameters, synthesis=True)


def test_one_lane():
    with pytest.raises(NomulError, match=re.escape("lanes is 2; a whole core has one lane so far")):
        Core(config=CoreConfig(lanes=2))
