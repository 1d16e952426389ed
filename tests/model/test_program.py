# SPDX-License-Identifier: Apache-2.0
"""The compiler: the order of the weight stream, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nomul.model.errors import NomulError
from nomul.model.fold import Layer, Matrix, Model, fold
from nomul.model.geometry import Geometry
from nomul.model.isa import Tile
from nomul.model.program import beats, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.ternary import pack, unpack


@given(
    outputs=st.integers(1, 30), inputs=st.integers(1, 70), beat=st.integers(1, 6),
    tile=st.integers(1, 40), seed=st.integers(0, 1 << 32),
)  # fmt: skip
def test_order_of_beats(outputs: int, inputs: int, beat: int, tile: int, seed: int):
    trits = np.random.default_rng(seed).integers(-1, 2, (outputs, inputs), dtype=np.int8)
    made = beats(Matrix(code=pack(trits), inputs=inputs, scale=1.0), beat, tile)
    chunk = 5 * beat
    wide = np.pad(trits, ((0, 0), (0, -inputs % chunk)))
    expected = [
        wide[row, at : at + chunk]
        for first in range(0, outputs, tile)
        for at in range(0, wide.shape[1], chunk)
        for row in range(first, min(first + tile, outputs))
    ]
    np.testing.assert_array_equal(unpack(made, chunk), expected)


LONG = Geometry(hidden=4, intermediate=6912, layers=1, vocab=4)  # the longest published row


def test_rows_of_more_chunks_than_an_instruction_can_say():
    with pytest.raises(NomulError, match=r"^tile: chunks is 346; the field holds 0 to 255$"):
        compile_model(fold(random_checkpoint(LONG, 1)), bytes_per_beat=4, tile_outputs=4)


def test_the_longest_published_row_in_narrow_beats():
    image = compile_model(fold(random_checkpoint(LONG, 1)), bytes_per_beat=6, tile_outputs=4)
    assert max(i.chunks for i in image.program if isinstance(i, Tile)) == 231
    assert len(image.weights) == sum(
        i.outputs * i.chunks for i in image.program if isinstance(i, Tile)
    )


def test_published_outputs_and_addresses_can_be_said():
    """The largest fields of the 2.7B shape, in a model that is small elsewhere."""
    geometry = Geometry(hidden=2, intermediate=6912, layers=32, vocab=32000)
    image = compile_model(fold(random_checkpoint(geometry, 1)), bytes_per_beat=36, tile_outputs=256)
    assert max(getattr(i, "outputs", 0) for i in image.program) == 32000


GEOMETRY = Geometry(hidden=20, intermediate=36, layers=2, vocab=11)


def scaled(model: Model, name: str, factor: float) -> Model:
    """With the weights of a matrix of the second layer so many times larger."""
    first, second = model.layers
    matrix = getattr(second, name)
    louder: Layer = replace(second, **{name: replace(matrix, scale=matrix.scale * factor)})
    return replace(model, layers=(first, louder))


@pytest.mark.parametrize(("name", "called"), [("o_proj", "attn.o_proj"), ("down_proj", "mlp.down_proj")])
def test_refuses_weights_that_the_residual_stream_cannot_take(name: str, called: str):
    model = fold(random_checkpoint(GEOMETRY, 3))
    compile_model(scaled(model, name, 10), bytes_per_beat=4, tile_outputs=16)
    with pytest.raises(NomulError, match=rf"layers\.1\.{called}: a unit .* less than 4; mean"):
        compile_model(scaled(model, name, 1e5), bytes_per_beat=4, tile_outputs=16)
