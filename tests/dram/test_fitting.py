# SPDX-License-Identifier: Apache-2.0
"""Pins of a core with the real controller: every one of the memory's has its place."""

from __future__ import annotations

import re

from nomul.hw.dram.boards import ECPIX5
from nomul.hw.dram.controller import generate
from nomul.hw.dram.fitting import _around, _constraints

WIDTHS = {"a": 15, "ba": 3, "cas_n": 1, "cke": 1, "clk_p": 1, "dm": 2, "dq": 16, "dqs_p": 2, "odt": 1, "ras_n": 1,
          "we_n": 1}  # fmt: skip


def test_every_pin_has_one_place():
    text = _constraints()
    placed = re.findall(r'LOCATE COMP "([^"]+)" SITE "([^"]+)";', text)
    wanted = {"clk", "rx", "tx"}
    for name, width in WIDTHS.items():
        wanted |= {f"ddram_{name}[{k}]" for k in range(width)} if width > 1 else {f"ddram_{name}"}
    assert {port for port, _ in placed} == wanted
    assert len({site for _, site in placed}) == len(placed) == len(wanted)
    assert 'IOBUF PORT "ddram_clk_p" IO_TYPE=SSTL15D_I' in text
    assert "SLEWRATE=FAST" in text


def test_data_go_both_ways():
    controller = generate(ECPIX5, model=False)
    text = _around(controller)
    for name in ("dq", "dqs_p"):
        assert len(re.findall(rf"inout  wire +\[\d+:0\] ddram_{name},", text)) == 1
    assert text.count(f"{controller.module} dram(") == 1
