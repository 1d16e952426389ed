# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The controller's registers on the link's bus: operations, tickets, reads, and what does not answer."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from nomul.hw.dram.control import ControlBridge
from nomul.model.dram_control import READY, REGISTERS, pack_operations
from nomul.model.protocol import EXTERNAL, Region

BASE = Region.CONTROL.base


class Bench:
    """A bridge between a host, registers on a Wishbone bus, and a core of which byte ``a`` reads as ``a ^ 0x5A``."""

    def __init__(self, rng: np.random.Generator):
        self.bridge = ControlBridge()
        self.rng = rng
        self.registers: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.silent: set[int] = set()
        self.core: list[tuple[int, int | None]] = []
        self.longest = 0

    async def access(self, ctx, address: int, byte: int | None = None) -> tuple[int, bool]:
        """A read, or a write of a byte; what was read, and whether it failed."""
        bus = self.bridge.bus
        ctx.set(bus.address, address)
        ctx.set(bus.write_data, byte or 0)
        ctx.set(bus.read if byte is None else bus.write, 1)
        _, _, done = await ctx.tick().sample(bus.done)
        ctx.set(bus.read, 0)
        ctx.set(bus.write, 0)
        waited = 0
        while not done:
            *_, done, data, error = await ctx.tick().sample(bus.done, bus.read_data, bus.error)
            waited += 1
            assert waited < 600
        assert waited, "done in the cycle of its strobe"
        self.longest = max(self.longest, waited)
        return data, bool(error)

    async def send(
        self, ctx, operations: list[tuple[int, int]], ticket: int, *, count: int | None = None
    ) -> list[bool]:
        """Writes operations, or only so many of their bytes; which of the bytes failed."""
        raw = pack_operations(operations, ticket)[:count]
        return [(await self.access(ctx, BASE + k, byte))[1] for k, byte in enumerate(raw)]

    async def read(self, ctx, address: int) -> int:
        found = [await self.access(ctx, address + k) for k in range(4)]
        assert not any(failed for _, failed in found)
        return int.from_bytes(bytes(byte for byte, _ in found), "little")

    async def wishbone(self, ctx) -> None:
        control = self.bridge.control
        while True:
            ctx.set(control.ack, 0)
            if ctx.get(control.cyc & control.stb):
                address = 4 * ctx.get(control.adr)
                if address in self.silent:
                    await ctx.tick()
                    continue
                for _ in range(self.rng.integers(0, 4)):
                    await ctx.tick()
                assert ctx.get(control.sel) == 0xF
                if ctx.get(control.we):
                    self.registers[address] = ctx.get(control.dat_w)
                    self.writes.append((address, ctx.get(control.dat_w)))
                else:
                    ctx.set(control.dat_r, self.registers.get(address, 0))
                ctx.set(control.ack, 1)
                await ctx.tick()
                ctx.set(control.ack, 0)
            await ctx.tick()

    async def memory(self, ctx) -> None:
        core = self.bridge.core
        while True:
            ctx.set(core.done, 0)
            ctx.set(core.error, 0)
            if ctx.get(core.read | core.write):
                address = ctx.get(core.address)
                self.core.append((address, ctx.get(core.write_data) if ctx.get(core.write) else None))
                await ctx.tick()
                await ctx.tick()
                ctx.set(core.read_data, address & 0xFF ^ 0x5A)
                ctx.set(core.error, address == 99)
                ctx.set(core.done, 1)
            await ctx.tick()

    def run(self, process) -> None:
        m = Module()
        m.submodules.bridge = self.bridge
        simulator = Simulator(m)
        simulator.add_clock(1e-8)
        simulator.add_testbench(self.wishbone, background=True)
        simulator.add_testbench(self.memory, background=True)
        simulator.add_testbench(process)
        simulator.run()


@pytest.fixture
def bench(rng: np.random.Generator) -> Bench:
    return Bench(rng)


def test_operations_in_order_and_registers_read_whole(bench: Bench):
    operations = [(4 * k, 0x01020304 * k & 0xFFFFFFFF) for k in range(1, 20)]

    async def process(ctx) -> None:
        assert not any(await bench.send(ctx, operations, 0))
        assert (await bench.access(ctx, BASE))[0] == 19
        for register, word in operations:
            assert await bench.read(ctx, BASE + REGISTERS + register) == word

    bench.run(process)
    assert bench.writes == operations
    assert not bench.core


def test_what_is_repeated_is_done_once(bench: Bench):
    first, second = [(4, 1), (8, 2), (12, 3)], [(4, 4), (8, 5)]

    async def process(ctx) -> None:
        await bench.send(ctx, first, 100)  # not the board's ticket: nothing is done
        assert not bench.writes
        await bench.send(ctx, first, 0)
        await bench.send(ctx, first, 0)  # the host got no answer
        await bench.send(ctx, first, 0, count=13)  # and a piece of it
        await bench.send(ctx, second, 3)
        await bench.send(ctx, second, 3)
        for round_ in range(256 // 5):  # over the ticket's end
            await bench.send(ctx, [(4 * k, round_) for k in range(5)], 5 + 5 * round_ & 0xFF)

    bench.run(process)
    assert bench.writes[:5] == [*first, *second]
    assert len(bench.writes) == 5 + 5 * (256 // 5)


def test_ready_is_the_hosts_to_say(bench: Bench):
    async def process(ctx) -> None:
        assert not ctx.get(bench.bridge.ready)
        await bench.send(ctx, [(READY, 1)], 0)
        assert ctx.get(bench.bridge.ready)
        assert (await bench.access(ctx, BASE + 1))[0] == 1
        await bench.send(ctx, [(READY, 0)], 1)
        assert not ctx.get(bench.bridge.ready)
        assert (await bench.access(ctx, BASE + 1))[0] == 0

    bench.run(process)
    assert not bench.writes


def test_a_register_that_does_not_answer_is_an_error_and_holds_nothing_up(bench: Bench):
    bench.silent = {0x40}

    async def process(ctx) -> None:
        failed = await bench.send(ctx, [(0x40, 1), (0x44, 2)], 0)
        assert [k for k, fail in enumerate(failed) if fail] == [7]
        assert (await bench.access(ctx, BASE + REGISTERS + 0x40))[1]
        assert await bench.read(ctx, BASE + REGISTERS + 0x44) == 2
        assert (await bench.access(ctx, BASE + REGISTERS, 1))[1]  # registers are written by operations

    bench.run(process)
    assert bench.writes == [(0x44, 2)]
    assert bench.longest <= 258


def test_everything_else_is_the_cores(bench: Bench):
    async def process(ctx) -> None:
        for address in (0, 77, Region.COUNTERS.base + 3, EXTERNAL | 5, EXTERNAL | BASE | 5):
            assert await bench.access(ctx, address) == (address & 0xFF ^ 0x5A, False)
            assert (await bench.access(ctx, address, 0x11))[1] is False
        assert (await bench.access(ctx, 99))[1]

    bench.run(process)
    assert bench.core[:2] == [(0, None), (0, 0x11)]
    assert len(bench.core) == 11
    assert not bench.writes
