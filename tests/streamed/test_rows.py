# SPDX-License-Identifier: Apache-2.0
"""pytest side of embedding rows from memory."""

from __future__ import annotations

import pytest

from nomul.hw.streamed.rows import Rows
from nomul.sim.harness import run


@pytest.mark.parametrize(("lanes", "word_bytes"), [(1, 4), (3, 16), (2, 64)])
def test_rows(lanes, word_bytes):
    options = {"lanes": lanes, "word_bytes": word_bytes}
    run(Rows(**options), "rows_tb", parameters={"options": options})
