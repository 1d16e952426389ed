# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the reader: a memory of any latency behind it, whatever stalls."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout
from nomul.hw.streamed.reader import Reader
from nomul.sim.harness import Bench, parameters, unpack_bits

OPTIONS = parameters()["options"]
BITS = 8 * OPTIONS["word_bytes"]
ADDRESSES = 1 << 32


def word(address: int) -> int:
    """What lies in memory."""
    return (address * 0x9E37_79B9_7F4A_7C15 ^ address >> 3) % (1 << BITS)


class Memory:
    """Answers reads in order after ``latency`` cycles; between words it shows noise."""

    def __init__(self, bench: Bench, *, latency: int = 5, stall: float = 0.0):
        self.bench, self.dut = bench, bench.dut
        self.latency, self.stall = latency, stall
        self.commands: list[dict[str, Any]] = []
        self.coming: deque[tuple[int, int]] = deque()
        self.wrong: set[int] = set()
        self.given: list[int] = []  # cycles
        self.errors = 0
        cocotb.start_soon(self.run())

    async def run(self) -> None:
        dut, rng, port = self.dut, self.bench.rng, self.bench.ports["memory__command"]
        while True:
            await FallingEdge(dut.clk)
            for bits, cycle in zip(port.words[len(self.commands):],
                                   port.times[len(self.commands):], strict=True):
                burst = unpack_bits(MemoryCommandLayout, bits)
                first, count = burst["address"], burst["last"] + 1
                assert not burst["write"]
                assert first % OPTIONS["burst"] + count <= OPTIONS["burst"]
                self.commands.append(burst)
                self.coming += [(cycle + self.latency, first + k) for k in range(count)]
            cycle = self.bench.cycle
            give = bool(self.coming) and self.coming[0][0] <= cycle and rng.random() >= self.stall
            at = self.coming.popleft()[1] if give else None
            if at is not None:
                self.given.append(cycle)
            dut.memory__read_valid.value = give
            dut.memory__read_data.value = rng.getrandbits(BITS) if at is None else word(at)
            dut.memory__read_error.value = rng.getrandbits(1) if at is None else at in self.wrong
            dut.memory__write_error.value = rng.getrandbits(1)
            dut.memory__unacknowledged.value = rng.getrandbits(1)
            await ReadOnly()
            self.errors += int(dut.error.value)


async def begin(dut: Any, **memory: Any) -> tuple[Bench, Memory]:
    bench = Bench(dut, Reader(**OPTIONS))
    for name in ("start", "address", "words", "memory__read_valid", "memory__read_data",
                 "memory__read_error", "memory__write_error", "memory__unacknowledged"):
        getattr(dut, name).value = 0
    await bench.start()
    dut.memory__write__ready.value = 0
    bench.expect("memory__command", 1 << 40)
    return bench, Memory(bench, **memory)


async def start(bench: Bench, address: int, words: int) -> int:
    """Strobes ``start``; afterwards only words of this run are taken. The cycle of the strobe."""
    dut = bench.dut
    await FallingEdge(dut.clk)
    dut.start.value, dut.address.value, dut.words.value = 1, address, words
    await FallingEdge(dut.clk)
    began = bench.cycle - 1
    dut.start.value = 0
    dut.address.value, dut.words.value = (bench.rng.getrandbits(n) for n in (32, 33))
    port = bench.ports["o"]
    port.held, port.wanted = None, len(port.words)  # what was offered before is withdrawn
    return began


def a_run(bench: Bench) -> tuple[int, int]:
    """Address and words, around all kinds of boundaries."""
    rng = bench.rng
    words = rng.choice([0, 1, 2, 3, BURST_WORDS - 1, BURST_WORDS, BURST_WORDS + 1, 300])
    address = rng.choice([0, ADDRESSES - max(words, 1), rng.randrange(1 << 20), 64 * rng.randrange(99)])
    return address, words


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def reads_in_order_whatever_stalls(dut) -> None:
    bench, memory = await begin(dut)
    for turn in range(40):
        stall, memory.stall = (bench.rng.choice([0.0, 0.5, 0.9]) for _ in range(2))
        bench.ports["memory__command"].stall = bench.rng.choice([0.0, 0.5, 0.9])
        memory.latency = bench.rng.choice([1, 5, 50])
        address, words = a_run(bench) if turn else (ADDRESSES - 300, 300)
        memory.wrong = {address + k for k in range(words) if bench.rng.random() < 0.1}
        memory.errors, before = 0, len(memory.commands)
        await start(bench, address, words)
        got = await bench.receive("o", words, stall=stall)
        assert got == [word(address + k) for k in range(words)]
        await bench.step(20)
        assert not dut.o__valid.value
        assert memory.errors == len(memory.wrong)
        asked = [c["address"] + k for c in memory.commands[before:] for k in range(c["last"] + 1)]
        assert asked == list(range(address, address + words))


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_start_drops_what_was_left(dut) -> None:
    bench, memory = await begin(dut)
    for _ in range(150):
        stall, memory.stall = (bench.rng.choice([0.0, 0.5, 0.9]) for _ in range(2))
        bench.ports["memory__command"].stall = bench.rng.choice([0.0, 0.9, 0.99])
        memory.latency = bench.rng.choice([1, 5, 50, 200])
        address, words = a_run(bench)
        memory.wrong = {address + k for k in range(words)} if bench.rng.random() < 0.3 else set()
        await start(bench, address, words)
        memory.errors = 0
        port, first = bench.ports["o"], len(bench.ports["o"].words)
        bench.expect("o", words, stall=stall)
        await bench.step(bench.rng.choice([0, 1, 2, 3, 10, 100, 1000]))
        got = port.words[first:]
        assert got == [word(address + k) for k in range(len(got))]
        assert memory.wrong or not memory.errors  # what is dropped is wrong without notice


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latencies_are_as_stated(dut) -> None:
    bench, memory = await begin(dut, latency=9)
    component = Reader(**OPTIONS)
    for address, words in ((0, 1), (77, 2), (63, 300)):
        before, given = len(bench.times("memory__command")), len(memory.given)
        taken = len(bench.times("o"))
        began = await start(bench, address, words)
        await bench.receive("o", words)
        assert bench.times("memory__command")[before] - began == component.start_latency
        assert bench.times("o")[taken] - memory.given[given] == component.latency


@cocotb.test(timeout_time=2, timeout_unit="ms", skip=OPTIONS["depth"] < 128)
async def a_word_leaves_in_every_cycle(dut) -> None:
    room = OPTIONS["depth"] - 2 * OPTIONS["burst"] - Reader.latency
    bench, _ = await begin(dut, latency=min(100, room))
    for address in (0, 41):  # first bursts of three words and more
        taken = len(bench.times("o"))
        await start(bench, address, 4000)
        assert await bench.receive("o", 4000) == [word(address + k) for k in range(4000)]
        times = bench.times("o")[taken:]
        assert times[-1] - times[0] == 4000 - 1
