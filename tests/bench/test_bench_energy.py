# SPDX-License-Identifier: Apache-2.0
"""Joules of a bench: under a meter, from a modelled power, and meters that make no sense."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_cases import nomul

import nomul.host.bench.energy as energy_module
from nomul.host.bench.energy import metered, modelled_clock_hz, opened, steady
from nomul.host.bench.measure import Case, Sample, figures_of, timed
from nomul.host.power import open_meter
from nomul.host.power.meter import Reading
from nomul.host.power.trace import Trace
from nomul.model.errors import NomulError


class _Recorder:
    """Of a device that takes 2 W, and 5 W while it works: samples without gaps, however slow the machine is."""

    def __init__(self, meter: Reading):
        self._meter = meter
        self.work: list[float] = []

    def __enter__(self) -> _Recorder:
        self._begin = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = time.monotonic()

    def trace(self) -> Trace:
        times = np.linspace(self._begin, self._end, 20_001)
        busy = (times >= self.work[0]) & (times <= self.work[1])
        return Trace(name=self._meter.name, times=times, values=np.where(busy, 5.0, 2.0), quantity="watts", gaps=())


def test_a_meter_around_requests(monkeypatch: pytest.MonkeyPatch):
    meter = Reading(name="fake", rate_hz=20, range_w=(0, 10), includes="nothing")
    recorder = _Recorder(meter)
    monkeypatch.setattr(energy_module, "record", lambda meter: recorder)
    case = Case(prompt=2, output=4, users=3)

    def run() -> list[Sample]:
        def steps() -> Iterator[list[int]]:
            for _ in range(4):
                time.sleep(0.05)
                yield [1, 2, 3]

        recorder.work.append(time.monotonic())
        samples = [timed(steps()) for _ in range(2)]
        recorder.work.append(time.monotonic())
        return samples

    samples, energy = metered(meter, case, run, idle_s=0.2)  # type: ignore[arg-type]
    for part, tokens in (("request", 12), ("decode", 9)):
        figure = energy[part]["joules_per_token"]
        spans = [s.last_s if part == "request" else s.last_s - s.first_s for s in samples]
        assert figure["label"] == "measured"
        assert figure["count"] == 2
        assert figure["least"] == pytest.approx(5 * min(spans) / tokens, rel=0.01)
        above = energy[part]["joules_per_token_above_idle"]
        assert above["least"] == pytest.approx(3 * min(spans) / tokens, rel=0.01)
        assert above["uncertainty"] == pytest.approx(0, abs=0.01 * above["value"])
    assert energy["meter"]["name"] == "fake"


def test_a_typed_power_over_a_simulated_speed():
    case = Case(prompt=10, output=11, users=2)
    rates = figures_of(case, [(0.5, 2.5)], "simulated")
    energy = steady(open_meter("constant:3W"), case, rates)
    assert energy["decode"]["joules_per_token"] == {"value": 0.3, "unit": "J", "label": "constant"}
    assert energy["request"]["joules_per_token"]["value"] == pytest.approx(3 * 2.5 / 22)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["nvml"], "no GPU is benched"),
        (["constant:1W", "constant:2W"], "there is one for the board already"),
        (["magic:1"], "no meter of kind"),
    ],
)
def test_meters_that_make_no_sense(names: list[str], part: str):
    with pytest.raises(NomulError, match=part):
        opened(names, simulated=True)


def test_a_simulated_board_takes_no_power(tmp_path: Path):
    log = tmp_path / "log.csv"
    log.write_text("time,power_W\n1,2\n2,2\n")
    with pytest.raises(NomulError, match="a simulated board takes no power; use modelled"):
        opened([f"csv:{log}"], simulated=True)
    opened([f"csv:{log}"], simulated=False)["board"].close()


def test_the_clock_of_a_modelled_power(tmp_path: Path):
    report: dict[str, Any] = {"configuration": {"lanes": 1, "hidden": 8}, "core": {"fmax_mhz": 107.8}}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))
    assert modelled_clock_hz(f"modelled:{file}", {"lanes": 1, "hidden": 8}) == pytest.approx(107.8e6)
    with pytest.raises(NomulError, match="is a report of another core: hidden differ"):
        modelled_clock_hz(f"modelled:{file}", {"lanes": 1, "hidden": 9})
    file.write_text(json.dumps({**report, "activity": {"clock_mhz": 75.0}}))
    assert modelled_clock_hz(f"modelled:{file}", {"lanes": 1, "hidden": 8}) == pytest.approx(75e6)


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        (["--prompts", "3,x"], 2, "'x' is no length"),
        (["--prompts", "0"], 2, "'0' is no length; it must be 1 to"),
        (["--outputs", "1"], 2, "'1' is no length; it must be 2 to"),
        (["--dram", "ecpix5-85f"], 2, "it is for the simulated board and weights from a native port"),
        (["--lanes", "2"], 1, "a whole core has one lane so far"),
        (["--board", "/dev/null/none", "--clock-mhz", "5"], 1, "a board tells its clock; leave it out"),
        (["--model", "/nowhere"], 1, "no such file"),
        (["--meter", "modelled:/nowhere.json"], 1, "no such file"),
    ],
)
def test_options_that_make_no_sense(options: list[str], status: int, part: str):
    shown = nomul("bench", *options)
    assert shown.status == status
    assert shown.out == ""
    assert part in shown.err
