# SPDX-License-Identifier: Apache-2.0
"""Sweep files, what they refuse, and what the model prunes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nomul.host.explore.cost import Cost, clock_band, cost_of, dram_cycles, runs_at
from nomul.host.explore.explore import plan
from nomul.host.explore.pareto import dominates, front
from nomul.host.explore.point import Point
from nomul.host.explore.prune import SLACK, pruned
from nomul.host.explore.rows import watts
from nomul.host.explore.sweep import Sweep, read_sweep
from nomul.model.errors import NomulError

HERE = Path(__file__).parent
LEAST = 'board = "lfe5u-85f"\nmodels = "180x540x3x256"\n'


def sweep(tmp_path: Path, text: str) -> Sweep:
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return read_sweep(path)


def test_ranges(tmp_path: Path):
    read = sweep(tmp_path, LEAST + """
        trits = { from = 20, to = 80, times = 2 }
        tile = { from = 64, to = 256, step = 64 }
        engine = ["table", "select"]
        clock_mhz = [80.5, 90]
        seeds = [1, 2, 3]
    """)
    assert read.values["trits"] == (20, 40, 80)
    assert read.values["tile"] == (64, 128, 192, 256)
    assert read.count == 3 * 4 * 2 * 2 * 3
    possible, impossible = read.points()
    assert (len(possible), impossible) == (48, [])
    assert len(set(possible)) == 48


@pytest.mark.parametrize(("text", "message"), [
    ("models = '370M'", "board is missing"),
    ("board = 'lfe5u-85f'", "models is missing"),
    ("board = 'ulx3s'\nmodels = '370M'", "board: no board is called 'ulx3s'; did you mean ulx3s-85f or ulx3s-85f-32m?"),
    (LEAST + "trit = 40", "'trit' is unknown; did you mean trits"),
    (LEAST + "trits = []", "trits is empty: there is no point at all; name at least one value"),
    (LEAST + "trits = [40, 40]", "trits: a value occurs twice"),
    (LEAST + "trits = 'many'", "trits: 'many'; it must be a whole number from 5 to 640"),
    (LEAST + "trits = 40.5", "trits: 40.5; it must be a whole number from 5 to 640"),
    (LEAST + "lanes = true", "lanes: True; it must be a whole number from 1 to 16"),
    (LEAST + "clock_mhz = nan", "clock_mhz: nan; it must be a number from 0 to 400"),
    (LEAST + "seeds = -1", "seeds: -1; it must be a whole number from 0 to 2147483648"),
    (LEAST + "engine = 'tables'", "engine: 'tables'; did you mean table?"),
    (LEAST + "scope = 'chip'", "scope: 'chip'; one of engine, core, board"),
    (LEAST + "trits = { from = 20, to = 80 }", "trits: a range has from, to, and step or times"),
    (LEAST + "trits = { from = 20, to = 80, by = 2 }", "trits: 'by' is unknown"),
    (LEAST + "trits = { from = 20, to = 80, times = 1 }", "trits: steps of 1 from 20 do not lead to 80"),
    (LEAST + "trits = { from = 20, to = 80, step = 0 }", "trits: steps of 0 from 20 do not lead to 80"),
    (LEAST + "seeds = { from = 0, to = 2000000000, step = 1 }", "seeds: more than 1,000,000 values"),
    (LEAST + "trits = { from = 80, to = 20, step = 20 }", "trits is empty"),
    ("board = 'lfe5u-85f'\nmodels = '7B'", "models: '7B'; name 370M, 1.3B, 2.7B, or hidden x intermediate"),
    ("board = 'lfe5u-85f'\nmodels = '0x1x1x1'", "models: '0x1x1x1': geometry: hidden is 0"),
    (LEAST + "simulate = 'yes'", "simulate: 'yes'; it must be true or false"),
    (LEAST + "limit_s = 0", "limit_s: 0; it must be a whole number of seconds"),
    (LEAST + "trits = ", "is not TOML"),
    (LEAST + "seeds = { from = 1, to = 1000, step = 1 }\nclock_mhz = { from = 1, to = 400, step = 1 }\n"
     "lanes = [1, 2, 4]", "spans 1,200,000 points; at most 1,000,000"),
])  # fmt: skip
def test_bad_files(tmp_path: Path, text: str, message: str):
    with pytest.raises(NomulError) as error:
        sweep(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/sweep.toml: {message}")
    assert "\n" not in str(error.value)


_MANY = "9" * 5000


@pytest.mark.parametrize(("text", "message"), [
    (LEAST + "seeds = { from = 1, to = 1" + "0" * 400 + ", step = 1 }", "seeds: to is 1000000000"),
    (LEAST + "trits = { from = 1, to = 2, times = 1" + "0" * 400 + " }", "trits: times is 1000000000"),
    (LEAST + f"trits = {_MANY}", "is not TOML (Exceeds the limit"),
    (LEAST + "trits = 0x" + "f" * 5000, "trits: a value too long to be shown; it must be a whole number"),
    (LEAST + "seeds = { from = 0x" + "f" * 5000 + ", to = 1, step = 1}", "seeds: from is a value too long to be shown"),
    (LEAST + "trits = " + "[" * 5000, "is not TOML ("),
    (f"board = 'lfe5u-85f'\nmodels = '{_MANY}x1x1x1'", "models: '9999999999"),
    (f"board = '{_MANY}'\nmodels = '370M'", "board: no board is called"),
    ("board = 'lfe5u-85f'\nmodels = '24x20x9999999x64'", "models: '24x20x9999999x64': layers is 9999999; it must be"),
    ("board = 'lfe5u-85f'\nmodels = [[[1]], '370M']", "models: [[1]]; name 370M"),
    (LEAST + f"'{_MANY}' = 1", "'99999999"),
    (LEAST + "clock_mhz = { from = 1, to = inf, step = 1 }", "clock_mhz: to is inf; it must be a number"),
    (LEAST + "clock_mhz = { from = 1, to = nan, step = 1 }", "clock_mhz: to is nan; it must be a number"),
    (LEAST + "clock_mhz = { from = 1, to = 2, step = 1e-300 }", "clock_mhz: more than 1,000,000 values"),
    (LEAST + "limit_s = 0x" + "f" * 300, "limit_s: "),
])  # fmt: skip
def test_monstrous_files_end_in_one_short_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(NomulError) as error:
        sweep(tmp_path, text)
    said = str(error.value).removeprefix(f"{tmp_path}/sweep.toml: ")
    assert said.startswith(message)
    assert len(said) < 300
    assert "\n" not in said


def test_steps_do_not_accumulate(tmp_path: Path):
    read = sweep(tmp_path, LEAST + "clock_mhz = { from = 60, to = 100, step = 0.1 }")
    assert read.values["clock_mhz"] == tuple(k / 10 for k in range(600, 1001))
    text = "clock_mhz = { from = 50, to = 98, times = 1.4 }\ntrits = { from = 5, to = 640, times = 2 }"
    read = sweep(tmp_path, LEAST + text)
    assert read.values["clock_mhz"] == (50, 70.0, 98.0)
    assert read.values["trits"] == (5, 10, 20, 40, 80, 160, 320, 640)


def test_no_file(tmp_path: Path):
    for path, why in ((tmp_path / "none.toml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(NomulError, match=why):
            read_sweep(path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NomulError, match="is not TOML"):
        read_sweep(tmp_path / "binary")


@pytest.mark.parametrize(("more", "reason"), [
    ("trits = 42", "trits is 42; it must be a multiple of 5, a byte's"),
    ("trits = 30", "bytes_per_beat is 6; it must be a multiple of 4"),
    ("lanes = 2", "lanes is 2; a core with its weights on the chip has one so far"),
    ("tile = 33", "tile_outputs is 33; it must be even"),
    ("word_bytes = 16", "word_bytes is 16; a core with its weights on the chip has no memory"),
    ("weights = 'memory'\nengine = 'select'", "engine is select; streamed cores have the table engine"),
    ("weights = 'memory'\ntrits = 60\nengine = 'table'", "bytes_per_beat is 12; it must be a power of two"),
    ("weights = 'memory'\nengine = 'table'\nscope = 'board'", "configuration lanes1 wants external memory"),
    ("scope = 'board'\nclock_mhz = 83.3333", "PLL: 25 MHz gives no 83.3333 MHz"),
])  # fmt: skip
def test_impossible_points_have_reasons(tmp_path: Path, more: str, reason: str):
    read = sweep(tmp_path, LEAST + more)
    _, ((_, why),) = read.points()
    assert reason in why
    with pytest.raises(NomulError, match="none of 1 points can be"):
        plan(read, exhaustive=False)


def test_impossible_points_are_not_fatal(tmp_path: Path):
    made = plan(sweep(tmp_path, LEAST + "trits = [40, 42, 180]\nengine = 'select'"), exhaustive=False)
    assert [point.trits for point in made.kept] == [40, 180]
    assert [point.trits for point, _ in made.impossible] == [42]


def test_boards_have_their_memorys_words_and_clock(tmp_path: Path):
    text = "board = 'ecpix5-85f'\nmodels = '370M'\nscope = 'board'\nweights = 'memory'\nengine = 'table'\n"
    (point,), none = sweep(tmp_path, text).points()
    assert (point.config.word_bytes, point.aim_mhz, none) == (16, 75.0, [])  # type: ignore[union-attr]
    _, ((_, why),) = sweep(tmp_path, text + "clock_mhz = 90").points()
    assert why == "clock_mhz is 90; the controller of ecpix5-85f runs at 75"
    _, ((_, why),) = sweep(tmp_path, text + "word_bytes = 32").points()
    assert why == "word_bytes is 32; the memory of ecpix5-85f has words of 16"


def test_what_does_not_fit_is_pruned(tmp_path: Path):
    made = plan(sweep(tmp_path, "board = ['lfe5u-25f', 'lfe5u-85f']\nmodels = '180x540x3x256'\ntrits = 180"),
                exhaustive=False)  # fmt: skip
    assert [point.board for point in made.kept] == ["lfe5u-85f"]
    ((point, why),) = made.pruned
    assert (point.board, why) == ("lfe5u-25f", "needs 192 block RAMs at least, an LFE5U-25F has 56")


def test_pruning_keeps_the_fastest_and_names_a_better_one(tmp_path: Path):
    text = LEAST + "scope = 'engine'\nengine = ['table', 'select']\ntrits = [20, 40, 80, 160]\ntile = [64, 128, 256]"
    possible, _ = sweep(tmp_path, text).points()
    kept, gone = pruned(possible)
    assert len(kept) + len(gone) == len(possible) == 24
    assert len(gone) >= 6
    labels = {point.label: point for point in possible}
    for point, why in gone:
        better = labels[why.split("than ")[1].removesuffix(", which takes no more")]
        a, b = cost_of(better), cost_of(point)
        assert a.bram <= b.bram
        assert a.comb <= b.comb * (1 + SLACK)
        assert clock_band(better)[0] / dram_cycles(better, a) > clock_band(point)[1] / dram_cycles(point, b)
    # Whatever clocks they reach within their bands, the fastest of all is among those that are kept.
    most = max(possible, key=lambda one: clock_band(one)[1] / cost_of(one).cycles)
    assert most in kept
    assert plan(sweep(tmp_path, text), exhaustive=True).pruned == []


@pytest.mark.parametrize("boards", ["['lfe5u-85f', 'ulx3s-85f']", "['versa-ecp5', 'ecpix5-85f']"])
def test_who_is_pruned_is_who_is_beaten_by_any_other(tmp_path: Path, boards: str):
    """Each compared with each, in place of the front alone; chips without coefficients of watts among them."""
    possible, _ = sweep(tmp_path, f"""
        board = {boards}
        models = ["180x540x3x256", "64x96x1x256"]
        scope = ["engine", "core", "board"]
        weights = ["chip", "memory"]
        engine = ["table", "select"]
        trits = [20, 40, 80, 160]
        lanes = [1, 4]
        tile = [64, 256]
        clock_mhz = [0, 60]
    """).points()

    def figures(point: Point) -> tuple[float, float, float | None, Cost]:
        cost, band = cost_of(point), [runs_at(point, mhz) for mhz in clock_band(point)]
        middle = runs_at(point, sum(clock_band(point)) / 2)
        if point.scope == "board":
            middle = point.aim_mhz
            band = [middle if band[0] >= middle else 0.0, middle]
        low, high = (point.lanes * mhz / dram_cycles(point, cost) for mhz in band)
        return low, high, watts(point, cost, cost.area, middle), cost

    def beats(a: Point, b: Point) -> bool:
        if (a.board, a.model, a.scope) != (b.board, b.model, b.scope):
            return False
        (low, _, mine, x), (_, high, theirs, y) = known[a], known[b]
        right = x.bram <= y.bram and x.multipliers <= y.multipliers and low > high
        right = right and x.comb <= y.comb * (1 + SLACK) and x.ff <= y.ff * (1 + SLACK)
        return right and (mine is None or theirs is None or mine <= theirs * (1 + SLACK))

    kept, gone = pruned(possible)
    too_large = {point for point, why in gone if why.startswith("needs ")}
    known = {point: figures(point) for point in possible if point not in too_large}
    assert {p for p in known if not any(beats(other, p) for other in known)} == {*kept}
    assert len(kept) + len(gone) == len(possible) > 150
    assert len(gone) > len(too_large) + 20


def test_a_large_sweep_is_planned_in_time(tmp_path: Path):
    """Nine thousand points that can be: seconds, and the progress adds up."""
    read = sweep(tmp_path, LEAST + """
        scope = "engine"
        engine = ["table", "select"]
        trits = { from = 20, to = 160, step = 20 }
        tile = { from = 64, to = 256, step = 16 }
        lanes = [1, 2]
        clock_mhz = { from = 60, to = 181, step = 6 }
    """)
    counts: list[int] = []
    begin = time.process_time()
    made = plan(read, exhaustive=False, seen=counts.append)
    assert time.process_time() - begin < 15
    assert sum(counts) == 2 * read.count + len(made.kept) + len(made.pruned)
    assert read.count > 8000


def test_fronts():
    points = [(1, 5), (2, 3), (2, 4), (3, 3), (4, 1), (5, 1)]
    chosen = front(points, lambda one: one)
    assert chosen == [(1, 5), (2, 3), (4, 1)]
    for point in points:
        assert (point in chosen) == (not any(dominates(other, point) for other in points))


def test_the_shipped_sweep_is_small():
    assert read_sweep(HERE / "engines.toml").count == 6
