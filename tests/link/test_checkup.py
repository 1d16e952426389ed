# SPDX-License-Identifier: Apache-2.0
"""The checks of a board: a clock that is right and one that is not, memory with every kind of fault."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.host.checkup import check_memory, measure_clock
from nomul.model.errors import NomulError
from nomul.model.protocol import EXTERNAL, Statistics


class Clockwork:
    """A board that counts at a rate of its own, behind a link with delays; and the time that passes."""

    def __init__(self, hz: float, delays: list[float], *, start: int = 0, lost: int = 0):
        self.hz, self.start, self.delays, self.lost = hz, start, delays, lost
        self.now, self.retries, self.asked = 0.0, 5, 0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def statistics(self) -> Statistics:
        there, back = self.delays[self.asked % len(self.delays)], self.delays[(self.asked + 1) % len(self.delays)]
        self.asked += 1
        self.now += there
        cycles = self.start + round(self.now * self.hz)
        self.now += back
        if self.lost:  # the answer to the first try
            self.lost -= 1
            self.retries += 1
            self.now += 0.5
        return Statistics(ok=0, crc=0, length=0, framing=0, stale=0, fault=0, cycles=cycles % (1 << 32))


def read(board: Clockwork, **options: float):
    return measure_clock(board, clock=board.clock, sleep=board.sleep, **options)


@settings(max_examples=50)
@given(
    st.floats(1e6, 3e8), st.lists(st.floats(1e-5, 0.02), min_size=1, max_size=5), st.integers(0, (1 << 32) - 1),
    st.floats(0.1, 10), st.integers(0, 3),
)  # fmt: skip
def test_the_clock_is_within_the_error_that_is_told(
    hz: float, delays: list[float], start: int, seconds: float, lost: int
):
    board = Clockwork(hz, delays, start=start, lost=lost)
    found = read(board, seconds=seconds)
    assert abs(found.hz - hz) <= found.error_hz + 2 / seconds + 1e-6 * hz
    assert found.error_hz <= found.hz * 0.04 / (found.seconds - 0.04) * 1.001
    assert found.seconds >= seconds
    assert board.retries == 5  # what was counted before


def test_two_seconds_and_a_millisecond_tell_a_thousandth():
    found = read(Clockwork(90e6, [0.0005]))
    assert found.error_hz / found.hz < 1e-3


@pytest.mark.parametrize("seconds", [0, -1, 11])
def test_refuses_other_times(seconds: float):
    with pytest.raises(ValueError, match=rf"^measure_clock: seconds is {seconds}; more than 0 and at most 10$"):
        read(Clockwork(1e6, [0.001]), seconds=seconds)


class Memory:
    """External memory behind a link, with a fault: what happens to an address, and to what is read."""

    def __init__(
        self, size: int, *, where: Callable[[int], int] = lambda at: at, what: Callable[[int, int], int] | None = None
    ):
        self.cells, self.where, self.what = bytearray(size), where, what

    def write(self, address: int, data: bytes) -> None:
        assert address & EXTERNAL
        for k, byte in enumerate(data):
            self.cells[self.where((address ^ EXTERNAL) + k)] = byte

    def read(self, address: int, count: int) -> bytes:
        at = address ^ EXTERNAL
        found = bytes(self.cells[self.where(at + k)] for k in range(count))
        return found if self.what is None else bytes(self.what(at + k, byte) for k, byte in enumerate(found))


def test_good_memory(rng: np.random.Generator):
    for size in (64, 4096, 1 << 20):
        seen: list[tuple[int, int]] = []
        tested = check_memory(Memory(size), size, rng=rng, progress=lambda *at, seen=seen: seen.append(at))
        assert tested >= size if size <= 4096 else tested > 100_000
        assert seen == [(k, 4) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize("line", range(6, 20))
def test_an_address_line_that_is_stuck(line: int, rng: np.random.Generator):
    for where in (lambda at: at & ~(1 << line), lambda at: at | 1 << line):
        with pytest.raises(NomulError, match=r"^memory: address 0x"):
            check_memory(Memory(1 << 20, where=where), 1 << 20, rng=rng)


@pytest.mark.parametrize("bit", range(16))
@pytest.mark.parametrize("stuck", [0, 1])
def test_a_data_line_that_is_stuck(bit: int, stuck: int, rng: np.random.Generator):
    def what(at: int, byte: int) -> int:
        mask = 1 << bit % 8
        return byte if at % 2 != bit // 8 else byte | mask if stuck else byte & ~mask

    with pytest.raises(NomulError) as found:
        check_memory(Memory(1 << 16, what=what), 1 << 16, rng=rng)
    assert re.search(rf"differ, in bits {1 << bit % 8:#04x} of a byte$", str(found.value))


def test_data_lines_that_are_swapped(rng: np.random.Generator):
    def what(at: int, byte: int) -> int:
        return byte & 0xFC | (byte & 1) << 1 | byte >> 1 & 1

    with pytest.raises(NomulError, match=r"in bits 0x03 of a byte$"):
        check_memory(Memory(1 << 16, what=what), 1 << 16, rng=rng)


def test_cells_that_forget(rng: np.random.Generator):
    class Forgetful(Memory):
        writes = 0

        def write(self, address: int, data: bytes) -> None:
            super().write(address, data)
            self.writes += 1
            if self.writes > 25:  # among the blocks: what was written first is gone
                self.cells[0] ^= 0x10

    with pytest.raises(NomulError, match=r"^memory: address 0x00000000 holds "):
        check_memory(Forgetful(1 << 20), 1 << 20, rng=rng)


def test_too_small_a_memory(rng: np.random.Generator):
    with pytest.raises(NomulError, match=r"^memory: 63 bytes; the test wants at least 64$"):
        check_memory(Memory(63), 63, rng=rng)
