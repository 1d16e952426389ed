# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the mover: states of several slots between memory and the buffer of a layer."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import TokensLayout
from nomul.hw.streamed.mover import Mover
from nomul.hw.streamed.ports import BasesLayout
from nomul.model.isa import Part
from nomul.model.memory_map import BLOCK, STATE_BYTES
from nomul.model.numbers import STATE_BITS
from nomul.sim.harness import Bench, pack_bits, parameters, unpack_bits
from nomul.sim.harness.memory import MemoryModel

OPTIONS = parameters()["options"]
LANES, HIDDEN, WORD = OPTIONS["lanes"], OPTIONS["hidden"], OPTIONS["word_bytes"]
LAYERS, SLOTS = 3, 9
STEP = -(-HIDDEN // 16) * 16  # from a layer to the next
STRIDE = -(-LAYERS * STEP * STATE_BYTES // BLOCK)
MASK = (1 << STATE_BITS) - 1


class Buffer:
    """The state memory of the vector unit: what is read comes two cycles later."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.values = [bench.rng.getrandbits(STATE_BITS) for _ in range(LANES * HIDDEN)]
        self.writes: list[tuple[int, int]] = []  # cycle, address
        self.reads: list[int] = []
        cocotb.start_soon(self.run())

    async def run(self) -> None:
        dut, rng = self.bench.dut, self.bench.rng
        coming: list[int | None] = [None, None]
        while True:
            await FallingEdge(dut.clk)
            now = self.bench.cycle
            data = coming.pop()
            dut.state__read_data.value = rng.getrandbits(STATE_BITS) if data is None else data
            await ReadOnly()
            at = int(dut.state__address.value)
            read, write = bool(dut.state__read.value), bool(dut.state__write.value)
            assert not (read and write)
            if read or write:
                assert at < len(self.values)
            coming.insert(0, self.values[at] if read else None)
            if read:
                self.reads.append(now)
            if write:
                self.values[at] = int(dut.state__write_data.value)
                self.writes.append((now, at))


class Bed:
    """A mover between memories and buffer."""

    def __init__(self, dut: Any):
        self.dut = dut

    async def start(self, **memory: Any) -> None:
        dut = self.dut
        self.bench = bench = Bench(dut, Mover(**OPTIONS))
        for name in ("bases", "token", "state__read_data"):
            getattr(dut, name).value = 0
        for port in ("read", "write"):
            for name in ("read_valid", "read_data", "read_error", "write_error", "unacknowledged"):
                getattr(dut, f"{port}__{name}").value = 0
        await bench.start()
        self.source = MemoryModel(bench, "read", word_bytes=WORD, **memory)
        self.target = MemoryModel(bench, "write", word_bytes=WORD, **memory)
        self.target.content = self.source.content  # one memory
        self.buffer = Buffer(bench)
        self.block = bench.rng.randint(1, 1 << 16)
        bases = [{"block": bench.rng.getrandbits(20), "stride": 0} for _ in Part]
        bases[Part.STATE] = {"block": self.block, "stride": STRIDE}
        dut.bases.value = pack_bits(BasesLayout, bases)
        for slot in range(SLOTS):
            for element in range(LAYERS * STEP):
                self.put(slot, element, self.element(bench.rng))

    @staticmethod
    def element(rng: Any) -> int:
        lowest = -(1 << STATE_BITS - 1)
        return rng.choice([lowest, -lowest - 1, -1, 0, rng.randint(lowest, -lowest - 1)])

    def address(self, slot: int, element: int) -> int:
        return (self.block + slot * STRIDE) * BLOCK + element * STATE_BYTES

    def put(self, slot: int, element: int, value: int) -> None:
        at = self.address(slot, element)
        old = bytearray(self.source.get(at // WORD * WORD, WORD))
        old[at % WORD : at % WORD + STATE_BYTES] = value.to_bytes(STATE_BYTES, "little", signed=True)
        self.source.put(at // WORD * WORD, bytes(old))

    def get(self, slot: int, element: int) -> int:
        return int.from_bytes(self.source.get(self.address(slot, element), STATE_BYTES), "little", signed=True)

    async def token(self, slots: list[int], active: list[int]) -> None:
        await FallingEdge(self.dut.clk)
        zeros = [0] * LANES
        token = {"token": zeros, "slot": slots, "fresh": zeros, "active": active, "logits": zeros}
        self.dut.token.value = pack_bits(TokensLayout(LANES), token)
        await self.bench.step(2)
        firsts = self.firsts(slots, active)
        homes = unpack_bits(Mover(**OPTIONS).home.shape(), int(self.dut.home.value))
        for lane in range(LANES):
            if active[lane]:
                assert homes[lane] == firsts[slots[lane]]

    @staticmethod
    def firsts(slots: list[int], active: list[int]) -> dict[int, int]:
        """The first active lane of each slot in use."""
        found: dict[int, int] = {}
        for lane in range(LANES):
            if active[lane]:
                found.setdefault(slots[lane], lane)
        return found

    async def move(self, keep: bool, layer: int) -> tuple[int, int]:
        """Does a move; first and last cycle."""
        before = len(self.bench.times("move"))
        self.bench.send("move", [{"keep": int(keep), "address": layer * STEP, "elements": HIDDEN}])
        for _ in range(40000):
            await FallingEdge(self.dut.clk)
            times = self.bench.times("move")
            if len(times) > before and not self.dut.busy.value:
                assert self.target.idle or self.target._seen != self.target._count()
                return times[-1], self.bench.cycle - 1
        raise AssertionError("busy for ever")


def some_slots(rng: Any) -> tuple[list[int], list[int]]:
    pool = rng.sample(range(SLOTS), rng.randint(1, LANES))
    return [rng.choice(pool) for _ in range(LANES)], [int(rng.random() < 0.8) for _ in range(LANES)]


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.5], slow=[False, True])
async def brings_and_keeps_states(dut, stall: float, slow: bool) -> None:
    bed = Bed(dut)
    await bed.start(stall=stall, latency=(30, 60) if slow else (1, 3))
    rng = bed.bench.rng
    for turn in range(8):
        slots, active = some_slots(rng)
        if not turn:
            slots, active = [*range(LANES)], [1] * LANES
        await bed.token(slots, active)
        firsts, layer = bed.firsts(slots, active), rng.randrange(LAYERS)
        before, content = list(bed.buffer.values), dict(bed.source.content)
        await bed.move(False, layer)
        for lane in range(LANES):
            found = bed.buffer.values[lane * HIDDEN : (lane + 1) * HIDDEN]
            if active[lane] and firsts[slots[lane]] == lane:
                assert found == [bed.get(slots[lane], layer * STEP + e) & MASK for e in range(HIDDEN)]
            else:
                assert found == before[lane * HIDDEN : (lane + 1) * HIDDEN]
        assert bed.source.content == content
        # The buffer changes, and goes to memory.
        for k in range(len(bed.buffer.values)):
            bed.buffer.values[k] = bed.element(rng) & MASK
        wanted = list(bed.buffer.values)
        others = {
            (slot, e): bed.get(slot, e) for slot in range(SLOTS) for e in range(LAYERS * STEP)
            if slot not in firsts or not layer * STEP <= e < layer * STEP + STEP
        }  # fmt: skip
        await bed.move(True, layer)
        await bed.target.settle()
        assert bed.buffer.values == wanted
        for slot, lane in firsts.items():
            found = [bed.get(slot, layer * STEP + e) & MASK for e in range(HIDDEN)]
            assert found == wanted[lane * HIDDEN : (lane + 1) * HIDDEN]
        for (slot, e), value in others.items():
            assert bed.get(slot, e) == value


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def moves_an_element_a_cycle(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    await bed.token([*range(LANES)], [1] * LANES)
    await bed.move(False, 0)
    cycles = [cycle for cycle, at in bed.buffer.writes if at < HIDDEN]
    assert cycles == [*range(cycles[0], cycles[0] + HIDDEN)]
    begun, _ = await bed.move(True, 1)
    first = bed.buffer.reads[: min(HIDDEN, 16 * WORD // STATE_BYTES)]
    assert first == [*range(first[0], first[0] + len(first))]
    assert first[0] == begun + 5


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def nothing_is_done_for_nobody(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    await bed.token([0] * LANES, [0] * LANES)
    for keep in (False, True):
        begun, ended = await bed.move(keep, 0)
        assert ended - begun <= LANES + 1
    assert not bed.source.bursts
    assert not bed.target.bursts
    assert not bed.buffer.writes
