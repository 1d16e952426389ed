# SPDX-License-Identifier: Apache-2.0
"""Any mix of lanes gives each user what it gets alone: in the golden model, which the core equals."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from schedule import mixed

from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import Image, Streaming, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.golden import Golden

ODD = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)


@cache
def image() -> Image:
    streaming = Streaming(lanes=4, slots=6)
    return compile_model(
        fold(random_checkpoint(ODD, 3)), bytes_per_beat=8, tile_outputs=16, streaming=streaming
    )


@given(
    order=st.integers(0, 1 << 32), lanes=st.integers(1, 4), extra=st.integers(0, 2),
    texts=st.lists(st.lists(st.integers(0, ODD.vocab - 1), min_size=1, max_size=4), min_size=1, max_size=6),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_any_mix_of_lanes_gives_each_user_what_it_gets_alone(
    order: int, lanes: int, extra: int, texts: list[list[int]]
):
    mix = mixed(texts, lanes=lanes, slots=lanes + extra, rng=random.Random(order))
    golden, alone = Golden(image(), lanes=lanes, slots=lanes + extra), Golden(image())
    found = []
    for row in mix.steps:
        for lane in row:
            if lane.active and lane.fresh:
                golden.reset(lane.slot)
        golden.step(
            [lane.token for lane in row], slots=[lane.slot for lane in row],
            active=[lane.active for lane in row],
        )  # fmt: skip
        found.append(golden.logits)
    for user, text in enumerate(texts):
        alone.reset()
        for token, (step, lane) in zip(text, mix.places[user], strict=True):
            alone.step(token)
            np.testing.assert_array_equal(found[step][lane], alone.logits[0])
