# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The serial transceiver: against a line made bit by bit, with both ends' clocks apart, and against itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from nomul.hw.link.uart import Uart, uart_rate
from nomul.model.errors import NomulError

BYTES = bytes([0x00, 0xFF, 0x55, 0xAA, 0xC0, 0x01, 0x80])


def line(data: bytes, divisor: float, *, stop: int = 1, gap: float = 0.0) -> list[int]:
    """Levels of a wire in each cycle, sent by a clock of its own: a bit lasts ``divisor`` cycles."""
    bits = [1, 1]
    for byte in data:
        bits += [0, *(byte >> k & 1 for k in range(8)), stop] + [1] * (not stop)
    levels, at = [], 0.0
    for k, bit in enumerate(bits):
        at += divisor + gap * (k % 10 == 1)
        levels += [bit] * (round(at) - len(levels))
    return levels + [1] * round(2 * divisor)


def received(divisor: int, levels: list[int], *, ready: float = 1.0, seed: int = 0) -> bytes:
    """What a receiver with this divisor takes from a wire."""
    uart, rng, found = Uart(divisor=divisor), np.random.default_rng(seed), bytearray()

    async def run(ctx) -> None:
        for level in levels:
            ctx.set(uart.rx_pin, level)
            take = bool(rng.random() < ready)
            ctx.set(uart.rx.ready, take)
            if take and ctx.get(uart.rx.valid):
                found.append(ctx.get(uart.rx.payload))
            await ctx.tick()

    simulator = Simulator(uart)
    simulator.add_clock(1e-8)
    simulator.add_testbench(run)
    simulator.run()
    return bytes(found)


@pytest.mark.parametrize("divisor", [8, 9, 25, 30])
@pytest.mark.parametrize("off", [-0.03, 0.0, 0.03])
def test_takes_a_line_whose_clock_is_off(divisor: int, off: float):
    assert received(divisor, line(BYTES, divisor * (1 + off))) == BYTES


def test_takes_bytes_with_pauses_at_leisure():
    assert received(8, line(BYTES, 8, gap=37.0), ready=0.05, seed=3) == BYTES


def test_a_wrong_stop_bit_costs_that_byte_alone():
    levels = line(b"\x12", 8) + line(b"\x00", 8, stop=0) + line(b"\x34", 8)
    assert received(8, levels) == b"\x12\x34"


def test_a_spike_is_no_byte():
    assert received(16, [1] * 20 + [0] * 5 + [1] * 200) == b""


def test_a_byte_that_nobody_takes_stays_and_the_next_is_lost():
    uart, seen = Uart(divisor=8), []

    async def run(ctx) -> None:
        for level in line(b"\x12\x34", 8):
            ctx.set(uart.rx_pin, level)
            if ctx.get(uart.rx.valid):
                seen.append(ctx.get(uart.rx.payload))
            await ctx.tick()

    simulator = Simulator(uart)
    simulator.add_clock(1e-8)
    simulator.add_testbench(run)
    simulator.run()
    assert set(seen) == {0x12}
    assert ends_valid(seen)


def ends_valid(seen: list[int]) -> bool:
    """It was offered for longer than the second byte took."""
    return len(seen) > 10 * 8


def test_sends_at_the_stated_pace():
    """Looped back: all bytes arrive, one every ``10 · divisor + 1`` cycles."""
    divisor = 8
    m, uart = Module(), Uart(divisor=divisor)
    m.submodules.uart = uart
    m.d.comb += uart.rx_pin.eq(uart.tx_pin)
    found, at = bytearray(), []

    async def send(ctx) -> None:
        for byte in BYTES:
            ctx.set(uart.tx.payload, byte)
            ctx.set(uart.tx.valid, 1)
            await ctx.tick().until(uart.tx.ready)
        ctx.set(uart.tx.valid, 0)

    async def take(ctx) -> None:
        ctx.set(uart.rx.ready, 1)
        for cycle in range((10 * divisor + 1) * (len(BYTES) + 1)):
            if ctx.get(uart.rx.valid):
                found.append(ctx.get(uart.rx.payload))
                at.append(cycle)
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-8)
    simulator.add_testbench(send)
    simulator.add_testbench(take)
    simulator.run()
    assert bytes(found) == BYTES
    assert set(np.diff(at)) == {10 * divisor + 1}


def test_refuses_a_divisor_that_is_too_small():
    with pytest.raises(ValueError, match=r"^Uart: divisor is 7; at least 8 cycles a bit$"):
        Uart(divisor=7)


@pytest.mark.parametrize(
    ("clock", "base", "rate"),
    [
        (90_000_000, 3_000_000, 3_000_000),
        (75_000_000, 12_000_000, 3_000_000),
        (100_000_000, 3_000_000, 2_000_000),
        (96_000_000, 12_000_000, 12_000_000),
        (62_500_000, 3_000_000, 1_000_000 // 2),
        (48_000_000, 12_000_000, 6_000_000),
    ],
)
def test_rates(clock: int, base: int, rate: int):
    assert uart_rate(clock, base) == rate


@given(st.integers(10**6, 4 * 10**8), st.sampled_from([3_000_000, 12_000_000]))
def test_a_rate_divides_the_clock_and_is_one_of_the_bridge(clock: int, base: int):
    try:
        rate = uart_rate(clock, base)
    except NomulError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert re.fullmatch(r"UART: no rate of a bridge with \d+ MHz divides .*: take another clock", refused)
        return
    assert clock % rate == 0
    assert clock // rate >= 8
    eighths = 8 * base / rate
    assert eighths == int(eighths)
    assert eighths in (8, 12) or 16 <= eighths < 8 * 16385
