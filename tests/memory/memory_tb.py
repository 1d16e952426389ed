# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the memories: all through the bus, then what the core sees."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw import memory
from nomul.hw.embedding import EmbeddingMemory
from nomul.hw.fetch import PROGRAM_LATENCY
from nomul.hw.ports import NORM_LATENCY
from nomul.model.image import plane_bits
from nomul.model.protocol import Region
from nomul.sim.harness import Bench, parameters

P = parameters()
KIND, OPTIONS = P["kind"], P["options"]


class Bus:
    """Drives the bus as the link does: address and data stand until ``done``."""

    def __init__(self, dut: Any):
        self.dut = dut
        dut.bus__read.value = dut.bus__write.value = dut.bus__address.value = (
            dut.bus__write_data.value
        ) = 0
        self.cycles: set[int] = set()

    async def access(self, address: int, data: int | None = None) -> int | None:
        """Reads a byte, or writes one; None for an error."""
        dut = self.dut
        await FallingEdge(dut.clk)
        strobe = dut.bus__read if data is None else dut.bus__write
        strobe.value, dut.bus__address.value, dut.bus__write_data.value = 1, address, data or 0
        for cycle in range(1, 20):
            await FallingEdge(dut.clk)
            strobe.value = 0
            await ReadOnly()
            if dut.bus__done.value:
                self.cycles.add(cycle)
                return None if dut.bus__error.value else int(dut.bus__read_data.value)
            assert not dut.bus__error.value
        raise AssertionError("no answer")


async def begin(dut: Any, component: Any, *zero: str) -> tuple[Bench, Bus]:
    bench = Bench(dut, component)
    bus = Bus(dut)
    for name in zero:
        getattr(dut, name).value = 0
    await bench.start()
    return bench, bus


async def fill(bench: Bench, bus: Bus, addresses: list[int]) -> dict[int, int]:
    """Writes noise in random order, reads it back in another; some of it is written twice."""
    content = {}
    order = list(addresses)
    bench.rng.shuffle(order)
    for address in [*order, *order[:10]]:
        content[address] = bench.rng.getrandbits(8)
        assert await bus.access(address, content[address]) is not None
    bench.rng.shuffle(order)
    for address in order:
        assert await bus.access(address) == content[address]
    return content


async def refuses(bus: Bus, *addresses: int, write: bool = False) -> None:
    for address in addresses:
        assert await bus.access(address, 1 if write else None) is None


if KIND == "weights":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    @cocotb.parametrize(stall=[0.0, 0.3, 0.9])
    async def streams_beats(dut, stall: float) -> None:
        component = memory.WeightMemory(**OPTIONS)
        g, depth = component.bytes_per_beat, component.depth
        bench, bus = await begin(dut, component, "restart")
        bits = plane_bits(depth)
        content = await fill(bench, bus, [p << bits | b for p in range(g) for b in range(depth)])
        await refuses(bus, g << bits, *([depth] if depth < 1 << bits else []))
        assert bus.cycles == {5}
        beats = [[content[p << bits | b] for p in range(g)] for b in range(depth)]
        for count in (depth, 5, 1, depth - 1, depth):
            await FallingEdge(dut.clk)
            dut.restart.value = 1
            await FallingEdge(dut.clk)
            dut.restart.value = 0
            bench.ports["o"].held = None  # what was offered before is withdrawn
            began, before = bench.cycle, len(bench.times("o"))
            assert await bench.receive("o", count, stall=stall) == beats[:count]
            times = bench.times("o")[before:]
            if stall == 0.0:
                assert times[-1] - times[0] == count - 1
                assert times[0] - began <= 4
            await bench.step(6)
            if count == depth:
                assert not dut.o__valid.value
        assert await bus.access(depth // 2) == content[depth // 2]  # the bus may come at any time
        assert not dut.o__valid.value

    @cocotb.test(timeout_time=100, timeout_unit="us")
    async def offers_after_four_cycles(dut) -> None:
        _, _ = await begin(dut, memory.WeightMemory(**OPTIONS), "restart")
        dut.o__ready.value = 0
        dut.restart.value = 1
        for cycle in range(5):
            assert bool(dut.o__valid.value) == (cycle >= 4)
            await FallingEdge(dut.clk)
            dut.restart.value = 0


if KIND == "norms":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    async def reads_two_words_a_cycle(dut) -> None:
        component = memory.NormMemory(**OPTIONS)
        bench, bus = await begin(dut, component, "a__address", "b__address")
        size = 8 * component.words
        content = await fill(bench, bus, list(range(size)))
        await refuses(bus, size, size + 7)
        await refuses(bus, size, write=True)
        assert bus.cycles == {5}
        words = [sum(content[8 * w + k] << 8 * k for k in range(8)) for w in range(component.words)]
        asked: list[tuple[int, int]] = []
        for cycle in range(300):
            await FallingEdge(dut.clk)
            asked.append(
                (bench.rng.randrange(component.words), bench.rng.randrange(component.words))
            )
            dut.a__address.value, dut.b__address.value = asked[-1]
            await ReadOnly()
            if cycle >= NORM_LATENCY:
                a, b = asked[cycle - NORM_LATENCY]
                assert (int(dut.a__data.value), int(dut.b__data.value)) == (words[a], words[b])


if KIND == "program":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    async def reads_an_instruction_a_cycle(dut) -> None:
        component = memory.ProgramMemory(**OPTIONS)
        bench, bus = await begin(dut, component, "port__address")
        size = 8 * component.words
        content = await fill(bench, bus, list(range(size)))
        await refuses(bus, size)
        await refuses(bus, size, write=True)
        assert bus.cycles == {4}
        words = [sum(content[8 * w + k] << 8 * k for k in range(8)) for w in range(component.words)]
        asked: list[int] = []
        for _ in range(300):
            await FallingEdge(dut.clk)
            address = bench.rng.randrange(component.words)
            dut.port__address.value = address
            await ReadOnly()
            if len(asked) >= PROGRAM_LATENCY:
                assert int(dut.port__data.value) == words[asked[-PROGRAM_LATENCY]]
            asked.append(address)


if KIND == "logits":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    async def shows_signed_words(dut) -> None:
        component = memory.LogitsMemory(**OPTIONS)
        bench, bus = await begin(dut, component, "port__valid", "port__index", "port__lane", "port__sum")
        width = component.bits
        most = (1 << width - 1) - 1
        logits = [
            [
                bench.rng.choice([most, -most - 1, bench.rng.randint(-most, most)])
                for _ in range(component.lanes)
            ]
            for _ in range(component.vocab)
        ]
        order = [(lane, index) for lane in range(component.lanes) for index in range(component.vocab)]
        bench.rng.shuffle(order)
        for lane, index in order:
            dut.port__valid.value, dut.port__index.value = 1, index
            dut.port__lane.value = lane
            dut.port__sum.value = logits[index][lane] & (1 << width) - 1
            await FallingEdge(dut.clk)
            assert dut.port__room.value
            dut.port__valid.value = 0
            if bench.rng.random() < 0.3:
                dut.port__sum.value = 0
                await FallingEdge(dut.clk)
        bits = plane_bits(component.vocab)
        for lane, index in order:
            raw = [await bus.access((lane << bits | index) * 4 + k) for k in range(4)]
            assert int.from_bytes(raw, "little", signed=True) == logits[index][lane]
        await refuses(bus, component.lanes << bits + 2)
        await refuses(bus, 0, write=True)
        assert bus.cycles == {4}


if KIND == "counters":

    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def shows_words(dut) -> None:
        component = memory.CounterMemory(**OPTIONS)
        bench, bus = await begin(dut, component, "words_i")
        words = bench.rng.getrandbits(32 * component.words)
        dut.words_i.value = words
        for address in range(4 * component.words):
            assert await bus.access(address) == words >> 8 * address & 0xFF
        await refuses(bus, 4 * component.words)
        await refuses(bus, 0, write=True)
        assert bus.cycles == {2}


if KIND == "decoder":

    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def finds_the_region(dut) -> None:
        regions = [Region[name] for name in OPTIONS["regions"]]
        bench, bus = await begin(dut, memory.BusDecoder(regions=regions))
        seen: list[tuple[Region, str, int]] = []

        async def slave(region: Region) -> None:
            def port(name: str) -> Any:
                return getattr(dut, f"{region.name.lower()}__{name}")

            for name in ("done", "error", "read_data"):
                port(name).value = 0
            while True:
                await FallingEdge(dut.clk)
                port("done").value = port("error").value = 0
                port("read_data").value = bench.rng.getrandbits(8)  # right with done only
                for how in ("read", "write"):
                    if port(how).value:
                        seen.append((region, how, int(port("address").value)))
                        for _ in range(bench.rng.randint(0, 3)):
                            await FallingEdge(dut.clk)
                        port("done").value, port("read_data").value = 1, 0x50 | region
                        port("error").value = int(port("address").value) & 1

        for region in regions:
            cocotb.start_soon(slave(region))
        for _ in range(200):
            number = bench.rng.randrange(16)
            address = number << 24 | bench.rng.getrandbits(24)
            data = bench.rng.choice([None, 5])
            seen.clear()
            found = await bus.access(address, data)
            if number not in regions:
                assert found is None
                assert not seen
            else:
                assert seen == [(number, "read" if data is None else "write", address)]
                assert found == (None if address & 1 else 0x50 | number)


if KIND == "embeddings":

    @cocotb.test(timeout_time=4, timeout_unit="ms")
    @cocotb.parametrize(stall=[0.0, 0.6])
    async def reads_rows(dut, stall: float) -> None:
        component = EmbeddingMemory(**OPTIONS)
        lanes, size = component.lanes, component.size
        bench, bus = await begin(dut, component)
        tried = sorted([*bench.rng.sample(range(size), min(size, 300)), 0, size - 1])
        content = await fill(bench, bus, list(dict.fromkeys(tried)))
        await refuses(bus, size)
        await refuses(bus, size, write=True)
        assert bus.cycles == {4}
        stride = 12
        rows = bench.rng.sample(range(size // stride), 12)
        for row in rows:
            for address in range(row * stride, (row + 1) * stride):
                content[address] = bench.rng.getrandbits(8)
                await bus.access(address, content[address])
        for elements in (10, 1, 7, 10, 3):
            tokens = [bench.rng.choice(rows) for _ in range(lanes)]
            bench.send("request", [{"wide": 0, "elements": elements, "stride": stride, "token": tokens}])
            found = await bench.receive("rows", lanes * elements, stall=stall)
            assert len(found) == lanes * elements
            for k, item in enumerate(found):
                at = tokens[k // elements] * stride
                value = content[at + 2 + k % elements]
                assert item["value"] == value - (value >> 7 << 8)
                assert item["scale"] == content[at] | content[at + 1] << 8
            if stall == 0.0:
                took = bench.times("rows")[-1] - bench.times("request")[-1]
                assert took == component.cycles(elements)
        bench.send("request", [{"wide": 0, "elements": 10, "stride": stride, "token": [rows[0]] * lanes}] * 2)
        # one right after the other
        assert len(await bench.receive("rows", 20 * lanes, stall=stall)) == 20 * lanes
