# SPDX-License-Identifier: Apache-2.0
"""When the domains of a PLL are in reset, told by registers that are 1 a cycle after it; and what is asked then."""

from __future__ import annotations

import cocotb
from cocotb.clock import Clock
from cocotb.handle import HierarchyObject
from cocotb.triggers import ClockCycles, FallingEdge, Timer

from nomul.host.protocol import FrameDecoder, decode_response, encode_request
from nomul.model.protocol import Command, Identity, Status
from nomul.sim.harness import parameters

LOCK = 32  # edges of the input that the PLL's model takes to lock
AFTER = 5  # edges within which a domain is out of reset: two of the synchroniser, one of the register, and slack


async def _edges_until(dut: HierarchyObject, name: str, value: int, most: int) -> int:
    """Edges of the clock until an output has a value."""
    for edges in range(most + 1):
        if int(getattr(dut, name).value) == value:
            return edges
        await FallingEdge(dut.clk)
    raise AssertionError(f"{name} is not {value} after {most} edges")


def _begin(dut: HierarchyObject) -> Clock:
    clock = Clock(dut.clk, 40, "ns")
    clock.start(start_high=False)
    return clock


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="held" in parameters())
async def out_of_reset_after_lock_and_into_it_without(dut: HierarchyObject) -> None:
    dut.rx_pin.value = 1
    clock = _begin(dut)
    first = await _edges_until(dut, "ready", 1, LOCK + AFTER)
    assert first > LOCK, first
    assert int(dut.tx_pin.value) == 1
    for _ in range(2):
        await ClockCycles(dut.clk, 50)
        assert int(dut.ready.value) == 1
        clock.stop()  # the PLL loses its lock
        await Timer(1000, "ns")
        clock.start(start_high=False)
        assert await _edges_until(dut, "ready", 0, 3) <= 3
        again = await _edges_until(dut, "ready", 1, LOCK + AFTER)
        assert again > LOCK - 3, again


async def _send(dut: HierarchyObject, raw: bytes, bit: int) -> None:
    for byte in raw:
        for level in (0, *(byte >> k & 1 for k in range(8)), 1):
            dut.rx_pin.value = level
            await ClockCycles(dut.clk, bit)


async def _receive(dut: HierarchyObject, bit: int) -> int:
    """A byte from the board's pin."""
    while int(dut.tx_pin.value):
        await FallingEdge(dut.clk)
    await ClockCycles(dut.clk, bit + bit // 2)
    byte = 0
    for k in range(8):
        byte |= int(dut.tx_pin.value) << k
        await ClockCycles(dut.clk, bit)
    assert int(dut.tx_pin.value) == 1
    return byte


@cocotb.test(timeout_time=20, timeout_unit="ms", skip="held" in parameters())
async def it_answers_after_reset(dut: HierarchyObject) -> None:
    """Over the pins, through UART, link and back: who it is; nothing is left of what was asked before a reset."""
    bit, design = int(parameters()["bit"]), bytes.fromhex(str(parameters()["design"]))
    dut.rx_pin.value = 1
    clock = _begin(dut)
    for session in (7, 8):
        await _edges_until(dut, "ready", 1, LOCK + AFTER)
        await ClockCycles(dut.clk, 2 * bit)
        raw = encode_request(Command.OPEN, 1, session)
        sending = cocotb.start_soon(_send(dut, raw, bit))
        decoder, answers = FrameDecoder(), list[bytes]()
        while not answers:
            answers += decoder.feed(bytes([await _receive(dut, bit)]))
        await sending
        answer = decode_response(answers[0])
        assert answer is not None
        assert answer.status == Status.OK
        assert Identity.unpack(answer.results).design == design
        await _send(dut, raw[: len(raw) // 2], bit)  # the reset comes in mid-request
        clock.stop()
        await Timer(1000, "ns")
        clock.start(start_high=False)


@cocotb.test(timeout_time=1, timeout_unit="ms", skip="held" not in parameters())
async def the_second_domain_waits_for_its_supplies(dut: HierarchyObject) -> None:
    settling, starting = (int(parameters()[name]) for name in ("settling", "starting"))
    dut.button.value = 0
    _begin(dut)
    for _ in range(2):
        lock = await _edges_until(dut, "first", 1, LOCK + AFTER)
        assert lock > LOCK - 1, lock
        assert not int(dut.supply_on.value)
        assert abs(await _edges_until(dut, "supply_on", 1, settling + AFTER) - settling) <= 2
        assert not int(dut.second.value)
        assert abs(await _edges_until(dut, "good", 1, starting + AFTER) - starting) <= 1
        assert not int(dut.second.value)
        assert await _edges_until(dut, "second", 1, AFTER) >= 2
        await ClockCycles(dut.clk, 20)
        await FallingEdge(dut.clk)
        assert all(int(getattr(dut, name).value) for name in ("first", "second", "supply_on"))
        dut.button.value = 1
        await ClockCycles(dut.clk, 3)
        await FallingEdge(dut.clk)
        assert not any(int(getattr(dut, name).value) for name in ("first", "second", "supply_on"))
        dut.button.value = 0
