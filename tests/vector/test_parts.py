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
from nomul.hw.vector.turns import Turns
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("unit", "fields"),
    [
        (Sigma, {"width": 18}),
        (Activation, {"width": 43}),
        (Scaler, {"width": 8}),
        (Scaler, {"width": 21}),
        (ArgMax, {"lanes": 2, "width": 9}),
        (ArgMax, {"lanes": 1, "width": 9}),
        (Recurrence, {"lanes": 1, "hidden": 21, "layers": 3, "state_elements": 63}),
        (Recurrence, {"lanes": 3, "hidden": 21, "layers": 2, "state_elements": 126}),
    ],
    ids=lambda v: v.__name__ if isinstance(v, type) else " ".join(map(str, v.values())),
)
def test_equals_golden(unit: Any, fields: dict[str, int]) -> None:
    sizes = {name: value for name, value in fields.items() if name != "layers"}
    run(unit(**sizes), "parts_tb", parameters={"unit": unit.__name__, **fields},
        name=f"{unit.__name__.lower()}_unit")


@pytest.mark.parametrize(
    ("unit", "fields", "message"),
    [
        (Sigma, {"width": 17}, "at least 18 bits, not 17"),
        (Activation, {"width": 17}, "at least 18 bits, not 17"),
        (Scaler, {"width": 36}, "2 to 35 bits, not 36"),
        (ArgMax, {"lanes": 0, "width": 4}, "at least 1 lane of 1 bit, not 0 of 4"),
        (
            Recurrence,
            {"lanes": 1, "hidden": 0, "state_elements": 1},
            "at least 1 of hidden, not 0",
        ),
        (
            Recurrence,
            {"lanes": 1, "hidden": 1, "state_elements": 1 << 21},
            "state_elements is 2097152; a pass addresses at most 1048576",
        ),
        (Turns, {"lanes": 1, "bits": 18, "rows": 16}, "at least 2 lanes, not 1"),
        (Turns, {"lanes": 2, "bits": 18, "rows": 15}, "at least 16 rows, not 15"),
        (VectorMemory, {"rows": 0}, "at least 1 row, not 0"),
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
