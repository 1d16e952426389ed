# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the AXI master: commands of all kinds against a memory that stalls."""

from __future__ import annotations

import random
from typing import Any

import cocotb
from axi_ram import Ram
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.axi import AxiMaster
from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout
from nomul.sim.harness import Bench, parameters
from nomul.sim.harness.packing import unpack_bits

OPTIONS = parameters()["options"]
BYTES = OPTIONS["word_bytes"]
SIZE = 1 << 16  # bytes of memory
WORDS = SIZE // BYTES


class Client:
    """Issues commands and collects what comes back; checks that writes are unacknowledged as long as they are."""

    def __init__(self, bench: Bench, ram: Ram):
        self.bench, self.dut = bench, bench.dut
        self.read: list[tuple[int, bool, int]] = []  # word, error, cycle
        self.write_errors = 0
        self.ram = ram
        cocotb.start_soon(self._run())

    async def _run(self) -> None:
        dut = self.dut
        command: Any = self.bench.ports["memory__command"]
        owed = answers = 0  # words of writes; bursts
        told = 0  # words of the burst whose answer is passed on
        while True:
            await FallingEdge(dut.clk)
            await ReadOnly()
            if dut.memory__read_valid.value:
                self.read.append((int(dut.memory__read_data.value),
                                  bool(dut.memory__read_error.value), self.bench.cycle))
            unacknowledged = bool(dut.memory__unacknowledged.value)
            assert unacknowledged == (owed > 0)
            assert unacknowledged or not dut.memory__write_error.value
            self.write_errors += int(dut.memory__write_error.value)
            owed, told = owed - told, 0
            if command.fired():
                asked = unpack_bits(MemoryCommandLayout, int(command.payload.value))
                owed += (asked["last"] + 1) * asked["write"]
            if dut.axi__bvalid.value and dut.axi__bready.value:
                told = self.ram.write_bursts[answers][1]
                answers += 1

    def command(self, address: int, words: int, *, write: bool = False, stall: float = 0.0) -> None:
        self.bench.send("memory__command", [{"address": address, "last": words - 1, "write": write}],
                        stall=stall)

    async def words(self, count: int) -> None:
        """Waits for so many words in all."""
        while len(self.read) < count:
            await FallingEdge(self.dut.clk)


async def begin(dut: Any) -> tuple[Bench, Client, Ram]:
    bench = Bench(dut, AxiMaster(**OPTIONS))
    ram = Ram(dut, bench.rng, word_bytes=BYTES, size=SIZE)
    await bench.start()
    return bench, Client(bench, ram), ram


def a_burst(rng: random.Random, *, within: int = WORDS) -> tuple[int, int]:
    """Address and words of a burst: all that a port may ask, often of extreme length."""
    address = rng.randrange(within)
    room = BURST_WORDS - address % BURST_WORDS
    return address, rng.choice([1, room, rng.randint(1, room), min(room, 2)])


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def reads_see_the_writes_before_them(dut) -> None:
    bench, client, ram = await begin(dut)
    rng, count, done = bench.rng, 0, 0
    for _ in range(6):
        ram.stall(0.0, 0.3, 0.8)
        ram.latency, ram.lag = rng.choice([0, 30]), rng.choice([0, 6])
        stall, write_stall = rng.choice([0.0, 0.5]), rng.choice([0.0, 0.8])
        written: dict[int, list[tuple[int, int]]] = {}  # when and what
        expected: list[tuple[int, int]] = []
        for address in range(WORDS):
            at = address * BYTES
            written[address] = [(-1, int.from_bytes(ram.read(at, BYTES), "little"))]
        for turn in range(60):
            address, words = a_burst(rng, within=100)
            write = rng.random() < 0.5
            client.command(address, words, write=write, stall=stall)
            for at in range(address, address + words):
                if write:
                    value = rng.choice([0, (1 << 8 * BYTES) - 1, rng.getrandbits(8 * BYTES)])
                    written[at].append((turn, value))
                    bench.send("memory__write", [value], stall=write_stall)
                else:
                    expected.append((turn, at))
        count += len(expected)
        await client.words(count)
        await bench.sent("memory__write")
        for (turn, at), (value, error, _) in zip(expected, client.read[done:], strict=True):
            # Not older than the last write before the read; a later one may have overtaken it.
            last = [v for when, v in written[at] if when < turn][-1]
            assert not error
            assert value in [last, *(v for when, v in written[at] if when > turn)], (turn, at)
        done = count
        # All is written in the end, and the read after the last write shows it.
        for address in range(0, 192, 32):
            client.command(address, 32)
        count += 192
        await client.words(count)
        assert [v for v, _, _ in client.read[done:]] == [written[at][-1][1] for at in range(192)]
        done = count
    assert not client.write_errors
    assert ram.most <= OPTIONS.get("outstanding", 8)


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(lag=[0, 60])
async def errors_are_passed_on(dut, lag: int) -> None:
    bench, client, ram = await begin(dut)
    ram.stall(0.0, 0.5)
    ram.lag = lag
    ram.bad = {3, 70, 71, 72, 200}
    asked, wrong = [], 0
    for _ in range(60):
        address, words = a_burst(bench.rng, within=256)
        span = range(address, address + words)
        client.command(address, words)
        asked += span
        if bench.rng.random() < 0.3:
            client.command(address, words, write=True)
            bench.send("memory__write", [0] * words)
    await client.words(len(asked))
    assert [error for _, error, _ in client.read] == [at in ram.bad for at in asked]
    await bench.sent("memory__write")
    client.command(0, 1)
    await client.words(len(asked) + 1)  # all writes are acknowledged
    for address, words in ram.write_bursts:
        wrong += not ram.bad.isdisjoint(range(address // BYTES, address // BYTES + words))
    assert wrong
    assert client.write_errors == wrong
    # Without a read that waits for it.
    for address, words in ((64, 7), (16, 2)):
        client.command(address, words, write=True)
        bench.send("memory__write", [0] * words)
        await bench.sent("memory__write")
        await bench.step(2)
        while dut.memory__unacknowledged.value:
            await FallingEdge(dut.clk)
        wrong += address == 64
        assert client.write_errors == wrong


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def latency_is_hidden(dut) -> None:
    bench, client, ram = await begin(dut)
    component = AxiMaster(**OPTIONS)
    ram.latency = 50
    content = bench.rng.randbytes(SIZE)
    ram.write(0, content)
    bursts = min(40, WORDS // BURST_WORDS)
    for burst in range(bursts):
        client.command(burst * BURST_WORDS, BURST_WORDS)
    words = bursts * BURST_WORDS
    await client.words(words)
    assert [v for v, _, _ in client.read] == [
        int.from_bytes(content[k * BYTES:(k + 1) * BYTES], "little") for k in range(words)]
    assert client.read[0][2] - bench.times("memory__command")[0] > ram.latency
    cycles = client.read[-1][2] - client.read[0][2] + 1
    rate = words / cycles
    dut._log.info(f"{words} words in {cycles} cycles: {rate:.3f} a cycle")
    assert rate >= 0.95
    assert ram.most <= component.outstanding
    lengths = {words for _, words in ram.read_bursts}
    assert lengths == {component.page_words}
    assert [at for at, _ in ram.read_bursts] == list(
        range(0, words * BYTES, component.page_words * BYTES))


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def latency_is_as_stated(dut) -> None:
    bench, client, _ = await begin(dut)
    offered = []

    async def watch() -> None:
        while not dut.axi__arvalid.value:
            await FallingEdge(dut.clk)
        offered.append(bench.cycle)

    cocotb.start_soon(watch())
    client.command(5, 1)
    taken = (await bench.sent("memory__command"))[0]
    await client.words(1)
    assert offered[0] - taken == AxiMaster.latency


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def words_may_come_before_their_command(dut) -> None:
    bench, client, _ = await begin(dut)
    bench.send("memory__write", [1, 2, 3])
    await bench.step(10)
    assert not dut.axi__wvalid.value
    client.command(8, 3, write=True)
    client.command(8, 3)
    await client.words(3)
    assert [v for v, _, _ in client.read] == [1, 2, 3]
