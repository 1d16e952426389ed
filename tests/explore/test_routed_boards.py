# SPDX-License-Identifier: Apache-2.0
"""The cost model against whole boards as they were routed: the released bitstreams."""

from __future__ import annotations

import statistics

from nomul.host.cli.flashing import core_of
from nomul.host.cli.released import released
from nomul.host.explore.cost import area_on_board
from nomul.hw.boards.registry import find_board
from nomul.model.manifest import read_manifest

KINDS = {"comb": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "multipliers": "MULT18X18D"}


def test_area_of_released_bitstreams():
    off: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for path in released():
        manifest = read_manifest(path)
        core = core_of(manifest)
        if core is None:
            continue
        said = area_on_board(core, find_board(manifest.board))
        for kind, cell in KINDS.items():
            off[kind].append(abs(said[kind] / manifest.area[cell]["used"] - 1))
    assert len(off["comb"]) >= 5
    assert max(off["bram"]) == max(off["multipliers"]) == 0
    assert statistics.median(off["comb"]) <= 0.05
    assert max(off["comb"]) <= 0.08
    assert max(off["ff"]) <= 0.08
