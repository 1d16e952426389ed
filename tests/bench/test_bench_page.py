# SPDX-License-Identifier: Apache-2.0
"""The page of a bench: bounds of the roofline, joules with their meter, and a real browser that lays it out."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_cases import ink, looked_at
from serve.browser import Browser, chromium

from nomul.host.bench.derived import roofline
from nomul.host.bench.energy import energy_figures
from nomul.host.bench.figures import figure
from nomul.host.bench.measure import Case, figures_of
from nomul.host.bench.page import page
from nomul.host.bench.targets import described
from nomul.hw.dram.boards import BOARDS, ORANGECRAB

CHIP = {"lanes": 1, "bytes_per_beat": 36}
STREAMED = {"lanes": 4, "bytes_per_beat": 8, "port": "native", "word_bytes": 16}
METER = {"name": "hwmon ina226 (hwmon2)", "rate_hz": 20.0, "reached_hz": 19.62, "range_w": [0.0, 294.9],
         "includes": "all of the board's 5 V, USB cut", "samples": 1234, "gaps": []}  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium() is None:
        pytest.skip("no chromium on PATH (apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def metered(document: dict[str, Any], *, before: float, after: float, watts: float) -> dict[str, Any]:
    """The same with a meter behind every target."""
    made = copy.deepcopy(document)
    for target in made["targets"]:
        for run in target["runs"]:
            case = Case(prompt=run["prompt"], output=run["output"], users=run["users"])
            times = [(s["first_s"], s["last_s"]) for s in run["samples"]]
            idle = {"seconds": 2.0, "before": figure(before, "W", "measured"), "after": figure(after, "W", "measured")}
            joules = [{"decode": watts * (last - first), "request": watts * last} for first, last in times]
            run["energy"] = energy_figures(case, times, joules, idle, "measured") | {"meter": METER}
    return made


def crowded(document: dict[str, Any], rate: float) -> dict[str, Any]:
    """Three targets, users alone and sixteen at once, all as fast as one another; prompts one token apart."""
    made = copy.deepcopy(document)
    made["settings"]["lanes"] = 16
    made["targets"] = []
    pytorch = "PyTorch 2.13.0+cu124"
    names = {"board": "simulated board", "golden": "golden model", "torch": pytorch}
    for key, name in names.items():
        label = "simulated" if key == "board" else "measured"
        runs = []
        for users, prompt in itertools.product((1, 16), (64, 65, 66, 128)):
            case = Case(prompt=prompt, output=32, users=users)
            times = [(prompt / rate, (prompt + 31) / rate)] * 2
            runs.append(vars(case) | {"figures": figures_of(case, times, label), "tokens": [], "samples": [
                {"first_s": first, "last_s": last} for first, last in times]})  # fmt: skip
        _, _, what = described(key, label)
        made["targets"].append({"key": key, "name": name, "label": label, "what": what, "runs": runs})
    return made


def test_each_bandwidth_bounds_once():
    peaks = {board.peak for board in BOARDS.values()}
    assert len(peaks) < len(BOARDS)
    for configuration, memory, own in ((CHIP, None, None), (STREAMED, ORANGECRAB, ORANGECRAB.peak),
                                       (STREAMED, None, 1600e6)):  # fmt: skip
        bounds = roofline(configuration, memory, 100e6)["bounds"]
        kinds = [bound["kind"] for bound in bounds]
        assert kinds == ["own memory"] * (own is not None) + ["memory"] * (len(peaks - {own})) + ["engine"]
        values = [bound["weights_per_second"] for bound in bounds]
        assert set(values[:-1]) == {5 * peak for peak in peaks | ({own} if own else set())}
        assert len(set(values[:-1])) == len(values) - 1
        assert values[-1] == 5 * configuration["bytes_per_beat"] * 100e6
        told = " ".join(bound["what"] for bound in bounds if bound["kind"] == "memory")
        for name, board in BOARDS.items():
            assert (f" {name}," in told) == (board.peak != own)


def test_each_bound_has_a_style_of_its_own(document: dict[str, Any]):
    text = page(document)
    drawn = re.findall(r'class="bound ([a-z0-9-]+)"', text)
    assert len(drawn) == len(set(drawn)) >= 3
    colours = {style: re.findall(rf"--{style}: (#[0-9a-f]+)", text) for style in drawn}
    for light_and_dark in zip(*colours.values(), strict=True):
        assert len(set(light_and_dark)) == len(drawn)
    for style in drawn:
        assert f"svg .bound.{style}, svg .leader.{style} {{ stroke: var(--{style}); }}" in text


def test_a_headline_without_a_board(document: dict[str, Any]):
    text = page(document)
    assert "no board" not in text.replace("no board was there", "")
    assert "ternary weights, lm_head included, on this machine’s CPU: " in text
    assert "No board was benched." in text
    assert "lm_head included, on the simulated board: " in page(crowded(document, 100.0))


def test_the_meter_is_told(document: dict[str, Any]):
    text = page(metered(document, before=2.0, after=2.5, watts=5.0))
    for part in ("hwmon ina226 (hwmon2)", "asked at 20 Hz, 19.6 Hz came; 1,234 samples", "range: 0 W to 295 W",
                 "includes: all of the board&#x27;s 5 V, USB cut", "idle: 2 W before, 2.5 W after, 2 s each, measured",
                 ">2 W, 2.5 W</td>"):  # fmt: skip
        assert part in text
    run = metered(document, before=2.0, after=2.5, watts=5.0)["targets"][0]["runs"][0]["energy"]["decode"]
    above = run["joules_per_token_above_idle"]
    assert above["uncertainty"] == pytest.approx(above["most"] / 2.75 * 0.25)
    assert re.search(r"class=\"whisker golden\"", text)


def test_above_idle_that_is_nothing_is_told(document: dict[str, Any]):
    text = page(metered(document, before=5.0, after=5.2, watts=5.0))
    joules = r"-[\d.]+ .?J ± [\d.]+ .?J"
    assert re.search(rf"Not drawn, for the axis has no place for it: golden model, above idle, {joules}, meas", text)
    assert "Not drawn" not in page(metered(document, before=2.0, after=2.5, watts=5.0))


def test_the_terminal_tells_the_meter(document: dict[str, Any], capsys: pytest.CaptureFixture[str]):
    from nomul.host.cli.benching import _show

    _show(metered(document, before=2.0, after=2.5, watts=5.0))
    shown = capsys.readouterr().out
    for part in ("hwmon ina226 (hwmon2)", "asked at 20 Hz, 19.6 Hz came; 1,234 samples", "0 W to 295 W",
                 "all of the board's 5 V, USB cut", "2 W before, 2.5 W after, 2 s each, measured",
                 "idle before"):  # fmt: skip
        assert part in shown
    assert re.search(r"golden model +measured +2\+4 +[\d.]+ .?J +[\d.]+ .?J ± [\d.]+ .?J +2 W +2.5 W", shown)
    assert "…" not in shown


@pytest.mark.parametrize("case", ["as it is", "metered", "idle above work", "crowded", "slow", "fast"])
def test_texts_in_a_browser(browser: Browser, tmp_path: Path, document: dict[str, Any], case: str):
    if case == "metered":
        document = metered(document, before=2.0, after=2.5, watts=5.0)
    elif case == "idle above work":
        document = metered(document, before=1.0, after=8.9, watts=5.0)
    elif case in ("crowded", "slow", "fast"):
        document = crowded(document, {"crowded": 400.0, "slow": 1e-3, "fast": 3e6}[case])
    for width in (1100, 500):
        plots = looked_at(browser, tmp_path, document, width=width)
    assert len(plots) == 4
    for scheme in ("light", "dark"):
        browser.look(width=1000, height=1400, scheme=scheme)
        assert 0.02 < ink(browser, 1000, 1400) < 0.9


def test_on_paper(browser: Browser, tmp_path: Path, document: dict[str, Any]):
    looked_at(browser, tmp_path, metered(document, before=2.0, after=2.5, watts=5.0))
    browser.look(width=794, height=1123, media="print")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    cut = "[...document.querySelectorAll('.table, .scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert browser.value(cut) == 0
    browser.look(width=1000, height=1123)
    assert browser.value(cut) == 0
    browser.look(width=794, height=1123, media="print")
    assert 0.02 < ink(browser, 794, 1123) < 0.9
