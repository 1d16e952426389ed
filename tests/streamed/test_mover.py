# SPDX-License-Identifier: Apache-2.0
"""pytest side of the mover of recurrent states."""

from __future__ import annotations

import pytest

from nomul.hw.streamed.mover import Mover
from nomul.sim.harness import run


@pytest.mark.parametrize(("lanes", "hidden", "word_bytes"), [(1, 64, 4), (1, 37, 16), (4, 21, 32)])
def test_mover(lanes, hidden, word_bytes):
    options = {"lanes": lanes, "hidden": hidden, "word_bytes": word_bytes}
    run(Mover(**options), "mover_tb", parameters={"options": options})
