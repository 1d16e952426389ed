# SPDX-License-Identifier: Apache-2.0
"""Tiles that stay packed give the integers that unpacked ones do."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import Image, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.ternary import ENCODE, TRITS_PER_BYTE
from nomul.sim import golden, golden_tiles
from nomul.sim.golden import Golden
from nomul.sim.golden_engine import engine
from nomul.sim.golden_tiles import DenseTile, PackedTile

small = st.integers(1, 7)


@given(
    chunks=small, outputs=st.integers(1, 40), beat=small, lanes=st.integers(1, 5),
    piece=st.integers(1, 60), seed=st.integers(0, 1 << 32), extreme=st.booleans(),
)  # fmt: skip
def test_both_ways_are_what_an_engine_computes(
    chunks: int, outputs: int, beat: int, lanes: int, piece: int, seed: int, extreme: bool
):
    rng = np.random.default_rng(seed)
    code = ENCODE[rng.integers(0, 243, (chunks, outputs, beat))]
    limits = np.array([-127, 127]) if extreme else np.arange(-127, 128)
    acts = rng.choice(limits, (chunks, lanes, beat * TRITS_PER_BYTE))
    expected = engine(code, acts).T
    flat = acts.transpose(1, 0, 2).reshape(lanes, -1).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(golden_tiles, "_PIECE", piece)
        for kind in (DenseTile, PackedTile):
            tile = kind(code.reshape(-1, beat), outputs, chunks)
            found = tile.sums(kind.operand(flat, beat))
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, expected)


def test_the_largest_sum_of_the_longest_published_row_is_exact():
    chunks, beat = 39, 36  # 6,912 inputs
    code = np.full((chunks, 3, beat), ENCODE[121])  # all trits 1
    acts = np.full((1, chunks * beat * TRITS_PER_BYTE), 127, np.float32)
    tile = PackedTile(code.reshape(-1, beat), 3, chunks)
    assert tile.sums(tile.operand(acts, beat)).tolist() == [[127 * 39 * 180] * 3]


def compiled(geometry: Geometry, bytes_per_beat: int, tile_outputs: int) -> Image:
    model = fold(random_checkpoint(geometry, 3))
    return compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=tile_outputs)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(("bytes_per_beat", "tile_outputs"), [(4, 16), (7, 2), (36, 256)])
@pytest.mark.parametrize("traced", [False, True])
def test_whole_tokens_are_the_same(
    lanes: int, bytes_per_beat: int, tile_outputs: int, traced: bool,
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    geometry = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)
    image = compiled(geometry, bytes_per_beat, tile_outputs)
    dense = Golden(image, lanes=lanes)
    monkeypatch.setattr(golden, "DENSE_MAX", 0)
    packed = Golden(image, lanes=lanes)
    assert {type(tile) for tile in packed._tiles.values()} == {PackedTile}
    seen: list[list[tuple[int, str, list]]] = [[], []]
    if traced:
        for core, rows in zip((dense, packed), seen, strict=True):
            core.trace = lambda index, name, values, rows=rows: rows.append(
                (index, name, values.tolist())
            )
    for tokens in rng.integers(0, geometry.vocab, (5, lanes)):
        assert dense.step(tokens).tolist() == packed.step(tokens).tolist()
        np.testing.assert_array_equal(dense.logits, packed.logits)
        np.testing.assert_array_equal(dense.vectors.state, packed.vectors.state)
        assert dense.logit_scale == packed.logit_scale
    assert seen[0] == seen[1]
    assert bool(seen[0]) is traced


def test_packed_tiles_hold_no_weights_of_their_own(monkeypatch: pytest.MonkeyPatch):
    image = compiled(Geometry(hidden=37, intermediate=50, layers=1, vocab=19), 4, 16)
    monkeypatch.setattr(golden, "DENSE_MAX", 0)
    for tile in Golden(image)._tiles.values():
        assert np.shares_memory(tile._beats, image.weights)
