# SPDX-License-Identifier: Apache-2.0
"""Joules a token: gross, above idle, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import Script

from nomul.host.power import EnergyReport, Gap, Trace, measure, token_energies
from nomul.model.errors import NomulError

# Idles at 1 W for 10 s, ramps within 10 ms to 3 W for 10 s, then idles at 1.2 W.
TIMES = np.array([0.0, 10, 10.01, 20.01, 20.02, 30])
WATTS = np.array([1.0, 1, 3, 3, 1.2, 1.2])
TOKENS = [12.0, 14, 16, 18, 20]


def dense() -> Trace:
    times = np.unique(np.concatenate([TIMES, np.arange(0, 30, 0.1)]))
    return Trace(name="script", times=times, values=np.interp(times, TIMES, WATTS))


def run(trace: Trace | None = None, **more: object) -> EnergyReport:
    settings = {"begin": 10.01, "tokens": TOKENS, "idle_before": (1.0, 9.0), "idle_after": (21.0, 29.0)} | more
    meter = settings.pop("meter", Script([]))
    return measure(meter, trace or dense(), **settings)  # type: ignore[arg-type]


def test_gross_and_above_idle():
    found = run()
    assert found.joules == pytest.approx(3 * 9.99)
    assert found.joules_per_token == pytest.approx(3 * 9.99 / 5)
    assert found.tokens_per_joule == pytest.approx(5 / (3 * 9.99))
    assert found.mean_watts == pytest.approx(3)
    assert (found.idle_before_w, found.idle_after_w) == pytest.approx((1.0, 1.2))
    assert found.joules_per_token_above_idle == pytest.approx((3 - 1.1) * 9.99 / 5)
    assert found.above_idle_uncertainty == pytest.approx(0.1 * 9.99 / 5)
    assert found.samples == 101
    assert found.label == "measured"
    assert found.bounds_per_token is None


def test_for_json():
    gap = Gap(begin=29.5, end=np.inf, why="gone")
    meter = Script([], range_w=(0.0, np.inf))
    trace = dense()
    trace = Trace(name="script", times=trace.times, values=trace.values, gaps=(gap,))
    found = json.loads(json.dumps(run(trace, meter=meter).to_dict(), allow_nan=False))
    for name in ("joules_per_token", "joules_per_token_above_idle", "tokens_per_joule", "mean_watts", "idle_before_w"):
        assert found[name]["label"] == "measured"
    assert found["meter"]["range_w"] == [0, None]
    assert found["meter"]["gaps"] == [{"seconds": None, "why": "gone"}]
    assert found["meter"]["includes"] == "all"
    assert found["meter"]["rate_hz"] == 10


@pytest.mark.parametrize("label", ["constant", "modelled"])
def test_other_labels_have_no_idle(label: str):
    bounds = (2.0, 5.0) if label == "modelled" else None
    found = run(meter=Script([], label=label, bounds_w=bounds), idle_before=None, idle_after=None)
    assert found.label == label
    assert found.joules_per_token_above_idle is None
    shown = found.to_dict()
    assert shown["joules_per_token"]["label"] == label
    assert shown["joules_per_token_above_idle"] is None
    if bounds:
        assert shown["joules_per_token"]["low"] == pytest.approx(2 * 9.99 / 5)
        assert shown["tokens_per_joule"]["high"] == pytest.approx(5 / (2 * 9.99))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"idle_after": None}, "idle power is measured before and after"),
        ({"idle_before": None}, "idle power is measured before and after"),
        ({"idle_before": (1.0, 11.0)}, "a span of idling lies within the work"),
        ({"idle_after": (19.0, 29.0)}, "a span of idling lies within the work"),
        ({"idle_before": (-1.0, 9.0)}, "idle before the work: .*do not cover"),
        ({"idle_after": (29.0, 31.0)}, "idle after the work: .*do not cover"),
        ({"idle_before": (9.01, 9.02)}, "0 samples while idling before"),
        ({"idle_before": (9.0, 9.0)}, "longer than 0"),
        ({"tokens": []}, "no token times"),
        ({"tokens": [12.0, 11.0]}, "token 1 came at 11.000000 s, before what preceded it: the clock jumped"),
        ({"tokens": [9.0]}, "token 0 came at 9"),
        ({"tokens": [12.0, float("nan")]}, "token 1 came at nan"),
        ({"tokens": [12.0, 31.0], "idle_after": (31.0, 32.0)}, "do not cover"),
    ],
)
def test_what_is_refused(more: dict[str, object], said: str):
    with pytest.raises(NomulError, match=said):
        run(**more)


def test_a_gap_within_the_work():
    trace = dense()
    gap = Gap(begin=15.0, end=16.0, why="unplugged")
    with pytest.raises(NomulError, match=r"unplugged"):
        run(Trace(name="x", times=trace.times, values=trace.values, gaps=(gap,)))


def test_a_device_that_is_elsewhere():
    with pytest.raises(NomulError, match=r"is the device behind this meter"):
        run(Trace(name="x", times=np.array([0.0, 5, 15, 25, 28, 30]), values=np.zeros(6)), idle_before=(0.0, 9.0))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_tokens_add_up(shares: list[float]):
    stamps = [10.01 + 9.99 * share for share in sorted(shares)]
    if stamps[-1] <= 10.01:
        return
    each = token_energies(dense(), begin=10.01, tokens=stamps)
    assert len(each) == len(stamps)
    assert each.sum() == pytest.approx(3 * (stamps[-1] - 10.01), rel=1e-6, abs=1e-9)
