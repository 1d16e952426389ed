# SPDX-License-Identifier: Apache-2.0
"""Power for who watches: the latest reading, and none when the meter is away."""

from __future__ import annotations

import time

import pytest

from nomul.host.power import Live, Unreadable
from nomul.host.power.meter import Reading


class Told(Reading):
    """Gives what it was told, one after the other."""

    def __init__(self, *values: float | None, quantity: str = "watts"):
        super().__init__(name="told", rate_hz=1000.0, range_w=(0.0, 50.0), includes="nothing", quantity=quantity)
        self.values = [*values]

    def read(self) -> float:
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        if value is None:
            raise Unreadable("told: it is away")
        return value


class Clock:
    """Shows what it was set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("nonsense", [None, float("nan"), -1.0, 51.0])
def test_the_latest_good_reading_for_two_seconds(nonsense: float | None):
    clock = Clock()
    live = Live(Told(3.5, nonsense, 4.0), clock=clock)
    assert live.watts() is None
    live.poll()
    clock.now += 1.9
    live.poll()
    assert live.watts() == 3.5
    clock.now += 0.2
    assert live.watts() is None
    live.poll()
    assert live.watts() == 4.0


def test_an_energy_counter():
    clock = Clock()
    live = Live(Told(10.0, 16.0, None, 20.0, 21.0, quantity="joules"), clock=clock)
    seen = []
    for _ in range(5):
        live.poll()
        seen.append(live.watts())
        clock.now += 1.5
    assert seen == [None, 4.0, 4.0, None, pytest.approx(1 / 1.5)]


def test_it_runs_in_the_background():
    with Live(Told(7.0)) as live:
        end = time.monotonic() + 20
        while live.watts() is None:
            assert time.monotonic() < end
            time.sleep(0.01)
        assert live.watts() == 7.0


def test_what_a_library_raises_does_not_end_it():
    class Broken(Told):
        def read(self) -> float:
            self.reads = getattr(self, "reads", 0) + 1
            if self.reads == 1:
                raise OSError("a driver's own words")
            return super().read()

    with Live(Broken(7.0)) as live:
        end = time.monotonic() + 10
        while live.watts() is None and time.monotonic() < end:
            time.sleep(0.01)
        assert live.watts() == 7.0
