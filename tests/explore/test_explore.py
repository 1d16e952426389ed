# SPDX-License-Identifier: Apache-2.0
"""The command from sweep file to table, page and configuration; with results put into the cache, and really."""

from __future__ import annotations

import csv
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from nomul.host.cli.building import chip_for
from nomul.host.configuration import read_configuration
from nomul.host.explore.cache import Cache
from nomul.host.explore.cost import cost_of
from nomul.host.explore.explore import plan
from nomul.host.explore.stages import routing_work, synthesis_work
from nomul.host.explore.sweep import read_sweep
from nomul.model.errors import NomulError

HERE = Path(__file__).parent
SWEEP = """
scope = "board"
board = ["ulx3s-85f", "lfe5u-85f"]
models = "180x540x3x256"
trits = [80, 160, 42]
clock_mhz = [60, 90]
seeds = [1, 2]
"""


def fill(path: Path, folder: Path, fmax: Any) -> int:
    """Puts a result for every job of a sweep into a cache; how many points there are with their seeds."""
    cache, read = Cache(folder), read_sweep(path)
    kept = plan(read, exhaustive=True).kept
    for point in kept:
        cost = cost_of(point)
        area = {"comb": round(cost.comb) + 10, "ff": round(cost.ff), "bram": cost.bram, "multipliers": 37}
        first = synthesis_work(point, read.limit_s)
        cache.put(first.key, first.name, area)
        for seed in read.seeds:
            work = routing_work(point, seed, read.limit_s, first)
            cache.put(work.key, work.name, {"fmax_mhz": fmax(point, seed), "longest_path": ["a", "b"], **area})
    return len(kept) * len(read.seeds)


def test_from_sweep_to_files(nomul: Any, tmp_path: Path):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP)
    cached = fill(path, tmp_path / "cache", lambda point, seed: 85.0 + 8 * seed)  # 90 MHz is met with seed 1 and 2
    arguments = ("explore", path, "--exhaustive", "--cache", tmp_path / "cache", "-o", tmp_path / "out")
    shown = nomul(*arguments, "--json")
    assert shown.status == 0, shown.err
    summary = json.loads(shown.out)
    assert (summary["count"], summary["routed"], summary["impossible"], summary["failed"]) == (24, cached, 4, 0)
    assert summary["cached"] == summary["jobs"]
    assert summary["model_errors"]["bram"]["largest"] == 0.0
    assert 0 < summary["model_errors"]["comb"]["median"] < 0.01

    table = pyarrow.parquet.read_table(tmp_path / "out/points.parquet").to_pylist()
    with open(tmp_path / "out/points.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == len(table) == cached + 4
    routed = [row for row in table if row["state"] == "routed"]
    assert all(row["tokens_per_second"] == pytest.approx(row["clock_mhz"] * 1e6 / row["cycles"], abs=1e-3)
               for row in routed)  # fmt: skip
    assert {row["why"] for row in table if row["state"] == "impossible"} == {
        "trits is 42; it must be a multiple of 5, a byte's"
    }
    best = max((row for row in routed if row["board"] == "ulx3s-85f"), key=lambda row: row["tokens_per_second"])
    assert (best["trits"], best["clock_mhz"]) == (160, 90.0)
    assert "comb" in best["front"]

    # The best is something that nomul build takes.
    file = tmp_path / "out/ulx3s-85f-180x540x3x256.json"
    chip = chip_for("ulx3s-85f", str(file))
    assert chip.core is not None
    assert (chip.core["bytes_per_beat"], chip.board.clock_hz, chip.configuration) == (
        32, 90_000_000, "explored-180x540x3x256",
    )  # fmt: skip
    assert chip.command == f"nomul build ulx3s-85f --config {file}"
    plain = nomul(*arguments)
    assert plain.status == 0
    assert "model, bram: median error 0.00%" in plain.out
    page = (tmp_path / "out/explore.html").read_text()
    assert page.count("<svg") == 2 * 3
    assert Links().links(page) == []


class Links(HTMLParser):
    """What a page would load from elsewhere."""

    def links(self, text: str) -> list[str]:
        self.found: list[str] = []
        self.feed(text)
        return self.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_clocks_that_are_not_met(nomul: Any, tmp_path: Path):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace("[60, 90]", "90"))
    fill(path, tmp_path / "cache", lambda point, seed: 88.0 + 3 * (seed == 2) * (point.trits == 80))
    shown = nomul("explore", path, "--exhaustive", "--cache", tmp_path / "cache", "-o", tmp_path / "out", "--json")
    assert json.loads(shown.out)["unmet"] == 6
    table = pyarrow.parquet.read_table(tmp_path / "out/points.parquet").to_pylist()
    assert {(row["trits"], row["seed"]) for row in table if row["state"] == "routed"} == {(80, 2)}
    assert {row["why"] for row in table if row["state"] == "unmet"} == {"88.0 MHz of 90.0 MHz wanted"}
    assert read_configuration(tmp_path / "out/lfe5u-85f-180x540x3x256.json").seed == 2


def test_a_design_synthesised_for_real(nomul: Any, tmp_path: Path):
    """The smallest engine, through Dask, yosys and packing; it cannot be routed in a second, which is told."""
    path = tmp_path / "sweep.toml"
    path.write_text(
        'scope = "engine"\nboard = "lfe5u-25f"\nmodels = "40x40x1x16"\nengine = "table"\ntrits = 20\n'
    )
    read = read_sweep(path)
    (point,) = plan(read, exhaustive=True).kept
    work = synthesis_work(point, read.limit_s)
    routing = routing_work(point, 1, read.limit_s, work)
    cache = Cache(tmp_path / "cache")
    cache.put(routing.key, routing.name, {"fmax_mhz": 170.0, "longest_path": ["a", "b"], "comb": 1, "ff": 1, "bram": 1,
                                          "multipliers": 0})  # fmt: skip
    shown = nomul("explore", path, "--workers", 1, "--cache", tmp_path / "cache", "-o", tmp_path / "out", "--json")
    assert shown.status == 0, shown.err
    area, cost = Cache(tmp_path / "cache").get(work.key), cost_of(point)
    assert area is not None
    assert (area["bram"], area["multipliers"]) == (cost.bram, 0)
    assert area["comb"] == pytest.approx(cost.comb, rel=0.2)
    assert area["ff"] == pytest.approx(cost.ff, rel=0.2)


def test_large_sweeps_are_asked_about(nomul: Any, tmp_path: Path):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace("[1, 2]", "{ from = 1, to = 20, step = 1 }"))
    shown = nomul("explore", path, "--json")
    assert (shown.status, shown.out) == (1, "")
    assert shown.failed() == f"nomul: {path}: spans 240 points; say --yes if you mean it"
    shown = nomul("explore", path, "--plan")
    assert shown.status == 0
    assert shown.out.startswith("240 points with their seeds; to route: ")
    assert "impossible: ulx3s-85f, 180x540x3x256, select 42" in shown.out


@pytest.mark.parametrize(("text", "line"), [
    ("", "board is missing"),
    ("board = 'lfe5u-85f'\nmodels = '180x540x3x256'\ntrits = 42",
     "none of 1 points can be; lfe5u-85f, 180x540x3x256, select 42: trits is 42; it must be a multiple of 5, a byte's"),
])  # fmt: skip
def test_bad_sweeps_end_in_one_line(nomul: Any, tmp_path: Path, text: str, line: str):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    shown = nomul("explore", path, "--yes")
    assert (shown.status, shown.failed()) == (1, f"nomul: {path}: {line}")


def test_without_the_extra(nomul: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "dask" else real(name, *more)
    )
    for command in (("explore", tmp_path / "sweep.toml"), ("sim", "--all")):
        shown = nomul(*command)
        assert (shown.status, shown.failed()) == (1, "nomul: dask is not installed: pip install 'nomul[explore]'")


@pytest.mark.parametrize(("change", "message"), [
    ({"board": "ecpix5-85f"}, "is for ecpix5-85f, not for ulx3s-85f; build ecpix5-85f with it"),
    ({"format": 9}, "format is 9; this nomul reads format 1"),
    ({"kind": "cloud"}, "kind is 'cloud'; one of onchip, streamed"),
    ({"core": {"speed": 1}}, "core or geometry is of another version of nomul"),
    ({"clock_mhz": 9000}, "clock_mhz is 9000; it must be 1 to 400"),
    ({"seed": -1}, "seed is -1; it must be a whole number"),
    ({"name": "../x"}, "name is '../x'; letters, digits, dots, dashes and underlines"),
    ({"core": None}, "core is None; name a file that nomul explore wrote"),
])  # fmt: skip
def test_configuration_files_that_are_wrong(tmp_path: Path, change: dict[str, Any], message: str):
    path = tmp_path / "sweep.toml"
    path.write_text(SWEEP.replace('["ulx3s-85f", "lfe5u-85f"]', '"ulx3s-85f"'))
    from nomul.host.explore.choose import configuration
    from nomul.host.explore.rows import row

    point = plan(read_sweep(path), exhaustive=True).kept[0]
    area = {"comb": 1, "ff": 1, "bram": 1, "multipliers": 1}
    made = configuration(row(point, 1, cost_of(point), area, {"fmax_mhz": 99.0, **area}))
    file = tmp_path / "best.json"
    file.write_text(json.dumps(made))
    assert chip_for("ulx3s-85f", str(file)).core is not None
    file.write_text(json.dumps(made | change))
    with pytest.raises(NomulError) as error:
        chip_for("ulx3s-85f", str(file))
    assert str(error.value).startswith(f"{file}: {message}")


def test_configuration_files_that_are_none(nomul: Any, tmp_path: Path):
    assert nomul("build", "ulx3s-85f", "--config", tmp_path / "no.json").failed() == (
        f"nomul: {tmp_path}/no.json: no such file or directory; name a configuration file"
    )
    (tmp_path / "list.json").write_text("[1]")
    assert "is a JSON list, not an object" in nomul("build", "ulx3s-85f", "--config", tmp_path / "list.json").failed()
    assert sys.argv[0] == "nomul"


@pytest.mark.sweep
def test_pruned_and_exhaustive_find_the_same_best(nomul: Any, tmp_path: Path):
    """Engines routed for real, all of them and those that the model keeps: the fastest is among these."""
    found = {}
    for name, more in (("all", ["--exhaustive"]), ("pruned", [])):
        places = ("--cache", tmp_path / "cache", "-o", tmp_path / name)
        shown = nomul("explore", HERE / "engines.toml", *more, *places, "--json")
        assert shown.status == 0, shown.err
        found[name] = json.loads(shown.out)
    assert (found["all"]["pruned"], found["pruned"]["pruned"]) == (0, 3)
    assert found["pruned"]["cached"] == found["pruned"]["jobs"] == 6  # an overlapping sweep costs nothing
    assert found["all"]["model_errors"]["comb"]["median"] <= 0.05
    assert found["all"]["model_errors"]["bram"]["largest"] == 0.0
    for name, points in found["all"]["fronts"].items():
        assert found["pruned"]["fronts"][name][-1] == points[-1]  # the fastest
    every = pyarrow.parquet.read_table(tmp_path / "all/points.parquet").to_pylist()
    kept = [row for row in pyarrow.parquet.read_table(tmp_path / "pruned/points.parquet").to_pylist() if row["comb"]]
    for row in every:  # whatever was lost, something faster takes hardly more
        assert any(
            other["tokens_per_second"] >= row["tokens_per_second"] and other["comb"] <= 1.06 * row["comb"]
            and other["bram"] <= row["bram"] + 1
            for other in kept
        )  # fmt: skip
