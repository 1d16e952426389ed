# SPDX-License-Identifier: Apache-2.0
"""The float64 reference against the published implementation, and against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from nomul.model.checkpoint import read_checkpoint
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim import reference
from nomul.sim.reference import Reference

FIXTURE = Path(__file__).parents[1] / "fixtures/upstream-a"
ODD = Geometry(hidden=13, intermediate=7, layers=2, vocab=11)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_agrees_with_the_published_implementation():
    expected = safetensors.numpy.load_file(FIXTURE / "expected.safetensors")
    model = Reference(read_checkpoint(FIXTURE))
    logits, hidden = model.forward_hidden(expected["input_ids"])
    assert logits.dtype == hidden.dtype == np.float64
    assert logits.shape == expected["logits"].shape
    assert hidden.shape == expected["hidden"].shape
    assert relative(logits, expected["logits"]) < 1e-5
    for layer in range(3):
        assert relative(hidden[layer], expected["hidden"][layer]) < 1e-5


@pytest.mark.parametrize(
    "geometry", [ODD, Geometry(hidden=1, intermediate=1, layers=1, vocab=1)], ids=["odd", "ones"]
)
def test_steps_and_sequences_agree(geometry: Geometry, rng: np.random.Generator):
    model = Reference(random_checkpoint(geometry, 5))
    ids = rng.integers(0, geometry.vocab, 40)
    together = model.forward(ids)
    model.reset()
    steps = np.array([model.step(int(token)) for token in ids])
    np.testing.assert_allclose(together, steps, rtol=1e-9, atol=1e-9)
    model.reset()
    parts = np.concatenate([model.forward(ids[:7]), model.forward(ids[7:])])
    np.testing.assert_allclose(together, parts, rtol=1e-9, atol=1e-9)


def test_long_sequences_are_cut_in_time(monkeypatch, rng: np.random.Generator):
    model = Reference(random_checkpoint(ODD, 6))
    ids = rng.integers(0, 11, 50)
    logits, hidden = model.forward_hidden(ids)
    model.reset()
    monkeypatch.setattr(reference, "_TIME", 16)
    cut_logits, cut_hidden = model.forward_hidden(ids)
    np.testing.assert_allclose(cut_logits, logits, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cut_hidden, hidden, rtol=1e-9, atol=1e-9)


def test_a_second_prompt_gives_what_it_gives_alone():
    first, second = [3, 1, 4, 1, 5], [9, 2, 6]
    alone = Reference(random_checkpoint(ODD, 7)).forward(second)
    model = Reference(random_checkpoint(ODD, 7))
    model.forward(first)
    assert relative(model.forward(second), alone) > 1e-3  # the state does matter
    model.reset()
    np.testing.assert_array_equal(model.forward(second), alone)


def test_a_token_sees_the_past_alone():
    model = Reference(random_checkpoint(ODD, 8))
    one = model.forward([1, 2, 3, 4])
    model.reset()
    other = model.forward([1, 2, 7, 8])
    np.testing.assert_allclose(one[:2], other[:2], rtol=1e-9)
    assert relative(one[2:], other[2:]) > 1e-3


def test_rounds_half_away_from_zero():
    values = np.array(
        [-2.5, -1.5, -0.5, -0.49999999999999994, 0.49999999999999994, 0.5, 1.5, 126.5]
    )
    assert reference.round_half_away(values).tolist() == [-3, -2, -1, 0, 0, 1, 2, 127]


def test_sigmoid_of_large_arguments():
    x = np.array([-800.0, -30.0, 0.0, 30.0, 800.0])
    expected = [0, np.exp(-30) / (1 + np.exp(-30)), 0.5, 1 / (1 + np.exp(-30)), 1]
    np.testing.assert_allclose(reference.sigmoid(x), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("ids", "line"), [([], "prompt is empty"), ([3, 11], "token 11 at position 1")]
)
def test_wrong_tokens(ids: list[int], line: str):
    with pytest.raises(NomulError, match=line):
        Reference(random_checkpoint(ODD, 1)).forward(ids)
