# SPDX-License-Identifier: Apache-2.0
"""pytest side of the reader: validation, simulation, block RAM."""

from __future__ import annotations

import re

import pytest

from nomul.hw.build.synth import synthesise
from nomul.hw.streamed.reader import Reader
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"word_bytes": 24}, "word_bytes is 24; it must be a power of two"),
        ({"word_bytes": 8, "burst": 128}, "burst is 128; it must be a power of two, 4 to 64"),
        ({"word_bytes": 8, "burst": 2}, "burst is 2; it must be a power of two, 4 to 64"),
        ({"word_bytes": 8, "depth": 64}, "depth is 64; it must be a power of two, at least 128"),
        ({"word_bytes": 8, "depth": 48, "burst": 8}, "depth is 48; it must be a power of two"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Reader(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"word_bytes": 8, "depth": 256, "burst": 64},
        {"word_bytes": 2, "depth": 128, "burst": 4},
        {"word_bytes": 1, "depth": 8, "burst": 4},
    ],
)
def test_reader(options):
    run(Reader(**options), "reader_tb", parameters={"options": options})


def test_queue_is_block_ram():
    area = synthesise(Reader(word_bytes=8, depth=512, burst=64), name="reader", seeds=())
    assert (area.bram, area.multipliers) == (2, 0)
