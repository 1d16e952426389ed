# SPDX-License-Identifier: Apache-2.0
"""pytest side of the AXI master: validation, simulation against cocotbext-axi."""

from __future__ import annotations

import re

import pytest
from axi_engine import AxiEngine

from nomul.hw.axi import AxiMaster, Pages
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AxiMaster(word_bytes=4, address_bits=32), "word_bytes is 4; it must be one of 8, 16"),
        (lambda: AxiMaster(word_bytes=256, address_bits=32), "word_bytes is 256; it must be one of"),
        (lambda: AxiMaster(word_bytes=8, address_bits=11), "address_bits is 11; it must be 12 to 64"),
        (lambda: AxiMaster(word_bytes=8, address_bits=65), "address_bits is 65; it must be 12 to 64"),
        (lambda: AxiMaster(word_bytes=8, address_bits=32, outstanding=0), "outstanding is 0; it must"),
        (lambda: Pages(words=16), "Pages: words is 16; it must be 32"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    "options",
    [
        {"word_bytes": 8, "address_bits": 33},
        {"word_bytes": 64, "address_bits": 40, "outstanding": 2},
        {"word_bytes": 128, "address_bits": 32, "outstanding": 5},
    ],
)
def test_axi(options):
    run(AxiMaster(**options), "axi_tb", parameters={"options": options})


def test_an_engine_streams_its_weights():
    options = {"bytes_per_beat": 8, "lanes": 1, "outputs": 300, "inputs": 120}
    run(AxiEngine(**options), "axi_engine_tb", parameters={"options": options})
