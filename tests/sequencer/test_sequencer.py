# SPDX-License-Identifier: Apache-2.0
"""pytest side of the sequencer: validation, a real compiled program between stand-ins."""

from __future__ import annotations

import re

import pytest

from nomul.hw.sequencer import Sequencer
from nomul.model import isa
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.harness import run, seed

GEOMETRY = Geometry(hidden=24, intermediate=44, layers=2, vocab=30)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lanes": 0, "program_words": 512}, "lanes is 0; it must be at least 1"),
        ({"lanes": 1, "program_words": 1}, "program_words is 1; it must be at least 2"),
    ],
)
def test_refuses(parameters, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Sequencer(**parameters)


@pytest.mark.parametrize("lanes", [1, 2])
def test_runs_a_compiled_program(lanes):
    image = compile_model(
        fold(random_checkpoint(GEOMETRY, seed())), bytes_per_beat=4, tile_outputs=8
    )
    words = 512
    assert len(image.program) < words
    run(
        Sequencer(lanes=lanes, program_words=words),
        "sequencer_tb",
        parameters={"lanes": lanes, "words": words, "program": isa.disassemble(image.program)},
    )
