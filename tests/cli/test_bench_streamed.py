# SPDX-License-Identifier: Apache-2.0
"""The benchmark of streamed cores keeps what it measured when something fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nomul.host.cli import bench_streamed
from nomul.hw.build.synth import Synthesis
from nomul.model.errors import NomulError


def synthesis(seeds: tuple[int, ...], **counts: int) -> Synthesis:
    return Synthesis(
        **{"comb": 7, "ff": 5, "bram": 3, "multipliers": 2} | counts, part="LFE5U-85F", speed=6, seeds=seeds, tools={},
        fmax_mhz=(90.0,) * len(seeds), longest_paths=(("a", "b"),) * len(seeds),
    )  # fmt: skip


def fails(sizes: Any) -> dict[str, Any]:
    raise NomulError("core and golden differ: everywhere")


def test_what_is_measured_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for name, bench in (("dram", lambda sizes: {"board": 1}), ("prefill", fails), ("lanes", lambda sizes: {"1": 2})):
        monkeypatch.setitem(bench_streamed.BENCHES, name, bench)
    monkeypatch.setattr("sys.argv", ["bench_streamed", "dram", "prefill", "lanes"])
    assert bench_streamed.main() == 1
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["dram"], found["lanes"]) == ({"board": 1}, {"1": 2})
    assert found["prefill"] == {"error": "core and golden differ: everywhere"}
    assert shown.err == "nomul: prefill: core and golden differ: everywhere\n"
    monkeypatch.setattr("sys.argv", ["bench_streamed", "dram"])
    assert bench_streamed.main() == 0


def test_area_of_what_is_not_routed(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def synthesise(core: Any, *, seeds: tuple[int, ...], **options: Any) -> Synthesis:
        lanes = core.config.lanes
        asked.append((lanes, len(seeds)))
        if (lanes, len(seeds)) in {(2, 1), (8, 0)}:
            raise NomulError(f"{lanes} lanes took longer than 1 s")
        return synthesis(seeds, bram=208 + (lanes == 4))

    monkeypatch.setattr(bench_streamed, "synthesise", synthesise)
    found = bench_streamed.bench_area([])
    assert asked == [(1, 0), (1, 1), (2, 0), (2, 1), (4, 0), (8, 0), (16, 0), (16, 1)]
    counts = {"comb": 7, "ff": 5, "bram": 208, "multipliers": 2, "fits": True}
    only = {"label": "synthesised", "fmax_mhz": [], "longest_paths": []}
    routed = {"label": "routed, out of context", "fmax_mhz": [90.0], "longest_paths": [("a", "b")]}
    assert found["1"] == found["16"] == counts | routed
    assert found["2"] == counts | only | {"error": "2 lanes took longer than 1 s"}
    assert found["4"] == counts | only | {"bram": 209, "fits": False}
    assert found["8"] == {"error": "8 lanes took longer than 1 s"}
