# SPDX-License-Identifier: Apache-2.0
"""pytest side of the host's window into memory."""

from __future__ import annotations

import pytest

from nomul.hw.streamed.window import Window
from nomul.sim.harness import run


@pytest.mark.parametrize(("word_bytes", "memory_bytes"), [(4, 100), (16, 256)])
def test_window(word_bytes, memory_bytes):
    options = {"word_bytes": word_bytes, "memory_bytes": memory_bytes}
    run(Window(**options), "window_tb", parameters={"options": options})
