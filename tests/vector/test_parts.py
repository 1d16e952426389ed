# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The vector unit's parts: refusals, and simulation of each."""

from __future__ import annotations

import re
from typing import Any

import pytest

from nomul.hw.vector.argmax import ArgMax
from nomul.hw.vector.memory import VectorMemory
from nomul.hw.vector.quantiser import Quantiser
from nomul.hw.vector.recurrence import Recurrence
from nomul.hw.vector.reduction import Reduction
from nomul.hw.vector.scaler import Scaler
from nomul.hw.vector.sigma import Activation, Sigma
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("unit", "fields"),
    [
        (Sigma, {"width": 18}),
        (Activation, {"width": 43}),
        (Scaler, {"width": 8}),
        (Scaler, {"width": 21}),
        (ArgMax, {"lanes": 2, "width": 9}),
        (Recurrence, {"lanes": 2, "hidden": 21, "layers": 3}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else " ".join(map(str, v.values())),
)
def test_equals_golden(unit: Any, fields: dict[str, int]) -> None:
    run(unit(**fields), "parts_tb", parameters={"unit": unit.__name__, **fields},
        name=f"{unit.__name__.lower()}_unit")


@pytest.mark.parametrize(
    ("unit", "fields", "message"),
    [
        (Sigma, {"width": 17}, "at least 18 bits, not 17"),
        (Activation, {"width": 17}, "at least 18 bits, not 17"),
        (Scaler, {"width": 36}, "2 to 35 bits, not 36"),
        (ArgMax, {"lanes": 0, "width": 4}, "at least 1 lane of 1 bit, not 0 of 4"),
        (Recurrence, {"lanes": 1, "hidden": 0, "layers": 1}, "at least 1 of hidden, not 0"),
        (VectorMemory, {"lanes": 1, "rows": 0}, "1 lane and 1 row, not 1 and 0"),
        (Reduction, {"lanes": 0}, "at least 1 lane, not 0"),
        (
            Quantiser,
            {"lanes": 1, "bytes_per_beat": 6, "rows": 1, "row_bits": 1},
            "bytes_per_beat is 6; the quantiser takes a positive multiple of 4",
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_refuses(unit: Any, fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        unit(**fields)
