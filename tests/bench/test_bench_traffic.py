# SPDX-License-Identifier: Apache-2.0
"""Bytes that a streamed core reads, computed from its image, against the words that its simulation counts."""

from __future__ import annotations

import pytest

from nomul.host.bench.traffic import step_traffic
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.harness import seed
from nomul.sim.streamed import Lane, StreamedSimulation

LARGEST = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
ODD = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)
SMALL = {"tile_outputs": 32, "memory_bytes": 1 << 20}


def core(**options: object) -> StreamedConfig:
    return StreamedConfig.for_geometry(LARGEST, **{**SMALL, **options})


@pytest.mark.parametrize(
    "config",
    [
        core(bytes_per_beat=16, word_bytes=32),
        core(lanes=3, slots=4, state="memory", word_bytes=4),
    ],
    ids=["one lane", "three lanes, states in memory"],
)
def test_what_is_read(config: StreamedConfig):
    """All that is read is known, but for what is fetched behind the program's end: never more than is told."""
    simulation = StreamedSimulation(config)
    lanes = config.lanes
    mixes = [
        [Lane(token=1, slot=0, fresh=True, active=k == 0) for k in range(lanes)],
        [Lane(token=2 + k, slot=k, fresh=k > 0) for k in range(lanes)],
        [Lane(token=5 + k, slot=0) for k in range(lanes)],
        [Lane(token=3, slot=0, active=k == 0, logits=k == 0) for k in range(lanes)],
    ]
    for geometry in (LARGEST, ODD):
        image = config.compile(fold(random_checkpoint(geometry, seed())))
        ahead = []
        for step, result in zip(mixes, simulation.run(image, mixes, limit_s=300), strict=True):
            texts = {lane.slot for lane in step if lane.active}  # a fresh one's state is read too
            told = step_traffic(image, config, texts=len(texts), logits=sum(lane.logits for lane in step))
            extra = result.words * config.word_bytes - told.read
            assert 0 <= extra <= told.ahead_most, (step, told)
            ahead.append(extra)
        # The program is fetched ahead by as much in every step that begins with nothing under way.
        assert len({extra // config.word_bytes // 16 for extra in ahead[1:]}) <= 2


def test_what_is_written():
    config = core(lanes=3, slots=4, state="memory", word_bytes=4)
    image = config.compile(fold(random_checkpoint(LARGEST, seed())))
    one = step_traffic(image, config, texts=1, logits=1)
    three = step_traffic(image, config, texts=3, logits=0)
    assert one.writes == {"state": 2 * 64 * 4, "logits": 64 * 4}
    assert three.writes == {"state": 3 * 2 * 64 * 4, "logits": 0}
    assert three.reads["state"] == 3 * one.reads["state"]
    assert {k: v for k, v in one.reads.items() if k != "state"} == {
        k: v for k, v in three.reads.items() if k != "state"
    }
    on_chip = core(bytes_per_beat=16, word_bytes=32)
    image = on_chip.compile(fold(random_checkpoint(LARGEST, seed())))
    assert "state" not in step_traffic(image, on_chip, texts=1, logits=1).reads
    # Weights: five trits a byte at best, and rows that are not full chunks.
    assert step_traffic(image, on_chip, texts=1, logits=1).reads["weights"] >= LARGEST.ternary_weights / 5


def test_sums():
    config = core(lanes=3, slots=4, state="memory", word_bytes=4)
    image = config.compile(fold(random_checkpoint(ODD, seed())))
    found = step_traffic(image, config, texts=2, logits=1)
    assert found.read == sum(found.reads.values())
    assert found.total == found.read + sum(found.writes.values())
    assert all(size % config.word_bytes == 0 for size in (*found.reads.values(), *found.writes.values()))
