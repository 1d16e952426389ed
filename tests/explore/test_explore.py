# SPDX-License-Identifier: Apache-2.0
"""The command from sweep file to table, page and configuration; with results put into the cache, and really."""

from __future__ import annotations

import csv
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from nomul.host.cli.building import chip_for
from nomul.host.configuration import read_configuration
from nomul.host.explore import rows as rows_module
from nomul.host.explore.cache import Cache
from nomul.host.explore.choose import Choice, choose, configuration, write_configurations
from nomul.host.explore.cost import cost_of
from nomul.host.explore.explore import plan
from nomul.host.explore.point import Point
from nomul.host.explore.rows import Row, fronts, row
from nomul.host.explore.stages import routing_work, simulation_work, synthesis_work
from nomul.host.explore.sweep import read_sweep
from nomul.host.power import modelled as power
from nomul.hw.boards.registry import BOARDS
from nomul.model.errors import NomulError

HERE = Path(__file__).parent
SWEEP = """
scope = "board"
board = ["ulx3s-85f", "lfe5u-85f"]
models = "120x360x3x256"
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
    file = tmp_path / "out/ulx3s-85f-120x360x3x256.json"
    chip = chip_for("ulx3s-85f", str(file))
    assert chip.core is not None
    assert (chip.core["bytes_per_beat"], chip.board.clock_hz, chip.configuration) == (
        32, 90_000_000, "explored-120x360x3x256",
    )  # fmt: skip
    assert chip.command == f"nomul build ulx3s-85f --config {file}"
    plain = nomul(*arguments)
    assert plain.status == 0
    assert "model, bram: median error 0.00%" in plain.out
    page = (tmp_path / "out/explore.html").read_text()
    assert page.count("<svg") == 2 * 3
    assert Links().links(page) == []


def routed(point: Point, fmax_mhz: float) -> Row:
    """A row with a clock that nobody routed."""
    area = {"comb": 1000, "ff": 1000, "bram": 10, "multipliers": 37}
    return row(point, 1, cost_of(point), area, {"fmax_mhz": fmax_mhz, **area})


def points_of(folder: Path, text: str) -> list[Point]:
    path = folder / "sweep.toml"
    path.write_text(text)
    return read_sweep(path).points()[0]


@pytest.mark.parametrize("board", BOARDS)
def test_the_best_core_is_one_that_can_be_built(board: str, tmp_path: Path):
    """Cores out of context reach clocks that no PLL makes; what is written is taken by ``nomul build``, or told."""
    text = f"board = '{board}'\nmodels = '24x20x1x64'\ntrits = 40\nengine = 'table'\n"
    (chip,) = points_of(tmp_path, text)
    if BOARDS[board].device == "LFE5U-25F":
        assert write_configurations([routed(chip, 89.37)], tmp_path) == {}
        (none,) = choose([routed(chip, 89.37)])[1].values()
        assert none.why.startswith("lfe5u-25f: needs 37 multipliers, an LFE5U-25F has 28: 9 too many; ")
        return
    (path,) = write_configurations([routed(chip, 89.37), routed(chip, 71.3)], tmp_path).values()
    made = read_configuration(path)
    assert 60 < made.clock_mhz <= 89
    assert made.clock_mhz == int(made.clock_mhz)
    assert chip_for(board, str(path)).board.clock_hz == made.clock_mhz * 1e6
    (none,) = choose([routed(chip, 2.9)])[1].values()
    assert none.why == f"{board} has no clock of at most 2.9 MHz"

    (streamed,) = points_of(tmp_path, text + "weights = 'memory'\n")
    memory = BOARDS[board].memory
    if memory is None:
        found, skipped = choose([routed(streamed, 89.37)])
        assert found == {}
        assert "wants external memory" in skipped[board, "24x20x1x64"].why
        return
    clock = memory.clock_hz / 1e6
    found, skipped = choose([routed(streamed, clock - 0.1), routed(streamed, 89.37), routed(streamed, 99.9)])
    assert skipped == {}  # the one that is too slow is not the fastest
    assert {one.clock_mhz for one in found.values()} == {clock}
    (path,) = write_configurations([routed(streamed, 89.37)], tmp_path).values()
    assert chip_for(board, str(path)).configuration == "explored-24x20x1x64"
    slow = choose([routed(streamed, clock - 0.1)])[1][board, "24x20x1x64"]
    assert slow.why == f"{clock - 0.1:g} MHz; the controller of {board} runs at {clock:g}"


def test_boards_come_before_cores_and_engines_stand_alone(tmp_path: Path):
    """Each scope has its own fronts; a core that looks faster than a board is not what is built."""
    text = "board = 'ulx3s-85f'\nmodels = '24x20x1x64'\ntrits = 80\nengine = 'table'\nclock_mhz = 60\n"
    rows = [
        routed(point, 120.0) for point in points_of(tmp_path, text + "scope = ['engine', 'core', 'board']\n")
    ]
    ((key, choice),) = choose(rows)[0].items()
    assert (key, choice.row.point.scope) == (("ulx3s-85f", "24x20x1x64"), "board")
    made = fronts(rows)
    assert {scope for _, _, scope, _ in made} == {"engine", "core", "board"}
    assert all([one.point.scope for one in front] == [scope] for (_, _, scope, _), front in made.items())


def test_a_core_behind_a_memory_is_no_faster_than_its_controller(tmp_path: Path):
    text = "board = 'ecpix5-85f'\nmodels = '370M'\ntrits = 40\nengine = 'table'\nweights = 'memory'\n"
    core, board = points_of(tmp_path, text + "scope = ['core', 'board']\n")
    assert routed(core, 150.0).clock_mhz == routed(board, 150.0).clock_mhz == 75.0
    assert routed(core, 60.0).clock_mhz == 60.0
    assert routed(core, 150.0).tokens_per_second == routed(board, 150.0).tokens_per_second
    (alone,) = points_of(tmp_path, text + "scope = 'engine'\n")
    assert routed(alone, 150.0).clock_mhz == 150.0


@pytest.mark.parametrize("board", BOARDS)
def test_a_chip_without_power_coefficients(
    nomul: Any, board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every board, as if the power model knew another chip alone: all comes out but watts, which is told once."""
    table = {**power.coefficients(), "static": {"LFE5U-1F": {"watts": [0.1, 0.1, 0.1]}}}
    monkeypatch.setattr(power, "coefficients", lambda: table)
    monkeypatch.setattr(rows_module, "coefficients", lambda: table)
    path = tmp_path / "sweep.toml"
    path.write_text(f"board = '{board}'\nmodels = '24x20x1x64'\ntrits = [20, 40]\nengine = 'table'\ntile = [64, 128]\n")
    assert nomul("explore", path, "--plan").status == 0
    fill(path, tmp_path / "cache", lambda point, seed: 80.0 + point.trits / 10)
    shown = nomul("explore", path, "--exhaustive", "--cache", tmp_path / "cache", "-o", tmp_path / "out")
    assert shown.status == 0, shown.err
    device = BOARDS[board].device
    assert shown.out.count(f"no power coefficients of {device}: their watts are left out") == 1
    assert device in (tmp_path / "out/explore.html").read_text()
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["without_watts"] == [device]
    assert {name.rpartition(", ")[2] for name in summary["fronts"]} == {"comb", "bram"}
    assert {row["watts"] for row in pyarrow.parquet.read_table(tmp_path / "out/points.parquet").to_pylist()} == {None}


@pytest.mark.parametrize("weights", ["chip", "memory"])
def test_every_board_explores(nomul: Any, weights: str, tmp_path: Path):
    """With the coefficients that there are: no chip or memory ends the run."""
    path = tmp_path / "sweep.toml"
    path.write_text(
        f"board = {[*BOARDS]}\nmodels = '24x20x1x64'\ntrits = 40\nengine = 'table'\nweights = '{weights}'\n"
    )
    cached = fill(path, tmp_path / "cache", lambda point, seed: 88.8)
    shown = nomul("explore", path, "--exhaustive", "--cache", tmp_path / "cache", "-o", tmp_path / "out", "--json")
    assert shown.status == 0, shown.err
    summary = json.loads(shown.out)
    assert summary["routed"] == cached == len(BOARDS)
    unknown = {one.device for one in BOARDS.values()} - {*power.coefficients()["static"]}
    assert unknown <= {*summary["without_watts"]}
    roomy = [name for name, one in BOARDS.items() if one.device != "LFE5U-25F"]  # it has 28 multipliers, not 37
    built = [name for name in roomy if weights == "chip" or BOARDS[name].memory is not None]
    for name in built:
        assert (tmp_path / f"out/{name}-24x20x1x64.json").is_file()
    assert {one["point"].partition(",")[0] for one in summary["not_buildable"].values()} == {*BOARDS} - {*built}


def test_simulations_that_are_not_done_are_told(nomul: Any, tmp_path: Path):
    """A real simulation job that refuses: the points are routed, the run has failed."""
    path = tmp_path / "sweep.toml"
    path.write_text(
        "board = 'ecpix5-85f'\nmodels = '370M'\ntrits = 40\nengine = 'table'\nweights = 'memory'\nsimulate = true\n"
        "seeds = [1, 2]\n"
    )
    assert fill(path, tmp_path / "cache", lambda point, seed: 80.0) == 2
    arguments = ("explore", path, "--workers", 1, "--cache", tmp_path / "cache", "-o", tmp_path / "out")
    shown = nomul(*arguments, "--json")
    summary = json.loads(shown.out)
    assert (summary["routed"], summary["failed"], summary["unsimulated"]) == (2, 1, 1)
    (failure,) = summary["failures"]
    assert (failure["state"], failure["seed"]) == ("failed", None)
    assert failure["why"].startswith("simulation: simulate: 341,049,344 weights; models of up to 16,777,216 are made")
    line = f"nomul: {path}: 1 were not done, 1 of them simulations; run it again to try them again\n"
    assert (shown.status, shown.err) == (1, line)
    table = pyarrow.parquet.read_table(tmp_path / "out/points.parquet").to_pylist()
    assert [row["state"] for row in table] == ["routed"] * 2
    assert all(row["why"].startswith("simulation failed: simulate: ") for row in table)
    # Once it is done, so is the sweep.
    (point,) = plan(read_sweep(path), exhaustive=True).kept
    work = simulation_work(point, 3600)
    Cache(tmp_path / "cache").put(work.key, work.name, {"cycles": cost_of(point).cycles, "words": 1})
    shown = nomul(*arguments, "--json")
    assert shown.status == 0
    assert json.loads(shown.out)["model_errors"]["cycles"] == {"points": 1, "median": 0.0, "largest": 0.0}


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
    assert read_configuration(tmp_path / "out/lfe5u-85f-120x360x3x256.json").seed == 2


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
    assert "impossible: ulx3s-85f, 120x360x3x256, select 42" in shown.out


@pytest.mark.parametrize(("text", "line"), [
    ("", "board is missing"),
    ("board = 'lfe5u-85f'\nmodels = '120x360x3x256'\ntrits = 42",
     "none of 1 points can be; lfe5u-85f, 120x360x3x256, select 42: trits is 42; it must be a multiple of 5, a byte's"),
])  # fmt: skip
def test_bad_sweeps_end_in_one_line(nomul: Any, tmp_path: Path, text: str, line: str):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    shown = nomul("explore", path, "--yes")
    assert (shown.status, shown.failed()) == (1, f"nomul: {path}: {line}")


@pytest.mark.parametrize("answer", ["n", "y"])
def test_a_large_sweep_is_asked_about_before_it_is_planned(
    nomul: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str
):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def planned(*_: Any, **__: Any) -> None:
        raise NomulError("planned")

    path = tmp_path / "sweep.toml"
    path.write_text("board = 'lfe5u-85f'\nmodels = '24x20x1x64'\nseeds = { from = 1, to = 999000, step = 1 }\n")
    monkeypatch.setattr("nomul.host.explore.explore.plan", planned)
    monkeypatch.setattr("sys.stdin", Terminal(answer + "\n"))
    shown = nomul("explore", path)
    assert "999,000 points: go on?" in shown.out
    assert (shown.status, shown.err) == ((1, "nomul: planned\n") if answer == "y" else (130, ""))


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
    point = plan(read_sweep(path), exhaustive=True).kept[0]
    made = configuration(Choice(row=routed(point, 99.0), clock_mhz=60.0))
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
    kept = [one for one in pyarrow.parquet.read_table(tmp_path / "pruned/points.parquet").to_pylist() if one["comb"]]
    for lost in every:  # whatever was lost, something faster takes hardly more
        assert any(
            other["tokens_per_second"] >= lost["tokens_per_second"] and other["comb"] <= 1.06 * lost["comb"]
            and other["bram"] <= lost["bram"] + 1
            for other in kept
        )  # fmt: skip
