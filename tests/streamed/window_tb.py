# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the host's window into memory."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.streamed.window import Window
from nomul.sim.harness import Bench, parameters
from nomul.sim.harness.memory import MemoryModel

OPTIONS = parameters()["options"]
WORD, SIZE = OPTIONS["word_bytes"], OPTIONS["memory_bytes"]
OUTSIDE = 1 << 31  # set in every address that means memory


class Bed:
    """A window between a bus, driven as the link does, and memory."""

    def __init__(self, dut: Any):
        self.dut = dut

    async def start(self, **memory: Any) -> None:
        dut = self.dut
        self.bench = Bench(dut, Window(**OPTIONS))
        for name in ("bus__address", "bus__write", "bus__write_data", "bus__read", "forget", "lost",
                     "memory__read_valid", "memory__read_data", "memory__read_error", "memory__write_error",
                     "memory__unacknowledged"):
            getattr(dut, name).value = 0
        await self.bench.start()
        self.memory = MemoryModel(
            self.bench, "memory", word_bytes=WORD, words=-(-SIZE // WORD), **memory
        )

    async def access(self, address: int, data: int | None = None, limit: int = 3000) -> tuple[int | None, int]:
        """Byte read (0 of a write), None for an error; and cycles from strobe to ``done``."""
        dut = self.dut
        await FallingEdge(dut.clk)
        strobe = dut.bus__read if data is None else dut.bus__write
        strobe.value, dut.bus__address.value, dut.bus__write_data.value = 1, OUTSIDE | address, data or 0
        for cycle in range(1, limit):
            await FallingEdge(dut.clk)
            strobe.value = 0
            await ReadOnly()
            if dut.bus__done.value:
                found = None if dut.bus__error.value else int(dut.bus__read_data.value)
                await FallingEdge(dut.clk)
                assert not dut.bus__done.value
                return found, cycle
            assert not dut.bus__error.value
        raise AssertionError("no answer")

    async def strobe(self, name: str) -> None:
        await FallingEdge(self.dut.clk)
        getattr(self.dut, name).value = 1
        await FallingEdge(self.dut.clk)
        getattr(self.dut, name).value = 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.6])
async def reads_and_writes_bytes(dut, stall: float) -> None:
    bed = Bed(dut)
    await bed.start(stall=stall, latency=(1, 9))
    rng = bed.bench.rng
    content = bytearray(bed.memory.get(0, SIZE))
    at = 0
    for _ in range(400):
        at = rng.choice([at + 1, at, rng.randrange(SIZE), 0, SIZE - 1]) % SIZE
        if rng.random() < 0.5:
            content[at] = rng.getrandbits(8)
            assert (await bed.access(at, content[at]))[0] is not None
        else:
            assert (await bed.access(at))[0] == content[at]
    await bed.memory.settle()
    assert bed.memory.get(0, SIZE) == bytes(content)
    assert all(burst.words == 1 for burst in bed.memory.bursts)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def reads_on_in_3_cycles(dut) -> None:
    bed = Bed(dut)
    await bed.start(latency=(7, 7))
    wanted = bed.memory.get(0, 2 * WORD)
    for at in range(2 * WORD):
        found, cycles = await bed.access(at)
        assert found == wanted[at]
        assert cycles == (3 if at % WORD else 4 + 7)
    assert len(bed.memory.bursts) == 2
    await bed.access(0)
    assert len(bed.memory.bursts) == 3  # the word of the latest access only
    found, cycles = await bed.access(0, 0x5A)
    assert cycles == 6 + 7  # a write has told, given its word, and was acknowledged
    await bed.memory.settle()
    assert bed.memory.get(0, 1) == b"\x5a"
    assert (await bed.access(0))[1] == 3


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def refuses_what_lies_behind_memory(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    for at in (SIZE, SIZE + 1, (1 << 31) - 1):
        for data in (None, 3):
            assert (await bed.access(at, data))[0] is None
    assert not bed.memory.bursts
    assert (await bed.access(SIZE - 1))[0] is not None


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def forgets_when_told(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    before = (await bed.access(0))[0]
    bed.memory.content[0] = bed.memory.word(0) ^ 0xFF  # others write
    assert (await bed.access(0))[0] == before
    await bed.strobe("forget")
    assert (await bed.access(0))[0] == before ^ 0xFF


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def wrong_words_are_errors(dut) -> None:
    bed = Bed(dut)
    await bed.start(wrong={1})
    good = (await bed.access(0))[0]
    for _ in range(2):  # it is asked again: nothing wrong is kept
        assert (await bed.access(WORD))[0] is None
        assert (await bed.access(WORD, 7))[0] is None  # cannot be filled up
    assert not any(burst.write for burst in bed.memory.bursts)
    assert (await bed.access(0))[0] == good
    bed.memory.wrong = ()
    assert (await bed.access(WORD))[0] == bed.memory.get(WORD, 1)[0]


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(acknowledge=[(1, 1), (1, 200)], stall=[0.0, 0.5])
async def a_write_that_fails_is_an_error(dut, acknowledge: Any, stall: float) -> None:
    """However late memory says so; the next access is as ever, and sees what memory has."""
    bed = Bed(dut)
    await bed.start(latency=(1, 9), acknowledge=acknowledge, stall=stall)
    words = SIZE // WORD
    for k in range(20):
        at = k % words * WORD + bed.bench.rng.randrange(WORD)
        if k % 2:  # its word is there
            await bed.access(at)
        old, new = bed.memory.get(at, 1)[0], bed.bench.rng.getrandbits(8)
        read = len(bed.memory.answers)
        access = cocotb.start_soon(bed.access(at, new))
        while k % 2 == 0 and len(bed.memory.answers) == read:
            await FallingEdge(dut.clk)
        bed.memory.wrong = {at // WORD}
        assert (await access)[0] is None
        assert bed.memory.idle
        bed.memory.wrong = ()
        assert (await bed.access(at))[0] == old
        assert (await bed.access(at, new))[0] is not None
        assert bed.memory.idle  # it waited
        assert bed.memory.get(at, 1)[0] == new


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(deaf=[False, True], write=[False, True])
async def silence_is_an_error(dut, deaf: bool, write: bool) -> None:
    """In whatever state it strikes; afterwards the window works."""
    bed = Bed(dut)
    await bed.start(latency=(2, 2))
    for kept in (False, True):
        if kept and not write:
            continue  # needs no memory
        at = WORD if kept else 0
        if kept:
            await bed.access(at)
        else:
            await bed.access(2 * WORD)
        bed.memory.silence(deaf=deaf)
        access = cocotb.start_soon(bed.access(at, 1 if write else None))
        await bed.bench.step(bed.bench.rng.randint(6, 30))
        assert not access.done()
        bed.memory.withdrawn()
        await bed.strobe("lost")
        bed.memory.withdrawn()
        assert (await access)[0] is None
        bed.memory._reads.clear()  # as the arbiter keeps late answers away
        bed.memory.speak()
        await bed.bench.step(5)
        assert (await bed.access(at))[0] == bed.memory.get(at, 1)[0]
        assert (await bed.access(at + 1, 9))[0] is not None
        await bed.memory.settle()
        assert bed.memory.get(at + 1, 1) == b"\x09"


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def a_loss_in_any_cycle_leaves_nothing_wrong(dut) -> None:
    """No byte is ever read wrong, whenever memory was lost."""
    bed = Bed(dut)
    await bed.start(latency=(3, 3))
    at = 0
    for delay in range(16):
        for data in (None, delay):
            at = (at + WORD) % (SIZE // WORD * WORD)
            old = bed.memory.get(at, 1)[0]
            access = cocotb.start_soon(bed.access(at, data))
            await bed.bench.step(delay)
            dut.lost.value = 1
            bed.memory.withdrawn()
            await bed.bench.step()
            dut.lost.value = 0
            bed.memory.withdrawn()
            found = (await access)[0]
            await bed.bench.step(8)  # late answers pass
            if data is None:
                assert found in (None, old)
            bed.memory._writes.clear()  # a word that never comes: the arbiter's business
            bed.memory._given.clear()
            bed.memory._done = bed.memory._begun
            if data is not None and found is not None:
                assert bed.memory.get(at, 1)[0] == data
            assert (await bed.access(at))[0] == bed.memory.get(at, 1)[0]
