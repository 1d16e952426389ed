# SPDX-License-Identifier: Apache-2.0
"""cocotb side of embedding rows from memory."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from nomul.hw.streamed.ports import BasesLayout
from nomul.hw.streamed.rows import Rows
from nomul.model.isa import Part
from nomul.model.memory_map import BLOCK
from nomul.sim.harness import Bench, pack_bits, parameters
from nomul.sim.harness.memory import MemoryModel

OPTIONS = parameters()["options"]
LANES, WORD = OPTIONS["lanes"], OPTIONS["word_bytes"]


class Bed:
    """A reader of rows and memory."""

    def __init__(self, dut: Any):
        self.dut = dut

    async def start(self, **memory: Any) -> None:
        dut = self.dut
        self.bench = Bench(dut, Rows(**OPTIONS))
        for name in ("bases", "stop", "memory__read_valid", "memory__read_data", "memory__read_error",
                     "memory__write_error", "memory__unacknowledged"):
            getattr(dut, name).value = 0
        await self.bench.start()
        self.memory = MemoryModel(self.bench, "memory", word_bytes=WORD, **memory)
        await self.base()

    async def base(self) -> None:
        """Puts embeddings somewhere else."""
        rng = self.bench.rng
        await FallingEdge(self.dut.clk)
        self.block = rng.randint(0, 1 << 20)
        bases = [{"block": rng.getrandbits(20), "stride": rng.getrandbits(10)} for _ in Part]
        bases[Part.EMBEDDINGS]["block"] = self.block
        self.dut.bases.value = pack_bits(BasesLayout, bases)

    def ask(self, tokens: list[int], elements: int, stride: int, *, wide: int = 0) -> dict[str, Any]:
        return {"wide": wide, "elements": elements, "stride": stride, "token": tokens}

    def rows(self, tokens: list[int], elements: int, stride: int) -> list[dict[str, int]]:
        """What must come."""
        found = []
        for token in tokens:
            row = self.memory.get(self.block * BLOCK + token * stride, 2 + elements)
            scale = int.from_bytes(row[:2], "little")
            values = [b - 256 if b > 127 else b for b in row[2:]]
            found += [{"value": v, "scale": scale, "x": 0} for v in values]
        return found

    def wide_rows(self, tokens: list[int], elements: int, stride: int) -> list[int]:
        """The elements that must come."""
        rows = [self.memory.get(self.block * BLOCK + token * stride, 4 * elements) for token in tokens]
        return [
            int.from_bytes(row[k : k + 4], "little", signed=True) for row in rows for k in range(0, 4 * elements, 4)
        ]


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.6], memory_stall=[0.0, 0.5])
async def reads_the_row_of_each_lane(dut, stall: float, memory_stall: float) -> None:
    bed = Bed(dut)
    await bed.start(stall=memory_stall, latency=(1, 30))
    rng = bed.bench.rng
    for _ in range(8):
        elements = rng.choice([1, 2, WORD - 2, WORD - 1, WORD, rng.randint(1, 64), 1000 // LANES])
        stride = -(-(2 + elements) // BLOCK) * BLOCK
        tokens = [rng.choice([0, 0xFFFF, rng.getrandbits(16)]) for _ in range(LANES)]
        await bed.base()
        wanted = bed.rows(tokens, elements, stride)
        bed.bench.send("request", [bed.ask(tokens, elements, stride)])
        assert await bed.bench.receive("rows", LANES * elements, stall=stall) == wanted
    await bed.bench.step(50)
    await bed.memory.settle()
    assert not any(burst.write for burst in bed.memory.bursts)


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.6], memory_stall=[0.0, 0.5])
async def reads_residual_streams(dut, stall: float, memory_stall: float) -> None:
    """Wide elements, and embeddings between them."""
    bed = Bed(dut)
    await bed.start(stall=memory_stall, latency=(1, 30))
    rng = bed.bench.rng
    for turn in range(8):
        elements = rng.choice([1, 2, WORD // 4, WORD // 4 + 1, rng.randint(1, 64), 600 // LANES])
        wide = turn % 3 < 2
        size = 4 * elements if wide else 2 + elements
        stride = -(-size // BLOCK) * BLOCK
        tokens = [rng.choice([0, rng.getrandbits(4)]) for _ in range(LANES)]
        await bed.base()
        bed.bench.send("request", [bed.ask(tokens, elements, stride, wide=int(wide))])
        found = await bed.bench.receive("rows", LANES * elements, stall=stall)
        if wide:
            assert [row["x"] for row in found] == bed.wide_rows(tokens, elements, stride)
            assert not any(row["value"] for row in found)
        else:
            assert found == bed.rows(tokens, elements, stride)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def an_element_a_cycle_15_cycles_after_the_request(dut) -> None:
    bed = Bed(dut)
    latency = 7
    await bed.start(latency=(latency, latency))
    elements = 48
    tokens = [3 * k for k in range(LANES)]
    bed.bench.send("request", [bed.ask(tokens, elements, BLOCK)] * 2)
    assert await bed.bench.receive("rows", 2 * LANES * elements) == 2 * bed.rows(tokens, elements, BLOCK)
    times, asked = bed.bench.times("rows"), bed.bench.times("request")
    assert times[0] - asked[0] == 15 + latency
    for k in range(0, len(times), elements):
        assert times[k + elements - 1] - times[k] == elements - 1
    between = [times[k] - times[k - 1] for k in range(elements, LANES * elements, elements)]
    assert set(between) <= {14 + latency}  # from a lane's last element to the next one's first


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def wrong_words_still_make_a_row(dut) -> None:
    """The arbiter tells of the error; the row has its elements, so nobody hangs."""
    bed = Bed(dut)
    await bed.start(latency=(1, 4))
    bed.memory.wrong = range(1 << 32)
    bed.bench.send("request", [bed.ask([1] * LANES, 40, BLOCK)])
    await bed.bench.receive("rows", 40 * LANES, stall=0.3)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(latency=[1, 40])
async def nothing_is_left_of_what_was_stopped(dut, latency: int) -> None:
    """Whenever it is stopped, what is offered next is the next request's."""
    bed = Bed(dut)
    await bed.start(latency=(latency, latency), stall=0.2)
    rng = bed.bench.rng
    for delay in [*range(24), *(rng.randint(20, 90 * LANES) for _ in range(12))]:
        wide = rng.getrandbits(1)
        bed.bench.send("request", [bed.ask([rng.getrandbits(16)] * LANES, 61, BLOCK, wide=wide)])
        await bed.bench.sent("request")
        port = bed.bench.expect("rows", 61 * LANES, stall=0.3)
        await bed.bench.step(delay)
        dut.stop.value = 1
        bed.bench.expect("rows", 0)
        await bed.bench.step()
        dut.stop.value = 0
        port.held = None
        tokens = [rng.getrandbits(16) for _ in range(LANES)]
        bed.bench.send("request", [bed.ask(tokens, 9, BLOCK)])
        assert await bed.bench.receive("rows", 9 * LANES, stall=0.3) == bed.rows(tokens, 9, BLOCK)
