# SPDX-License-Identifier: Apache-2.0
"""CSV of any logger: its columns, its times, and what is wrong with it, by line."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import Clock

from nomul.host.power import CsvLog, LogRecorder
from nomul.model.errors import NomulError

T = 1_750_000_000


def log(tmp_path: Path, text: str) -> CsvLog:
    path = tmp_path / "log.csv"
    path.write_text(text)
    return CsvLog(path)


def lines(head: str, *rows: str) -> str:
    return "\n".join([head, *rows]) + "\n"


@pytest.mark.parametrize(
    ("head", "row"),
    [
        ("time,power", "{t},2.5"),
        ("timestamp,power_mW", "{t},2500"),
        ("Time (s);Power (W)", "{t};2,5"),
        ("t\tW", "{t}\t2.5"),
        ("time,watts,comment", "{t},2.5,x"),
        ("time_ms,voltage,current_mA", "{ms},5.0,500"),
        ("time,Current [A],Voltage [mV]", "{ms},0.5,5000"),
        ("unix,I_mA,V,power_uW", "{t},1,1,2500000"),
        ("datetime,power", "{iso},2.5"),
    ],
)
def test_columns(tmp_path: Path, head: str, row: str):
    rows = []
    for k in range(4):
        t = T + k * 0.5
        iso = datetime.fromtimestamp(t, UTC).isoformat()
        rows.append(row.format(t=t, ms=int(t * 1000), iso=iso))
    trace = log(tmp_path, lines(head, *rows)).trace(offset=T)
    assert trace.times == pytest.approx([0, 0.5, 1, 1.5])
    assert trace.values == pytest.approx([2.5] * 4)
    assert trace.energy(0, 1.5) == pytest.approx(3.75)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lines("time,power", f"{T},1", f"{T + 2},1", f"{T + 1},1"), "line 4: its time is 1 s before that of line 3"),
        (lines("time,power", f"{T},1", f"{T},1"), "line 3: its time is the same as that of line 2"),
        (lines("time,power", f"{T},1", f"{T + 1},nan"), "line 3: power 'nan'; it must be a number"),
        (lines("time,power", f"{T},1", f"{T + 1},-2"), "line 3: power '-2'"),
        (lines("time,power", f"{T},1", f"{T + 1},OL"), "line 3: power 'OL'"),
        (lines("time,power", f"{T},1", f"{T + 1}"), "line 3: 1 fields"),
        (lines("time,power", f"{T},1", "noon,1"), "line 3: time 'noon' is neither"),
        (lines("time,power", "0.1,1", "0.2,1"), "line 2: time '0.1' does not count from 1970"),
        (lines("time,power", "1e300,1"), "line 2: time '1e300' does not count from 1970"),
        (lines("time,power", f"{T},1", f"{T + 1},1_0"), "line 3: power '1_0'; it must be a number"),
        (lines("time,power", f"{T},1", f"{T // 10}_{T % 10},1"), "line 3: time '.*' is neither"),
        (lines("time,volts,amps", f"{T},1e300,1e300"), "line 2: inf W; no more than 1e.09 W can be right"),
        (lines("time,volts,amps", f"{T},1e300,1e5"), "line 2: 1e.305 W; no more than"),
        (lines("time," + "x" * 140_000, f"{T},1"), "line 1: field larger than field limit"),
        (lines("clock,power", f"{T},1"), "line 1: no column is called time"),
        (lines("time,voltage", f"{T},1"), "line 1: there must be a column power"),
        (lines("time,power", f"{T},1"), "1 samples"),
        ("", "line 1: no column"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, said: str):
    with pytest.raises(NomulError, match=said):
        log(tmp_path, text).trace()


def test_bad_files(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no such file"):
        CsvLog(tmp_path / "log.csv")
    with pytest.raises(NomulError, match=r"no such file"):
        CsvLog(tmp_path)
    found = log(tmp_path, "")
    found.path.write_bytes(b"\xff\xfe\x01")
    with pytest.raises(NomulError, match=r"not UTF-8"):
        found.trace()
    found.path.unlink()
    with pytest.raises(NomulError, match=r"the file is gone"):
        found.trace()


def test_the_newest_line(tmp_path: Path):
    found = log(tmp_path, "")
    for text, newest in (
        ("", None), ("time,power", None), ("time,power\n", None), (f"time,power\n{T},", None),
        (f"time,power\n{T},1\n", T),
        (f"power_W;t\n1,5;{T}\n2,5;{T + 3}\n9;{T + 4}", T + 3), (f"time,power\n{T + 1},1\n# end\n\n", T + 1),
        ("time,power\n" + "".join(f"{T + k},{k}.123456789\n" for k in range(5000)), T + 4999),
    ):  # fmt: skip
        found.path.write_text(text)
        assert found.latest() == newest
    for text, said in (
        ("clock,power\n", "no column is called time"), ("time,power\nnoon,1\n", "'noon' is neither"),
        ("power,time\n1\n", "last line: 1 fields"), (f"time,{'x' * 140_000}\n{T},1\n", "field limit"),
    ):  # fmt: skip
        found.path.write_text(text)
        with pytest.raises(NomulError, match=said):
            found.latest()
    found.path.unlink()
    with pytest.raises(NomulError, match="the file is gone"):
        found.latest()


def test_a_hole_is_a_gap_with_its_lines(tmp_path: Path):
    times = [0, 1, 2, 3, 13, 14, 15]
    found = log(tmp_path, lines("time,power", *(f"{T + t},1" for t in times)))
    trace = found.trace(offset=T)
    assert found.rate_hz == 1
    assert trace.energy(0, 3) == 3
    with pytest.raises(NomulError, match=r"10.000 s pass between lines 5 and 6"):
        trace.energy(0, 14)


def test_a_line_that_is_still_written(tmp_path: Path):
    trace = log(tmp_path, lines("time,power", f"{T},1", f"{T + 1},1") + f"{T + 2},1").trace(offset=T)
    assert len(trace.times) == 2


@given(steps=st.lists(st.integers(-3, 5), min_size=2, max_size=20))
def test_every_jump_is_found(tmp_path_factory: pytest.TempPathFactory, steps: list[int]):
    times = [T + sum(steps[: k + 1]) for k in range(len(steps))]
    found = log(tmp_path_factory.mktemp("csv"), lines("time,power", *(f"{t},1" for t in times)))
    if all(step > 0 for step in steps[1:]):
        assert found.trace().energy(times[0], times[-1]) == pytest.approx(times[-1] - times[0])
    else:
        first = next(k for k, step in enumerate(steps) if k and step <= 0)
        with pytest.raises(NomulError, match=f"line {first + 2}: its time is"):
            found.trace()


def test_wall_clock_onto_the_tokens_clock(tmp_path: Path):
    found = log(tmp_path, lines("time,power", *(f"{T + k},{k}" for k in range(11))))
    clock, wall = Clock(500.0), Clock(T)
    with LogRecorder(found, clock=clock, wall=wall) as recorder:
        clock.now += 10
        wall.now += 10.01  # NTP turns it a little
    trace = recorder.trace()
    assert trace.times[0] == pytest.approx(500, abs=0.006)
    assert trace.energy(502, 504) == pytest.approx(6, abs=0.02)
    for jump in (-3600, -0.2, 0.2, 3600):
        with LogRecorder(found, clock=clock, wall=wall) as recorder:
            clock.now += 10
            wall.now += 10 + jump
        with pytest.raises(NomulError, match=r"the wall clock jumped by"):
            recorder.trace()
