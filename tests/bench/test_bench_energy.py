# SPDX-License-Identifier: Apache-2.0
"""Joules of a bench: under a meter, from a modelled power, and meters that make no sense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_cases import nomul, write_tiny

import nomul.host.bench.energy as energy_module
from nomul.host.bench.energy import metered, modelled_clock_hz, opened, steady
from nomul.host.bench.measure import Case, Sample, figures_of, timed
from nomul.host.bench.page import page
from nomul.host.bench.session import Settings, _measured, bench
from nomul.host.bench.verify import verify
from nomul.host.power import CsvLog, Recorder, Unreadable, kinds, open_meter
from nomul.host.power.meter import Reading, number
from nomul.host.power.modelled import ModelledMeter
from nomul.host.power.rapl import RaplMeter
from nomul.model.errors import NomulError


class Ramp(Reading):
    """Of a device whose power rises by a watt a second from 2 W on: what is integrated over it is known."""

    def __init__(self, quantity: str = "watts"):
        super().__init__(name="ramp", rate_hz=10, range_w=(0, 1000), includes="all", quantity=quantity)
        self.begin = time.monotonic()

    def watts(self, moment: float) -> float:
        return 2 + (moment - self.begin)

    def joules(self, first: float, last: float) -> float:
        return (self.watts(first) + self.watts(last)) / 2 * (last - first)

    def read(self) -> float:
        now = time.monotonic()
        return self.watts(now) if self.quantity == "watts" else self.joules(self.begin, now)


class Logger:
    """Writes the ramp's watts into a CSV file from a thread, some lines at once as a buffered one does."""

    def __init__(self, path: Path, meter: Ramp, *, block: int):
        self._path, self._meter, self._block = path, meter, block
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Logger:
        self._path.write_text("time,power_W\n")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        lines: list[str] = []
        while not self._stop.wait(0.1):
            lines.append(f"{time.time():.6f},{self._meter.read():.6f}\n")
            if len(lines) == self._block:
                with self._path.open("a") as file:
                    file.write("".join(lines))
                lines = []


CASE = Case(prompt=2, output=4, users=3)


def work() -> list[Sample]:
    def steps() -> Iterator[list[int]]:
        for _ in range(4):
            time.sleep(0.05)
            yield [1, 2, 3]

    return [timed(steps()) for _ in range(2)]


def right(energy: dict[str, Any], samples: list[Sample], ramp: Ramp) -> None:
    """Joules are those of the ramp, and what is above idle is gross less the mean of both idle powers."""
    before, after = (energy["idle"][side]["value"] for side in ("before", "after"))
    assert ramp.watts(ramp.begin) < before < ramp.watts(samples[0].begin)
    assert ramp.watts(samples[-1].stamps[-1]) < after < ramp.watts(time.monotonic())
    for part, tokens in (("request", 12), ("decode", 9)):
        begins = [s.begin if part == "request" else s.stamps[0] for s in samples]
        whole = [ramp.joules(b, s.stamps[-1]) for b, s in zip(begins, samples, strict=True)]
        assert [one[part] for one in energy["samples"]] == pytest.approx(whole, rel=0.02)
        figure = energy[part]["joules_per_token"]
        assert (figure["label"], figure["count"]) == ("measured", 2)
        assert (figure["least"], figure["most"]) == (
            pytest.approx(min(whole) / tokens, rel=0.02), pytest.approx(max(whole) / tokens, rel=0.02)
        )  # fmt: skip
        spans = [s.stamps[-1] - b for b, s in zip(begins, samples, strict=True)]
        above = energy[part]["joules_per_token_above_idle"]
        idle = (before + after) / 2
        over = [(energy["samples"][k][part] - idle * span) / tokens for k, span in enumerate(spans)]
        assert (above["least"], above["most"]) == (pytest.approx(min(over)), pytest.approx(max(over)))
        assert above["uncertainty"] == pytest.approx((after - before) / 2 * max(spans) / tokens)


@pytest.mark.parametrize("quantity", ["watts", "joules"])
def test_a_meter_around_requests(quantity: str):
    ramp = Ramp(quantity)
    samples, energy = metered(ramp, CASE, work, idle_s=0.5)
    right(energy, samples, ramp)
    meter = energy["meter"]
    assert (meter["name"], meter["includes"], meter["range_w"], meter["rate_hz"]) == ("ramp", "all", [0, 1000], 10)
    assert 4 < meter["reached_hz"] <= 10.5
    assert meter["samples"] >= 10


@pytest.mark.parametrize("block", [1, 6])
def test_a_log_that_is_written_meanwhile(tmp_path: Path, block: int):
    ramp, path = Ramp(), tmp_path / "log.csv"
    with Logger(path, ramp, block=block):
        samples, energy = metered(CsvLog(path), CASE, work, idle_s=0.5)
    right(energy, samples, ramp)
    assert 4 < energy["meter"]["rate_hz"] <= 10.5


def test_a_log_that_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._LOG_WAIT_S", 0.3)
    path = tmp_path / "log.csv"
    path.write_text("time,power\n")
    with pytest.raises(NomulError, match=r"no new line within 0.3 s, it has no line; is the logger running"):
        metered(CsvLog(path), CASE, work, idle_s=0.1)
    path.write_text(f"time,power\n{time.time() - 100},1\n{time.time() - 50},1\n")
    with pytest.raises(NomulError, match=r"its newest is 5\d\.\d s older than needed"):
        metered(CsvLog(path), CASE, work, idle_s=0.1)


def test_a_log_that_ends_in_mid_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._LOG_WAIT_S", 1.0)
    ramp, path = Ramp(), tmp_path / "log.csv"
    logger = Logger(path, ramp, block=1)

    def run() -> list[Sample]:
        logger.__exit__()
        return work()

    with logger, pytest.raises(NomulError, match=r"no new line within 1 s, its newest is"):
        metered(CsvLog(path), CASE, run, idle_s=0.1)


@pytest.mark.parametrize("word", [None, "a bug"])
def test_a_meter_that_says_nothing(word: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._PATIENCE_S", 0.2)
    monkeypatch.setattr("nomul.host.power.recorder._WAIT_S", 0.2)

    class Silent(Ramp):
        def read(self) -> float:
            if word:
                raise RuntimeError(word)
            raise Unreadable("ramp: no answer")

    with pytest.raises(NomulError, match=word or r"no answer"):
        metered(Silent(), CASE, work, idle_s=0.1)


WATTS = 30.0


def test_a_bench_under_rapl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The whole of it: kernel's files, recorder, both models on the CPU, page and check."""
    zone = tmp_path / "powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("max_energy_range_uj", "262143328850"), ("energy_uj", "0")):
        (zone / name).write_text(f"{text}\n")
    begin = time.monotonic()

    def counting(path: Path, *, what: str) -> float:  # a counter that moves as the kernel's does
        if path.name == "energy_uj":
            return float(int(WATTS * (time.monotonic() - begin) * 1e6))
        return number(path, what=what)

    monkeypatch.setattr("nomul.host.power.rapl.number", counting)
    monkeypatch.setattr(kinds, "RaplMeter", lambda: RaplMeter(root=tmp_path / "powercap"))
    monkeypatch.setattr(energy_module, "IDLE_S", 0.5)
    readings = [0.0]  # how long each took: its time stamp, in the middle, may be off by half of that
    poll = Recorder.poll

    def timed(recorder: Recorder) -> None:
        since = time.monotonic()
        poll(recorder)
        readings.append(time.monotonic() - since)

    monkeypatch.setattr(Recorder, "poll", timed)
    settings = Settings(
        model=str(write_tiny(tmp_path / "tiny")), board_too=False, clock_mhz=100, prompts=(3,), outputs=(5,),
        repeat=2, meters=("rapl",),
    )  # fmt: skip
    document = bench(settings)
    assert document["targets"][0]["key"] == "golden"
    off = WATTS * (1e-5 + max(readings))  # joules, of any interval between two moments
    for target in document["targets"]:
        (run,) = target["runs"]
        times = [(s["first_s"], s["last_s"]) for s in run["samples"]]
        for one, (first, last) in zip(run["energy"]["samples"], times, strict=True):
            assert one["request"] == pytest.approx(WATTS * last, rel=1e-3, abs=off)
            assert one["decode"] == pytest.approx(WATTS * (last - first), rel=1e-3, abs=off)
        for side in ("before", "after"):
            idle = run["energy"]["idle"][side]["value"]
            assert idle == pytest.approx(WATTS, rel=1e-3, abs=off / energy_module.IDLE_S)
        above = run["energy"]["decode"]["joules_per_token_above_idle"]
        decode_s = max(last - first for first, last in times)
        most = off * (1 + decode_s / energy_module.IDLE_S)
        assert abs(above["value"]) < 1e-3 * run["energy"]["decode"]["joules_per_token"]["value"] + most
        assert run["energy"]["meter"]["includes"].startswith("processor: package-0; not the board")
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(document))
    checks = verify(file)
    assert not [check for check in checks if check.outcome == "differs"]
    power = [check for check in checks if check.what.endswith(": power")]
    assert [check.outcome for check in power] == ["not re-run"] * len(document["targets"])
    text = page(document)
    assert text.count("includes: processor: package-0; not the board") == len(document["targets"])
    assert "idle: 30 W before, 30 W after, 500 ms each, measured" in text


@pytest.mark.parametrize("name", ["constant:2.5W", "modelled"])
def test_a_steady_power_of_a_real_board(tmp_path: Path, name: str):
    """Over its measured speed, with the error bar that it has; nothing idles for it."""

    class Fake:
        key, name, label, what = "board", "board", "measured", "a stand-in"

        def run(self, case: Case, prompts: Any) -> Sample:
            return Sample(first_s=0.5, last_s=2.5, tokens=[[1] * case.output])

    meter = report(tmp_path) if name == "modelled" else open_meter(name)
    begin = time.monotonic()
    found = _measured(Fake(), [Case(prompt=2, output=5)], Settings(repeat=2), 64, meter, lambda line: None)
    assert time.monotonic() - begin < energy_module.IDLE_S
    joules = found["runs"][0]["energy"]["decode"]["joules_per_token"]
    assert joules["label"] == meter.label
    assert joules["value"] == pytest.approx(meter.read() * 2.0 / 4)
    if meter.bounds_w is not None:
        assert (joules["low"], joules["high"]) == pytest.approx([watts * 2.0 / 4 for watts in meter.bounds_w])


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


REPORT: dict[str, Any] = {
    "part": "LFE5U-85F",
    "configuration": {"lanes": 1, "hidden": 8},
    "core": {"comb": 1000, "ff": 1000, "bram": 0, "multipliers": 0, "fmax_mhz": 107.8},
    "activity": {"rates": {"core": {"comb": 0.1, "ff": 0.1}}},
}


def report(path: Path, **changes: Any) -> ModelledMeter:
    file = path / "report.json"
    file.write_text(json.dumps({k: v for k, v in (REPORT | changes).items() if v is not None}))
    return ModelledMeter(file)


def test_the_clock_of_a_modelled_power(tmp_path: Path):
    here = {"lanes": 1, "hidden": 8}
    assert modelled_clock_hz(report(tmp_path), here) == pytest.approx(107.8e6)
    with pytest.raises(NomulError, match="is a report of another core: hidden differ"):
        modelled_clock_hz(report(tmp_path), here | {"hidden": 9})
    with pytest.raises(NomulError, match="is a report of another core: lanes differ"):
        modelled_clock_hz(report(tmp_path, configuration={"hidden": 8}), here)
    activity = REPORT["activity"] | {"clock_mhz": 75.0}
    assert modelled_clock_hz(report(tmp_path, activity=activity), here) == pytest.approx(75e6)
    with pytest.raises(NomulError, match="clock_mhz is 0; it must be above 0"):
        report(tmp_path, activity=activity | {"clock_mhz": 0})
    for configuration, said in ((None, "missing"), ("lanes", "no object"), ([1, 2], "no object"), (3, "no object")):
        with pytest.raises(NomulError, match=f"configuration is {said}: nobody knows which core's power it is"):
            modelled_clock_hz(report(tmp_path, configuration=configuration), here)


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
