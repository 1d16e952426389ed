# SPDX-License-Identifier: Apache-2.0
"""The sizes of a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry

GOOD = {"hidden": 180, "intermediate": 540, "layers": 3, "vocab": 256}


def test_counts_of_the_shipped_geometry():
    geometry = Geometry(**GOOD)
    assert geometry.ternary_weights == 3 * (4 * 180**2 + 3 * 180 * 540) + 256 * 180 == 1_309_680
    assert geometry.state_values == 540
    assert geometry.parameters == 1_309_680 + 256 * 180 + 3 * (8 * 180 + 540) + 2 * 180 + 3 * 180


@pytest.mark.parametrize("name", list(GOOD))
@pytest.mark.parametrize("value", [0, -1, 1.0, True, "8", None])
def test_refuses_what_is_no_size(name: str, value: Any):
    with pytest.raises(NomulError, match=f"{name} is {value!r}; it must be a positive integer"):
        Geometry(**GOOD | {name: value})


def test_is_a_value():
    assert Geometry(**GOOD) == Geometry(**GOOD)
    assert hash(Geometry(**GOOD)) == hash(Geometry(**GOOD))
    with pytest.raises(dataclasses.FrozenInstanceError):
        Geometry(**GOOD).hidden = 4  # type: ignore[misc]
