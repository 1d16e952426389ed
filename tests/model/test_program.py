# SPDX-License-Identifier: Apache-2.0
"""The compiler: what it refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nomul.model.checkpoint import random_checkpoint
from nomul.model.errors import NomulError
from nomul.model.fold import Layer, Model, fold
from nomul.model.geometry import Geometry
from nomul.model.program import compile_model

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
