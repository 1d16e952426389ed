# SPDX-License-Identifier: Apache-2.0
"""A streamed image is, token by token, what the image on the chip is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nomul.model import isa
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.memory_map import state_place
from nomul.model.program import Image, Streaming, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.golden import Golden

GEOMETRIES = {
    "odd": Geometry(hidden=37, intermediate=50, layers=2, vocab=19),
    "even": Geometry(hidden=64, intermediate=96, layers=3, vocab=40),
    "wide": Geometry(hidden=9, intermediate=129, layers=2, vocab=65),
    "ones": Geometry(hidden=1, intermediate=1, layers=1, vocab=2),
}


def both(geometry: Geometry, bytes_per_beat: int, tile: int, streaming: Streaming) -> tuple[Image, Image]:
    model = fold(random_checkpoint(geometry, 7))
    chip = compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=tile)
    return chip, compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=tile, streaming=streaming)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("bytes_per_beat", [8, 16, 32, 64])
def test_every_token_is_the_same(name: str, bytes_per_beat: int, rng: np.random.Generator):
    geometry = GEOMETRIES[name]
    slots = 3 if bytes_per_beat == 16 else 0
    images = both(geometry, bytes_per_beat, 16, Streaming(lanes=2, slots=slots))
    chip, streamed = (Golden(image, lanes=2, slots=3) for image in images)
    for number in range(8):
        tokens = rng.integers(0, geometry.vocab, 2)
        chosen = rng.integers(0, 3, 2)
        if number == 5:
            chip.reset(1), streamed.reset(1)
        best = chip.step(tokens, slots=chosen)
        np.testing.assert_array_equal(streamed.step(tokens, slots=chosen), best)
        np.testing.assert_array_equal(streamed.logits, chip.logits)
        for layer in range(geometry.layers):
            at, d = layer * geometry.hidden, geometry.hidden
            place = state_place(geometry, layer) if slots else at
            np.testing.assert_array_equal(
                streamed.vectors.state[:, place : place + d], chip.vectors.state[:, at : at + d]
            )
        assert streamed.logit_scale == chip.logit_scale
        assert streamed.saturated == chip.saturated


def test_nothing_is_left_of_an_earlier_token(rng: np.random.Generator):
    """Norms are loaded anew with every token: what norm memory held before does not matter."""
    _, image = both(GEOMETRIES["odd"], 8, 16, Streaming())
    clean, dirty = Golden(image), Golden(image)
    dirty.vectors.load(0, rng.integers(1, 1 << 16, image.norms.shape, dtype=np.uint16))
    for token in rng.integers(0, 19, 3):
        assert clean.step(int(token)) == dirty.step(int(token))
        np.testing.assert_array_equal(clean.logits, dirty.logits)


def test_a_stream_of_the_wrong_length_is_refused():
    _, image = both(GEOMETRIES["odd"], 8, 16, Streaming())
    with pytest.raises(NomulError, match=f"streams {len(image.weights)} weight beats, the image has"):
        Golden(replace(image, weights=image.weights[:-1]))
    cut = tuple(i for i in image.program if not isinstance(i, isa.Load))
    with pytest.raises(NomulError, match="weight beats"):
        Golden(replace(image, program=cut))
