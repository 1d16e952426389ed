# SPDX-License-Identifier: Apache-2.0
"""pytest side of the arbiter."""

from __future__ import annotations

import re

import pytest

from nomul.hw.streamed.arbiter import Arbiter
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clients": []}, "clients is empty; it must name at least 1"),
        ({"clients": ["a"], "patience": 15}, "patience is 15; it must be at least 16 cycles"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Arbiter(word_bytes=8, **options)


def test_arbiter():
    options = {"clients": ["window", "rows", "weights"], "word_bytes": 4, "patience": 200}
    run(Arbiter(**options), "arbiter_tb", parameters={"options": options})
