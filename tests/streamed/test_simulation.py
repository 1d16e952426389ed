# SPDX-License-Identifier: Apache-2.0
"""Whole streamed cores in Verilator: every value equals golden's, and every user gets what it gets alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from schedule import mixed

from nomul.hw.dram.boards import ECPIX5
from nomul.model.counters import EXPOSED
from nomul.model.errors import NomulError
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.golden import Golden
from nomul.sim.harness import seed
from nomul.sim.streamed import Lane, StreamedSimulation
from nomul.sim.streamed.trace import first_difference

LARGEST = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
ODD = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)
SMALL = {"tile_outputs": 32, "memory_bytes": 1 << 20}
CYCLES = 200_000


def model(geometry: Geometry) -> Model:
    return fold(random_checkpoint(geometry, seed()))


def core(**options: object) -> StreamedConfig:
    return StreamedConfig.for_geometry(LARGEST, **{**SMALL, **options})


@pytest.mark.parametrize(
    ("config", "board"),
    [
        (core(bytes_per_beat=16, word_bytes=32), None),
        (core(lanes=3, slots=4, state="memory", word_bytes=4), None),
        (core(lanes=2, slots=5, state="memory", memory_bytes=ECPIX5.part.capacity), ECPIX5),
    ],
    ids=["one lane", "three lanes, narrow memory", "two lanes behind a controller"],
)
def test_any_mix_of_users(tmp_path: Path, config: StreamedConfig, board):
    simulation = StreamedSimulation(config, board=board)
    rng = random.Random(f"{seed()} {config.lanes}")
    for geometry in (LARGEST, ODD):
        image = config.compile(model(geometry))
        texts = [
            [rng.randrange(geometry.vocab) for _ in range(rng.randint(1, 5))]
            for _ in range(config.slots + 2)
        ]
        mix = mixed(texts, lanes=config.lanes, slots=config.slots, rng=rng)
        trace = tmp_path / "trace"
        results = simulation.run(image, mix.steps, trace=trace, limit_s=200, cycles_max=CYCLES)

        # Everything that is stored, in every lane.
        golden = Golden(image, lanes=config.lanes, slots=config.slots)
        assert first_difference(image, trace, mix.steps, golden) is None

        # Each user alone.
        alone = Golden(image)
        for user, text in enumerate(texts):
            alone.reset()
            for token, (step, lane) in zip(text, mix.places[user], strict=True):
                assert alone.step(token)[0] == results[step].best[lane]
                if mix.steps[step][lane].logits:
                    np.testing.assert_array_equal(results[step].logits[lane], alone.logits[0])
        for result in results:
            c = result.counters
            assert c["token_cycles"] == c["beats"] + sum(c[e.name.lower()] for e in EXPOSED)
            assert c["beats"] == sum(
                i.outputs * i.chunks for i in image.program if type(i).__name__ == "Tile"
            )
            assert c["error"] == 0


def test_a_difference_is_found_where_it_is(tmp_path: Path):
    """Golden gets one weight of the second layer's down projection that the core does not have."""
    config = core(bytes_per_beat=16, word_bytes=32)
    whole = model(LARGEST)
    steps = [[Lane(token=3, fresh=True)], [Lane(token=5)]]
    trace = tmp_path / "trace"
    image = config.compile(whole)
    StreamedSimulation(config).run(image, steps, trace=trace, limit_s=100, cycles_max=CYCLES)
    first, second = whole.layers
    code = second.down_proj.code.copy()
    code[7] = code[8]
    wrong = replace(second, down_proj=replace(second.down_proj, code=code))
    other = config.compile(replace(whole, layers=(first, wrong)))
    found = first_difference(other, trace, steps, Golden(other))
    assert found is not None
    assert (found.step, found.layer, found.unit, found.name) == (0, 1, "engine", "sums")
    assert (found.lane, found.element) == (0, 7)
    assert f"step 0, layer 1, engine, sums[lane 0, element 7]: golden {found.golden}, core " in str(found)
    # A core that stopped early stored nothing more.
    trace.write_bytes(trace.read_bytes()[: 8 * 40])
    found = first_difference(image, trace, steps, Golden(image))
    assert found is not None
    assert found.core is None


def test_what_a_run_refuses():
    config = core(bytes_per_beat=16, word_bytes=32)
    simulation = StreamedSimulation(config)
    image = config.compile(model(LARGEST))
    with pytest.raises(NomulError, match=r"^steps: one has 2 lanes, the core 1$"):
        simulation.run(image, [[Lane(), Lane()]])
    with pytest.raises(NomulError, match=r"no result within the cycles allowed$"):
        simulation.run(image, [[Lane(fresh=True)]], cycles_max=100)
    with pytest.raises(NomulError, match=r"ecpix5-85f has 536,870,912 in words of 16$"):
        StreamedSimulation(config, board=ECPIX5)
