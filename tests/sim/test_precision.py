# SPDX-License-Identifier: Apache-2.0
"""The study of number formats: nothing rounded is the reference, and bits are worth something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.model.checkpoint import read_checkpoint
from nomul.sim.precision import NOW, Formats, Rounded, deviation
from nomul.sim.reference import Reference

FIXTURE = Path(__file__).parents[1] / "fixtures/upstream-a"
IDS = np.arange(48) * 5 % 256


@pytest.fixture(scope="module")
def wanted() -> np.ndarray:
    return Reference(read_checkpoint(FIXTURE)).forward(IDS)


def off(wanted: np.ndarray, formats: Formats, seed: int = 0) -> float:
    found = Rounded(read_checkpoint(FIXTURE), formats, seed=seed).forward(IDS)
    return deviation(found, wanted)


def test_without_formats_it_is_the_reference(wanted: np.ndarray):
    assert off(wanted, Formats()) < 1e-12


def test_the_contract_is_not_exact_and_more_bits_are_better(wanted: np.ndarray):
    assert 0.005 < off(wanted, NOW) < 0.06
    everything = Formats(
        embedding=30, norm=30, quantiser=30, scalar=30, t=30, sigma=30, state=30, residual=30
    )
    assert off(wanted, everything) < 0.005


@pytest.mark.parametrize(
    "name", ["embedding", "norm", "quantiser", "scalar", "t", "sigma", "state", "residual"]
)
def test_every_format_counts(wanted: np.ndarray, name: str):
    assert off(wanted, replace(Formats(), **{name: 6})) > 1e-3


def test_the_seed_draws_the_truncations(wanted: np.ndarray):
    coarse = replace(Formats(), scalar=8)
    assert off(wanted, coarse) == off(wanted, coarse)
    assert off(wanted, coarse) != off(wanted, coarse, seed=1)
