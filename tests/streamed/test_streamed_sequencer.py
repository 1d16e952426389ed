# SPDX-License-Identifier: Apache-2.0
"""pytest side of the sequencer of streamed programs."""

from __future__ import annotations

import pytest
from tops import SequencerTop

from nomul.hw.streamed.sequencer import StreamedSequencer
from nomul.model import isa
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import Streaming, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.harness import run, seed

GEOMETRY = Geometry(hidden=24, intermediate=44, layers=2, vocab=30)


def test_refuses_no_lanes():
    with pytest.raises(ValueError, match="lanes is 0; it must be at least 1"):
        StreamedSequencer(lanes=0)


@pytest.mark.parametrize("lanes", [1, 2])
def test_runs_a_streamed_program(lanes):
    image = compile_model(
        fold(random_checkpoint(GEOMETRY, seed())), bytes_per_beat=8, tile_outputs=8,
        streaming=Streaming(lanes=lanes, slots=lanes),
    )  # fmt: skip
    program = isa.disassemble(image.program)
    run(
        SequencerTop(lanes=lanes), "streamed_sequencer_tb", name="streamedsequencer",
        parameters={"lanes": lanes, "program": program},
    )  # fmt: skip
