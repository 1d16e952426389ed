# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the way to LiteDRAM: adaptor against a controller that stalls at random; register writer."""

from __future__ import annotations

from collections import deque

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.dram.init import RegisterWriter
from nomul.hw.dram.native import NativePort
from nomul.hw.ports import BURST_WORDS
from nomul.sim.harness import Bench, parameters

OPTIONS = parameters()
LIMIT_US = 2_000


class Controller:
    """LiteDRAM's side of a native port: takes commands when it likes, and serves them in order later.

    Checks that a command stands until it is taken. A word to write is taken without asking, so it must be
    the right one: it is compared with the expected memory at the end. Between its words the read port shows noise.
    """

    def __init__(self, bench: Bench, *, stall: float, delay: int):
        self.dut, self.bench, self.rng = bench.dut, bench, bench.rng
        self.stall, self.delay = stall, delay
        self.words: dict[int, int] = {}
        self.queue: deque[tuple[int, int, int]] = deque()
        self.taken: list[tuple[int, int, int]] = []  # cycle, write, address

    async def run(self) -> None:
        dut, width, held = self.dut, 8 * OPTIONS["word_bytes"], None
        while True:
            await FallingEdge(dut.clk)
            cycle = self.bench.cycle
            ready = self.rng.random() >= self.stall
            dut.native__cmd_ready.value = int(ready)
            due = bool(self.queue) and self.queue[0][0] <= cycle
            due = due and self.rng.random() >= self.stall
            write, address = self.queue.popleft()[1:] if due else (0, 0)
            dut.native__wdata_ready.value = int(due and write)
            dut.native__rdata_valid.value = int(due and not write)
            dut.native__rdata_data.value = (
                self.words.get(address, 0) if due and not write else self.rng.getrandbits(width)
            )
            await ReadOnly()
            if due and write:
                self.words[address] = int(dut.native__wdata_data.value)
            offer = None
            if dut.native__cmd_valid.value:
                offer = (int(dut.native__cmd_we.value), int(dut.native__cmd_addr.value))
                assert dut.enable.value, "a command while not enabled"
            if held is not None:
                assert offer == held, "the offer was withdrawn or changed"
            held = offer if offer and not ready else None
            if offer and ready:
                self.taken.append((cycle, *offer))
                self.queue.append((cycle + self.delay, *offer))


class Reader:
    """What the memory port answers."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.words: list[int] = []

    async def run(self) -> None:
        dut = self.bench.dut
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            assert not dut.memory__read_error.value
            assert not dut.memory__write_error.value
            assert not dut.memory__unacknowledged.value
            if dut.memory__read_valid.value:
                self.words.append(int(dut.memory__read_data.value))

    async def wait(self, count: int) -> None:
        while len(self.words) < count:
            await FallingEdge(self.bench.dut.clk)
        await self.bench.step(20)
        assert len(self.words) == count


async def begin(dut, *, stall: float = 0.0, delay: int = 2) -> tuple[Bench, Controller, Reader]:
    bench = Bench(dut, NativePort(**OPTIONS))
    for name in ("enable", "native__cmd_ready", "native__wdata_ready", "native__rdata_valid"):
        getattr(dut, name).value = 0
    dut.native__rdata_data.value = 0
    await bench.start()
    controller, reader = Controller(bench, stall=stall, delay=delay), Reader(bench)
    cocotb.start_soon(controller.run())
    cocotb.start_soon(reader.run())
    return bench, controller, reader


if "word_bytes" in OPTIONS:

    @cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
    @cocotb.parametrize(
        stalls=[
            {},
            {"controller": 0.5},
            {"command": 0.7},
            {"write": 0.7},
            {"command": 0.3, "write": 0.3, "controller": 0.3},
        ],
        delay=[1, 14],
    )
    async def equals_memory(dut, stalls: dict[str, float], delay: int) -> None:
        """Bursts of all sizes within few addresses: each read sees the writes before it, and no others."""
        bench, controller, reader = await begin(
            dut, stall=stalls.get("controller", 0.0), delay=delay
        )
        dut.enable.value = 1
        rng, mask = bench.rng, (1 << OPTIONS["address_bits"]) - 1
        width, memory = 8 * OPTIONS["word_bytes"], {}
        commands, writes, expected, order = [], [], [], []
        blocks = [0, mask + 1 - BURST_WORDS, *(rng.randrange(mask // BURST_WORDS) * BURST_WORDS
                                               for _ in range(2))]  # fmt: skip
        for k in range(60):
            first = rng.choice([0, rng.randrange(BURST_WORDS), BURST_WORDS - 1])
            words = rng.choice([1, BURST_WORDS - first, rng.randint(1, BURST_WORDS - first)])
            address, write = rng.choice(blocks) + first, k % 7 == 0 or rng.random() < 0.4
            high = rng.getrandbits(32 - OPTIONS["address_bits"]) << OPTIONS["address_bits"]
            commands.append({"address": address | high, "last": words - 1, "write": int(write)})
            for at in range(address, address + words):
                order.append((int(write), at))
                if write:
                    memory[at] = rng.choice([0, (1 << width) - 1, rng.getrandbits(width)])
                    writes.append(memory[at])
                else:
                    expected.append(memory.get(at, 0))
        bench.send("memory__command", commands, stall=stalls.get("command", 0.0))
        bench.send("memory__write", writes, stall=stalls.get("write", 0.0))
        await reader.wait(len(expected))
        await bench.sent("memory__write")
        while len(controller.taken) < len(order) or controller.queue:
            await bench.step()
        await bench.step(2)
        assert reader.words == expected
        assert [item[1:] for item in controller.taken] == order
        assert controller.words == memory

    @cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
    async def takes_no_longer_than_it_says(dut) -> None:
        """A word in every cycle, from the first one on, whatever the bursts."""
        bench, controller, reader = await begin(dut)
        dut.enable.value = 1
        sizes = [1, 1, 1, 2, BURST_WORDS, 1, 3, BURST_WORDS]
        bench.send(
            "memory__command",
            [{"address": k * BURST_WORDS, "last": n - 1, "write": 0} for k, n in enumerate(sizes)],
        )
        await reader.wait(sum(sizes))
        cycles = [cycle for cycle, *_ in controller.taken]
        assert cycles[0] - bench.times("memory__command")[0] == NativePort.latency
        assert cycles == list(range(cycles[0], cycles[0] + sum(sizes)))

    @cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
    async def waits_until_enabled(dut) -> None:
        bench, controller, reader = await begin(dut)
        bench.send("memory__command", [{"address": 3, "last": 1, "write": 0}])
        await bench.step(50)
        assert not controller.taken
        dut.enable.value = 1
        await reader.wait(2)
        assert [item[1:] for item in controller.taken] == [(0, 3), (0, 4)]

    @cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
    async def words_may_come_before_their_command(dut) -> None:
        bench, controller, _ = await begin(dut)
        dut.enable.value = 1
        words = list(range(1, 9))
        bench.send("memory__write", words)
        await bench.sent("memory__write")
        await bench.step(5)
        assert not controller.taken
        bench.send("memory__command", [{"address": 8, "last": 7, "write": 1}])
        while len(controller.words) < 8:
            await bench.step()
        assert controller.words == dict(zip(range(8, 16), words, strict=True))


if "sequence" in OPTIONS:

    @cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
    @cocotb.parametrize(stall=[0.0, 0.7])
    async def writes_the_sequence_once(dut, stall: float) -> None:
        sequence = [tuple(item) for item in OPTIONS["sequence"]]
        bench = Bench(dut, RegisterWriter(sequence=sequence))
        dut.bus__ack.value = 0
        await bench.start()
        seen, held = [], None
        for _ in range(60 * len(sequence)):
            await FallingEdge(dut.clk)
            dut.bus__ack.value = 0
            if dut.bus__cyc.value and dut.bus__stb.value and bench.rng.random() >= stall:
                dut.bus__ack.value = 1
            await ReadOnly()
            shown = (4 * int(dut.bus__adr.value), int(dut.bus__dat_w.value))
            if held is not None:
                assert shown == held
            held = shown if dut.bus__cyc.value and not dut.bus__ack.value else None
            if dut.bus__ack.value:
                assert dut.bus__we.value
                assert int(dut.bus__sel.value) == 0xF
                assert not dut.done.value
                seen.append(shown)
        assert seen == sequence
        assert dut.done.value
