# SPDX-License-Identifier: Apache-2.0
"""The golden model: its properties, and what it loses against the float64 reference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from nomul.model import isa
from nomul.model.checkpoint import read_checkpoint
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.isa import Mode
from nomul.model.numbers import ACT_MAX, SOURCE_BITS, X_FRAC
from nomul.model.program import Image, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.scalar import Scalar, from_int, recip
from nomul.model.tokenizer import BEGIN
from nomul.sim.evaluate import FloatEngine, GoldenEngine, agreement, evaluate
from nomul.sim.golden import Golden, quantise
from nomul.sim.golden_vector import Vectors
from nomul.sim.reference import Reference

TESTS = Path(__file__).parents[1]
UPSTREAM = TESTS / "fixtures/upstream-a"
SHIPPED = TESTS.parent / "models/stdlib-1m3"
ODD = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)
ONES = Geometry(hidden=1, intermediate=1, layers=1, vocab=2)


@cache
def image(geometry: Geometry, bytes_per_beat: int = 4, tile_outputs: int = 16) -> Image:
    model = fold(random_checkpoint(geometry, 3))
    return compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=tile_outputs)


def trail(golden: Golden, tokens: np.ndarray) -> list[object]:
    """Everything that tokens ``[T, L]`` leave visible, after each of them."""
    rows: list[object] = []
    for step in tokens:
        best = golden.step(step)
        rows.append((best.tolist(), golden.logits.tolist(), golden.logit_scale))
    return rows


@pytest.mark.parametrize("geometry", [ODD, ONES], ids=["odd", "ones"])
def test_lanes_are_runs_of_their_own(geometry: Geometry, rng: np.random.Generator):
    tokens = rng.integers(0, geometry.vocab, (12, 3))
    together = Golden(image(geometry), lanes=3)
    alone = [Golden(image(geometry)) for _ in range(3)]
    for number, step in enumerate(tokens):
        if number == 7:  # one lane begins anew, the others go on
            together.reset(1)
            alone[1].reset()
        best = together.step(step)
        for lane, golden in enumerate(alone):
            assert golden.step(step[lane]) == best[lane]
            np.testing.assert_array_equal(golden.logits[0], together.logits[lane])
            np.testing.assert_array_equal(golden.vectors.state[0], together.vectors.state[lane])
            assert golden.logit_scale[0] == together.logit_scale[lane]


@pytest.mark.parametrize(("bytes_per_beat", "tile_outputs"), [(4, 2), (4, 4096), (8, 6), (36, 256)])
def test_the_engine_s_shape_changes_nothing(
    bytes_per_beat: int, tile_outputs: int, rng: np.random.Generator
):
    tokens = rng.integers(0, ODD.vocab, (6, 1))
    other = Golden(image(ODD, bytes_per_beat, tile_outputs))
    assert trail(other, tokens) == trail(Golden(image(ODD)), tokens)


def test_a_second_prompt_gives_what_it_gives_alone(rng: np.random.Generator):
    first, second = rng.integers(0, ODD.vocab, (2, 8, 1))
    golden = Golden(image(ODD))
    trail(golden, first)
    carried = Golden(image(ODD))
    trail(carried, first)
    golden.reset()
    alone = trail(Golden(image(ODD)), second)
    assert trail(golden, second) == alone
    assert trail(carried, second) != alone  # the state does matter


class _Scaled:
    """A checkpoint some of whose tensors are multiplied."""

    def __init__(self, geometry: Geometry, factors: Mapping[str, float]):
        self._inner = random_checkpoint(geometry, 3)
        self.geometry, self.eps, self._factors = self._inner.geometry, self._inner.eps, factors

    def tensor(self, name: str) -> np.ndarray:
        values = self._inner.tensor(name)
        for end, factor in self._factors.items():
            if name.endswith(end):
                values = values * np.float32(factor)
        return values


def test_saturated_arguments_of_sigma_are_counted():
    plain = Golden(image(ODD))
    trail(plain, np.arange(6)[:, None])
    assert plain.saturated == {"residual": 0, "t": 0}
    model = fold(_Scaled(ODD, {"attn.i_proj.weight": 1e4}))
    golden = Golden(compile_model(model, bytes_per_beat=4, tile_outputs=16))
    before = 0
    for token in range(6):
        golden.step(token)
        assert golden.saturated["t"] > before
        before = golden.saturated["t"]
    assert golden.saturated["residual"] == 0


def test_saturated_residuals_are_counted():
    vectors = Vectors(np.zeros((8, 4), np.uint16), hidden=3, intermediate=1, state_values=3)
    step = isa.Pass(mode=Mode.RESIDUAL, rs=0, outputs=3, address=0, shift=0, vectors=0, square=0, send=0)
    one = Scalar(1 << 17, -17)  # sums are in units of 1
    sums = np.array([[20_000, -20_000, 5]])
    vectors.run(step, sums, [one])
    assert vectors.saturated["residual"] == 0
    for count in (2, 4):
        vectors.run(step, sums, [one])
        assert vectors.saturated["residual"] == count
    edge = 1 << SOURCE_BITS - 1
    assert vectors.x.tolist() == [[edge - 1, -edge, 15 << X_FRAC]]


@pytest.mark.parametrize("token", [-1, 19, 1 << 40])
def test_tokens_outside_the_vocabulary(token: int):
    golden = Golden(image(ODD), lanes=2)
    message = re.escape(f"token {token} lies outside the vocabulary of 19")
    with pytest.raises(NomulError, match=f"^{message}$"):
        golden.step([3, token])


def test_weights_must_be_what_the_program_streams():
    whole = image(ODD)
    beats = len(whole.weights)
    with pytest.raises(NomulError, match=f"streams {beats} weight beats, .* has {beats - 1}$"):
        Golden(replace(whole, weights=whole.weights[:-1]))


@given(
    st.lists(st.integers(-(1 << 46), 1 << 46), min_size=1, max_size=40),
    st.integers(1 << 17, 1 << 47),
)
def test_quantising_is_rounding_to_within_one(values: list[int], largest: int):
    largest = max(largest, *map(abs, values))
    v = np.array([*values, largest, -largest, 0])
    found = quantise(v, recip(from_int(largest)))
    for value, q in zip(v.tolist(), found.tolist(), strict=True):
        exact = (2 * ACT_MAX * abs(value) + largest) // (2 * largest)  # half away from zero
        assert abs(abs(q) - exact) <= 1
        assert q == 0 or (q < 0) == (value < 0)
    assert found[-3:].tolist() == [ACT_MAX, -ACT_MAX, 0]


def test_logits_of_the_upstream_fixture():
    """Integers against the published implementation, on a random network: within 4 %.

    Not within 2 %, because the network itself is not stable to that: changing what the quantisers
    read by 1e-6, relatively, in the float64 reference alone moves its logits by 1 %, by 1e-5 by
    2 %, since random matrices turn one flipped rounding into many in the next layer. Of the integer
    model's deviation most is that: with its int8 embeddings the figure is 3.3 %, with exact ones
    2.6 %. A trained model does not amplify so: see the held-out text below.
    """
    expected = safetensors.numpy.load_file(UPSTREAM / "expected.safetensors")
    model = fold(read_checkpoint(UPSTREAM))
    golden = Golden(compile_model(model, bytes_per_beat=4, tile_outputs=256))
    found = []
    for token in expected["input_ids"]:
        golden.step(int(token))
        found.append(golden.logits[0] * golden.logit_scale[0])
    assert golden.saturated == {"residual": 0, "t": 0}
    deviation = np.abs(np.array(found) - expected["logits"]).max()
    assert deviation / np.abs(expected["logits"]).max() <= 0.04


def test_the_shipped_model_on_held_out_text():
    """8 KiB that it was not trained on; the figures for all of it are in the model's card."""
    text = np.frombuffer((TESTS / "fixtures/held-out.txt").read_bytes(), dtype=np.uint8)
    targets = text.astype(np.int64).reshape(16, 512)  # many short segments: as many lanes at a time
    contexts = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN)
    parts = [(contexts, targets)]
    checkpoint = read_checkpoint(SHIPPED)
    image = compile_model(fold(checkpoint), bytes_per_beat=36, tile_outputs=256)
    real = evaluate(FloatEngine(Reference(checkpoint)), parts)
    whole = evaluate(GoldenEngine(image), parts)
    assert real.tokens == whole.tokens == 8192
    assert abs(whole.bits_per_token / real.bits_per_token - 1) < 0.005
    assert agreement(real, whole) >= 0.985
    assert real.bits_per_token < 2  # it is the model that was trained, on text that it can read
