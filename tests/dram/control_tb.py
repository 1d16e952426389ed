# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the controller's registers on the link's bus: operations, tickets, reads, and what does not answer."""

from __future__ import annotations

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.dram.control import ControlBridge
from nomul.model.dram_control import READY, REGISTERS, pack_operations
from nomul.model.protocol import EXTERNAL, Region
from nomul.sim.harness import Bench

BASE = Region.CONTROL.base
LIMIT_MS = 5


class Around:
    """A bridge between a host, registers on a Wishbone bus, and a core of which byte ``a`` reads as ``a ^ 0x5A``."""

    def __init__(self, dut, *, silent: int | None = None):
        self.bench = Bench(dut, ControlBridge())
        self.dut, self.rng, self.silent = dut, self.bench.rng, silent
        self.registers: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.core: list[tuple[int, int | None]] = []
        self.longest = 0

    async def start(self) -> None:
        await self.bench.start()
        cocotb.start_soon(self.wishbone())
        cocotb.start_soon(self.memory())

    async def access(self, address: int, byte: int | None = None) -> tuple[int, bool]:
        """A read, or a write of a byte; what was read, and whether it failed."""
        dut = self.dut
        strobe = dut.bus__read if byte is None else dut.bus__write
        await FallingEdge(dut.clk)
        dut.bus__address.value = address
        dut.bus__write_data.value = byte or 0
        strobe.value = 1
        await ReadOnly()
        assert not int(dut.bus__done.value), "done in the cycle of its strobe"
        await FallingEdge(dut.clk)
        strobe.value = 0
        waited = 1
        await ReadOnly()
        while not int(dut.bus__done.value):
            waited += 1
            assert waited < 600
            await FallingEdge(dut.clk)
            await ReadOnly()
        self.longest = max(self.longest, waited)
        return int(dut.bus__read_data.value), bool(int(dut.bus__error.value))

    async def send(self, operations: list[tuple[int, int]], ticket: int, *, count: int | None = None) -> list[bool]:
        """Writes operations, or only so many of their bytes; which of the bytes failed."""
        raw = pack_operations(operations, ticket)[:count]
        return [(await self.access(BASE + k, byte))[1] for k, byte in enumerate(raw)]

    async def read(self, address: int) -> int:
        found = [await self.access(address + k) for k in range(4)]
        assert not any(failed for _, failed in found)
        return int.from_bytes(bytes(byte for byte, _ in found), "little")

    async def wishbone(self) -> None:
        dut = self.dut
        while True:
            dut.control__ack.value = 0
            await FallingEdge(dut.clk)
            if not (int(dut.control__cyc.value) and int(dut.control__stb.value)):
                continue
            address = 4 * int(dut.control__adr.value)
            if address == self.silent:
                continue
            for _ in range(self.rng.randrange(4)):
                await FallingEdge(dut.clk)
            assert int(dut.control__sel.value) == 0xF
            if int(dut.control__we.value):
                self.registers[address] = int(dut.control__dat_w.value)
                self.writes.append((address, self.registers[address]))
            else:
                dut.control__dat_r.value = self.registers.get(address, 0)
            dut.control__ack.value = 1
            await FallingEdge(dut.clk)

    async def memory(self) -> None:
        dut = self.dut
        while True:
            dut.core__done.value = 0
            dut.core__error.value = 0
            await FallingEdge(dut.clk)
            if int(dut.core__read.value) or int(dut.core__write.value):
                address = int(dut.core__address.value)
                self.core.append((address, int(dut.core__write_data.value) if int(dut.core__write.value) else None))
                await FallingEdge(dut.clk)
                await FallingEdge(dut.clk)
                dut.core__read_data.value = address & 0xFF ^ 0x5A
                dut.core__error.value = int(address == 99)
                dut.core__done.value = 1
                await FallingEdge(dut.clk)


@cocotb.test(timeout_time=LIMIT_MS, timeout_unit="ms")
async def operations_in_order_and_registers_read_whole(dut) -> None:
    around = Around(dut)
    await around.start()
    operations = [(4 * k, 0x01020304 * k & 0xFFFFFFFF) for k in range(1, 20)]
    assert not any(await around.send(operations, 0))
    assert (await around.access(BASE))[0] == 19
    for register, word in operations:
        assert await around.read(BASE + REGISTERS + register) == word
    assert around.writes == operations
    assert not around.core


@cocotb.test(timeout_time=LIMIT_MS, timeout_unit="ms")
async def what_is_repeated_is_done_once(dut) -> None:
    around = Around(dut)
    await around.start()
    first, second = [(4, 1), (8, 2), (12, 3)], [(4, 4), (8, 5)]
    await around.send(first, 100)  # not the board's ticket: nothing is done
    assert not around.writes
    await around.send(first, 0)
    await around.send(first, 0)  # the host got no answer
    await around.send(first, 0, count=13)  # and a piece of it
    await around.send(second, 3)
    await around.send(second, 3)
    for round_ in range(256 // 5):  # over the ticket's end
        await around.send([(4 * k, round_) for k in range(5)], 5 + 5 * round_ & 0xFF)
    assert around.writes[:5] == [*first, *second]
    assert len(around.writes) == 5 + 5 * (256 // 5)


@cocotb.test(timeout_time=LIMIT_MS, timeout_unit="ms")
async def ready_is_the_hosts_to_say(dut) -> None:
    around = Around(dut)
    await around.start()
    assert not int(dut.ready.value)
    for ticket, up in enumerate((1, 0)):
        await around.send([(READY, up)], ticket)
        assert (await around.access(BASE + 1))[0] == up
        assert int(dut.ready.value) == up
    assert not around.writes


@cocotb.test(timeout_time=LIMIT_MS, timeout_unit="ms")
async def a_register_that_does_not_answer_is_an_error_and_holds_nothing_up(dut) -> None:
    around = Around(dut, silent=0x40)
    await around.start()
    failed = await around.send([(0x40, 1), (0x44, 2)], 0)
    assert [k for k, fail in enumerate(failed) if fail] == [7]
    assert (await around.access(BASE + REGISTERS + 0x40))[1]
    assert await around.read(BASE + REGISTERS + 0x44) == 2
    assert (await around.access(BASE + REGISTERS, 1))[1]  # registers are written by operations
    assert around.writes == [(0x44, 2)]
    assert around.longest <= 258


@cocotb.test(timeout_time=LIMIT_MS, timeout_unit="ms")
async def everything_else_is_the_cores(dut) -> None:
    around = Around(dut)
    await around.start()
    for address in (0, 77, Region.COUNTERS.base + 3, EXTERNAL | 5, EXTERNAL | BASE | 5):
        assert await around.access(address) == (address & 0xFF ^ 0x5A, False)
        assert (await around.access(address, 0x11))[1] is False
    assert (await around.access(99))[1]
    assert around.core[:2] == [(0, None), (0, 0x11)]
    assert len(around.core) == 11
    assert not around.writes
