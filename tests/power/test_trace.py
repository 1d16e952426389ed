# SPDX-License-Identifier: Apache-2.0
"""Energy between two moments, against exact sums in fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.host.power import Gap, Trace
from nomul.model.errors import NomulError

MS = st.integers(1, 400)  # steps and powers are whole, so that fractions stay small
POINTS = st.lists(st.tuples(MS, st.integers(0, 5000)), min_size=2, max_size=30)


def exact(times: list[Fraction], watts: list[Fraction], begin: Fraction, end: Fraction) -> Fraction:
    """Integral of the polygon, piece by piece."""
    total = Fraction(0)
    for (t0, w0), (t1, w1) in pairwise(zip(times, watts, strict=True)):
        a, b = max(t0, begin), min(t1, end)
        if a < b:
            at = [w0 + (w1 - w0) * (t - t0) / (t1 - t0) for t in (a, b)]
            total += (at[0] + at[1]) / 2 * (b - a)
    return total


@given(points=POINTS, ends=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)))
def test_integral_of_a_polygon(points: list[tuple[int, int]], ends: tuple[int, int]):
    times = [Fraction(sum(step for step, _ in points[: k + 1]), 1000) for k in range(len(points))]
    watts = [Fraction(value, 100) for _, value in points]
    span = times[-1] - times[0]
    begin, end = sorted(times[0] + span * e / 10_000 for e in ends)
    if begin == end:
        return
    trace = Trace(name="x", times=np.array(times, float), values=np.array(watts, float))
    limits = np.clip([float(begin), float(end)], float(times[0]), float(times[-1]))
    assert trace.energy(*limits) == pytest.approx(float(exact(times, watts, begin, end)), rel=1e-9, abs=1e-9)


@given(points=POINTS, cuts=st.lists(st.floats(0, 1), max_size=6))
def test_parts_add_up_to_the_whole(points: list[tuple[int, int]], cuts: list[float]):
    times = np.cumsum([step for step, _ in points]) / 1000
    trace = Trace(name="x", times=times, values=np.array([w for _, w in points], float))
    at = np.unique([times[0], times[-1], *(times[0] + c * (times[-1] - times[0]) for c in cuts)])
    parts = [trace.energy(a, b) for a, b in pairwise(at)]
    assert sum(parts) == pytest.approx(trace.energy(times[0], times[-1]), rel=1e-9, abs=1e-9)
    assert all(part >= -1e-9 for part in parts)


def test_energy_is_not_power_times_time():
    """A ramp and a spike: the mean of a few samples would be wrong for both."""
    ramp = Trace(name="x", times=np.array([0.0, 10.0]), values=np.array([0.0, 10.0]))
    assert ramp.energy(0, 10) == 50
    assert ramp.energy(0, 5) == 12.5
    spike = Trace(name="x", times=np.array([0.0, 1.0, 1.1, 1.2, 10.0]), values=np.array([1.0, 1, 101, 1, 1]))
    assert spike.energy(0, 10) == pytest.approx(10 + 100 * 0.1)


def test_a_counter_runs_straight():
    trace = Trace(name="x", times=np.array([0.0, 1, 3]), values=np.array([7.0, 17, 17]), quantity="joules")
    assert trace.energy(0, 3) == 10
    assert trace.energy(0.25, 0.75) == pytest.approx(5)
    assert trace.energy(1, 3) == 0
    assert trace.mean_watts(0, 2) == 5


def test_what_samples_do_not_cover():
    trace = Trace(
        name="x", times=np.array([0.0, 1, 5, 6]), values=np.ones(4), gaps=(Gap(begin=1, end=5, why="it was gone"),)
    )
    assert trace.energy(0, 1) == 1
    assert trace.energy(5, 6) == 1
    for begin, end, said in [
        (-0.1, 1, "do not cover"),
        (5, 6.1, "do not cover"),
        (0.5, 1.5, "4.000 s within the interval .it was gone"),
        (2, 3, "it was gone"),
        (0, 6, "it was gone"),
        (1, 1, "longer than 0"),
        (3, 2, "longer than 0"),
        (0, float("nan"), "longer than 0"),
    ]:
        with pytest.raises(NomulError, match=said):
            trace.energy(begin, end)


def test_times_that_do_not_rise():
    for times in ([0.0, 2, 1], [0.0, 1, 1], [0.0, np.nan, 1]):
        with pytest.raises(NomulError, match=r"not after"):
            Trace(name="x", times=np.array(times), values=np.ones(3))
    with pytest.raises(NomulError, match=r"1 samples"):
        Trace(name="x", times=np.zeros(1), values=np.ones(1))
