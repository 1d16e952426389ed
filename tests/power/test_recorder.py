# SPDX-License-Identifier: Apache-2.0
"""Recording: meters that vanish, stall or talk nonsense, and clocks that jump."""

from __future__ import annotations

import threading
import time
from itertools import count, repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import Clock, Script

from nomul.host.power import Recorder, Unreadable, record
from nomul.host.power.meter import Counter
from nomul.model.errors import NomulError


def recorded(values: list[float | None], steps: list[float] | None = None, **more: object) -> Recorder:
    clock = Clock()
    recorder = Recorder(Script(values, **more), clock=clock)
    for step in steps or [0.1] * len(values):
        recorder.poll()
        clock.now += step
    return recorder


def test_samples_in_the_middle_of_a_reading():
    clock = Clock()

    class Slow(Script):
        def read(self) -> float:
            clock.now += 0.02
            return super().read()

    recorder = Recorder(Slow([1.0, 2.0]), clock=clock)
    recorder.poll()
    recorder.poll()
    assert recorder.trace().times == pytest.approx([1000.01, 1000.03])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "no answer"),
        (float("nan"), "a reading of nan"),
        (float("inf"), "a reading of inf"),
        (-0.5, "-0.5 W is outside its range"),
        (101.0, "101 W is outside its range of 0 to 100 W"),
    ],
)
def test_nonsense_is_a_gap(bad: float | None, said: str):
    trace = recorded([1.0, 1.0, bad, bad, 1.0, 1.0]).trace()
    assert trace.times == pytest.approx([1000, 1000.1, 1000.4, 1000.5])
    (gap,) = trace.gaps
    assert (gap.begin, gap.end) == pytest.approx((1000.1, 1000.4))
    assert said in gap.why
    assert trace.energy(1000, 1000.1) == pytest.approx(0.1)
    with pytest.raises(NomulError, match=r"no samples for 0.300 s"):
        trace.energy(1000, 1000.5)


def test_gaps_at_both_ends():
    trace = recorded([None, 1.0, 1.0, None]).trace()
    assert [gap.begin for gap in trace.gaps] == pytest.approx([1000, 1000.2])
    assert [gap.end for gap in trace.gaps] == pytest.approx([1000.1, np.inf])
    assert trace.energy(1000.1, 1000.2) == pytest.approx(0.1)


def test_a_meter_that_stalls():
    trace = recorded([1.0] * 4, [0.1, 0.1, 0.6, 0.1]).trace()
    (gap,) = trace.gaps
    assert "stalled for 0.600 s" in gap.why
    assert not recorded([1.0] * 4, [0.1, 0.1, 0.4, 0.1]).trace().gaps


def test_a_meter_that_vanishes():
    with pytest.raises(NomulError, match=r"no answer .nothing usable for 2"):
        recorded([1.0, 1.0, *repeat(None, 30)], [0.1] * 32)


def test_a_clock_that_stands_still():
    trace = recorded([1.0, 2.0, 3.0, 4.0], [0.0, 0.1, -0.05, 0.1]).trace()
    assert (np.diff(trace.times) > 0).all()
    assert "the clock stood still" in trace.gaps[0].why


def test_energy_that_falls():
    trace = recorded([0.0, 5.0, 3.0, 6.0], quantity="joules").trace()
    assert trace.values == pytest.approx([0, 5, 6])
    assert "its energy fell from 5 to 3 J" in trace.gaps[0].why


def test_energy_that_leaps():
    """What a counter says between two readings is held against the range, with a step of it to spare."""
    trace = recorded([0.0, 1.0, 1e9, 1e9, 2.0, 3.0], quantity="joules").trace()
    assert trace.values == pytest.approx([0, 1, 2, 3])
    assert "1e+09 J in 0.100 s is outside its range of 0 to 100 W" in trace.gaps[0].why
    assert len(recorded([0.0, 20.0, 20.0, 40.0], quantity="joules").trace().gaps) == 0  # 100 W, told every 0.2 s
    assert len(recorded([0.0, 20.5, 20.6, 21.0], quantity="joules").trace().gaps) == 1
    with pytest.raises(NomulError, match=r"outside its range.*nothing usable for 2"):
        recorded([0.0, 1.0, *repeat(1e9, 30)], [0.1] * 32, quantity="joules")


def test_watts_without_a_range():
    trace = recorded([1.0, 1.0, 1e300, 1.0], range_w=(0.0, float("inf"))).trace()
    assert "1e+300 W is outside its range" in trace.gaps[0].why


def test_nothing_at_all():
    with pytest.raises(NomulError, match=r"0 samples.*no answer"):
        recorded([None, None]).trace()


def test_the_thread():
    meter = Script(repeat(2.0), rate_hz=200.0)
    with record(meter) as recorder:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            begin = time.monotonic()
            time.sleep(0.02)
            if len(recorder._samples) > 10:
                break
    trace = recorder.trace()
    assert len(trace.times) > 10
    assert (trace.values == 2.0).all()
    assert trace.times[0] < begin
    assert not recorder._thread.is_alive()


@pytest.mark.parametrize("fault", [Unreadable("gone"), RuntimeError("a bug of a library")])
def test_the_thread_tells_what_ended_it(fault: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._PATIENCE_S", 0.0)
    calls = count()

    class Dying(Script):
        def read(self) -> float:
            if next(calls) > 2:
                raise fault
            return 1.0

    with record(Dying([], rate_hz=500.0)) as recorder:
        recorder._thread.join(20)
    with pytest.raises(NomulError, match=str(fault)):
        recorder.trace()


def test_a_reading_that_hangs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._JOIN_S", 0.05)
    release = threading.Event()

    class Hanging(Script):
        def read(self) -> float:
            release.wait(20)
            return 1.0

    with record(Hanging([])) as recorder:
        pass
    with pytest.raises(NomulError, match=r"does not answer"):
        recorder.trace()
    release.set()
    recorder._thread.join(20)


def test_a_full_record(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.host.power.recorder._MOST", 3)
    with pytest.raises(NomulError, match=r"the record is full"):
        recorded([1.0] * 5)


# Counters


@given(
    steps=st.lists(st.tuples(st.floats(0.001, 0.2), st.floats(0, 1)), min_size=1, max_size=60),
    wraps=st.floats(30, 1000),
    first=st.floats(0, 1),
)
def test_a_counter_that_wraps(steps: list[tuple[float, float]], wraps: float, first: float):
    """Whatever the power below its most and wherever it begins, nothing is lost at the overflow."""
    clock, most, total = Clock(), 100.0, 0.0
    counter = Counter(name="c", wraps=wraps, most_w=most, clock=clock)
    counter.update(first * wraps)
    for seconds, load in steps:
        clock.now += seconds
        total += seconds * load * most
        found = counter.update((first * wraps + total) % wraps)
        assert found == pytest.approx(total, rel=1e-9, abs=1e-6)


def test_a_counter_left_alone_or_reset():
    clock = Clock()
    counter = Counter(name="c", wraps=100.0, most_w=10.0, clock=clock)
    counter.update(50.0)
    clock.now += 11
    with pytest.raises(Unreadable, match=r"may have wrapped more than once"):
        counter.update(60.0)
    clock.now += 1
    assert counter.update(65.0) == pytest.approx(5)
    clock.now += 1
    with pytest.raises(Unreadable, match=r"the counter was reset"):
        counter.update(0.0)
    clock.now += 1
    assert counter.update(4.0) == pytest.approx(9)
    for raw in (-1.0, 101.0, float("nan")):
        with pytest.raises(Unreadable, match=r"it ends at 100 J"):
            counter.update(raw)
    clock.now += 1
    assert counter.update(10.0) == pytest.approx(15)
