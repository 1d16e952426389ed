# SPDX-License-Identifier: Apache-2.0
"""cocotb side of a whole streamed core: tokens against golden, faults of memory and abortions between them."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, ReadOnly
from tops import CoreTop

from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.isa import pack_program
from nomul.model.memory_map import BLOCK, LOGIT_BYTES
from nomul.model.protocol import Fault
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.golden import Golden
from nomul.sim.harness import Bench, parameters
from nomul.sim.harness.memory import MemoryModel

P = parameters()
CONFIG = StreamedConfig(**P["config"])
GEOMETRY = Geometry(**P["geometry"])
IMAGE = CONFIG.compile(fold(random_checkpoint(GEOMETRY, P["seed"])))
LANES, PATIENCE = CONFIG.lanes, P["patience"]
QUIET = 4096
MEMORY = 1 << 31  # set in a bus address: external memory


class Bed:
    """A core, its memory, and golden beside it."""

    def __init__(self, dut: Any):
        self.dut = dut

    async def start(self, **memory: Any) -> None:
        dut = self.dut
        core = CoreTop(config=CONFIG, patience=PATIENCE)
        self.bench = Bench(dut, core)
        for name in ("give_up", "bus__address", "bus__write", "bus__write_data", "bus__read"):
            getattr(dut, name).value = 0
        for name in ("read_valid", "read_data", "read_error", "write_error", "unacknowledged"):
            getattr(dut, f"memory__{name}").value = 0
        await self.bench.start()
        word = CONFIG.word_bytes
        self.memory = MemoryModel(self.bench, "memory", word_bytes=word, words=CONFIG.memory_bytes // word, **memory)
        assert IMAGE.map is not None
        for _, address, part in IMAGE.map.parts(pack_program(IMAGE.program), IMAGE.weights, IMAGE.embeddings):
            self.memory.put(address, part.tobytes())
        self.golden = Golden(IMAGE, lanes=LANES, slots=CONFIG.slots)

    def offer(self, fresh: bool) -> list[int]:
        """A token for every lane."""
        rng = self.bench.rng
        tokens = [rng.randrange(GEOMETRY.vocab) for _ in range(LANES)]
        ones = [1] * LANES
        self.bench.send("token_i", [{
            "token": tokens, "slot": [*range(LANES)], "fresh": [int(fresh)] * LANES, "active": ones, "logits": ones,
        }])  # fmt: skip
        return tokens

    async def result(self) -> list[int]:
        return (await self.bench.receive("token_o", 1, stall=0.2))[0]

    async def right(self, fresh: bool) -> None:
        """A token; all that it leaves is golden's."""
        tokens = self.offer(fresh)
        if fresh:
            self.golden.reset()
        found = await self.result()
        assert found == self.golden.step(tokens).tolist()
        assert not self.dut.error.value
        await self.bench.step(2)
        assert IMAGE.map is not None
        await self.memory.settle()
        for lane in range(LANES):
            at = (IMAGE.map.logits + lane * IMAGE.map.logits_stride) * BLOCK
            logits = np.frombuffer(self.memory.get(at, GEOMETRY.vocab * LOGIT_BYTES), dtype="<i4")
            np.testing.assert_array_equal(logits, self.golden.logits[lane])

    async def written(self, words: int) -> None:
        """Waits until so many words were written in all."""
        for _ in range(100 * PATIENCE):
            if len(self.memory.written) >= words:
                return
            await self.bench.step()
        raise AssertionError(f"{len(self.memory.written)} words written")

    async def abort(self) -> None:
        self.dut.give_up.value = 1
        while True:
            await FallingEdge(self.dut.clk)
            if not self.dut.busy.value:
                break
        self.dut.give_up.value = 0
        port: Any = self.bench.ports["token_i"]
        port.queue.clear()

    async def access(self, address: int, data: int | None = None) -> int | None:
        """A byte of memory, over the bus; None for an error."""
        dut = self.dut
        await FallingEdge(dut.clk)
        strobe = dut.bus__read if data is None else dut.bus__write
        strobe.value, dut.bus__address.value, dut.bus__write_data.value = 1, MEMORY | address, data or 0
        for _ in range(3 * PATIENCE):
            await FallingEdge(dut.clk)
            strobe.value = 0
            await ReadOnly()
            if dut.bus__done.value:
                found = None if dut.bus__error.value else int(dut.bus__read_data.value)
                await FallingEdge(dut.clk)
                return found
        raise AssertionError("no answer")


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.4])
async def tokens_are_golden_s(dut, stall: float) -> None:
    bed = Bed(dut)
    await bed.start(latency=(4, 40), stall=stall)
    for number in range(4):
        await bed.right(number in (0, 3))


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def an_aborted_token_leaves_nothing(dut) -> None:
    """Whenever it is aborted: in the embedding, in a move, in the logits."""
    bed = Bed(dut)
    await bed.start(latency=(2, 12))
    rng = bed.bench.rng
    await bed.right(True)
    whole = bed.bench.times("token_o")[-1] - bed.bench.times("token_i")[-1]
    for k in range(10):
        bed.offer(True)
        await bed.bench.sent("token_i")
        await bed.bench.step(rng.randint(10, 200) if k % 2 else rng.randint(10, whole - 10))
        await bed.abort()
        if k % 3 == 0:  # two in a row
            bed.offer(True)
            await bed.bench.sent("token_i")
            await bed.bench.step(rng.randint(1, 120))
            await bed.abort()
        await bed.right(True)
    await bed.right(False)


@cocotb.test(timeout_time=100, timeout_unit="ms")
@cocotb.parametrize(part=["program", "weights", "embeddings", "state"])
async def a_wrong_word_is_a_fault(dut, part: str) -> None:
    bed = Bed(dut)
    await bed.start(latency=(2, 12))
    where = IMAGE.map
    assert where is not None
    first, end = {
        "program": (0, 1), "weights": (where.stream, where.embeddings), "embeddings": (where.embeddings, where.state),
        "state": (where.state, where.logits),
    }[part]  # fmt: skip
    await bed.right(True)
    for _ in range(2):
        per = BLOCK // CONFIG.word_bytes
        first = bed.bench.rng.randrange(first, (first + end) // 2) if part == "weights" else first
        bed.memory.wrong = range(first * per, end * per)
        bed.offer(False)
        assert await bed.result() == [0] * LANES
        assert int(dut.error.value) == Fault.MEMORY
        bed.memory.wrong = ()
        await bed.bench.step(200)  # words still on their way may be wrong
        await bed.right(True)
        await bed.right(False)


@cocotb.test(timeout_time=100, timeout_unit="ms")
@cocotb.parametrize(deaf=[False, True])
async def silence_is_a_fault(dut, deaf: bool) -> None:
    bed = Bed(dut)
    await bed.start(latency=(2, 12))
    await bed.right(True)
    whole = bed.bench.times("token_o")[-1] - bed.bench.times("token_i")[-1]
    lost = 0
    for turn in range(5):
        tokens = bed.offer(False)
        await bed.bench.sent("token_i")
        await bed.bench.step(bed.bench.rng.randint(2, whole // 2 if turn > 2 else 60))
        bed.memory.silence(deaf=deaf)
        begun = bed.bench.cycle
        result = cocotb.start_soon(bed.result())
        while not dut.token_o__valid.value:
            await FallingEdge(dut.clk)
            assert bed.bench.cycle < begun + whole + 2 * PATIENCE
            bed.memory.withdrawn()
        found = await result
        if dut.error.value:
            lost += 1
            assert found == [0] * LANES
            assert int(dut.error.value) == Fault.SILENCE
        else:  # it had all that it wanted
            assert found == bed.golden.step(tokens).tolist()
        bed.memory.speak()
        await bed.right(True)
        await bed.right(False)
    assert lost >= 3


@cocotb.test(timeout_time=100, timeout_unit="ms")
@cocotb.parametrize(part=["logits", "state"])
async def a_write_that_fails_is_a_fault_of_its_token(dut, part: str) -> None:
    """However long after its last word memory says so."""
    bed = Bed(dut)
    await bed.start(latency=(2, 12), stall=0.1, acknowledge=(300, PATIENCE - 500))
    where, memory = IMAGE.map, bed.memory
    assert where is not None
    per = BLOCK // CONFIG.word_bytes
    end = CONFIG.memory_bytes // CONFIG.word_bytes
    region = range(where.logits * per, end) if part == "logits" else range(where.state * per, where.logits * per)
    await bed.right(True)
    whole = len(memory.written)
    # What a token writes there last. State was read before; it fails when it is written.
    final = [burst for burst in memory.bursts if burst.write and burst.address in region][-1]
    wrong = range(final.address, final.address + final.words)
    for _ in range(2):
        words, bursts = len(memory.written), len(memory.bursts)
        bed.offer(True)
        if part == "logits":
            memory.wrong = wrong
        while not any(burst.write and burst.address == final.address for burst in memory.bursts[bursts:]):
            await bed.bench.step()
        memory.wrong = wrong
        begun = bed.bench.cycle
        assert await bed.result() == [0] * LANES
        assert int(dut.error.value) == Fault.MEMORY
        assert bed.bench.times("token_o")[-1] >= begun + 300
        if part == "logits":
            assert len(memory.written) == words + whole
        memory.wrong = ()
        await bed.right(True)
        await bed.right(False)


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def writes_that_are_never_acknowledged_are_silence(dut) -> None:
    """All that a token wants is read, and its last word taken; tokens fail until memory speaks, then all is well."""
    bed = Bed(dut)
    await bed.start(latency=(2, 12), acknowledge=(60, 90))
    await bed.right(True)
    whole = len(bed.memory.written)
    for idle in (3, 3 * PATIENCE):
        words = len(bed.memory.written)
        bed.offer(False)
        await bed.written(words + whole)
        bed.memory.silence()
        for _ in range(2):  # the second one reads nothing
            begun = bed.bench.cycle
            assert await bed.result() == [0] * LANES
            assert int(dut.error.value) == Fault.SILENCE
            assert begun + PATIENCE - 10 <= bed.bench.times("token_o")[-1] <= begun + PATIENCE + 100
            await bed.bench.step(idle)
            bed.offer(False)
        bed.memory.speak()
        await bed.result()  # of states nothing is known
        assert not dut.error.value
        await bed.right(True)
        await bed.right(False)


@cocotb.test(timeout_time=100, timeout_unit="ms")
@cocotb.parametrize(speaks=[True, False])
async def a_token_that_waits_for_acknowledgements_can_be_aborted(dut, speaks: bool) -> None:
    """The next one begins when the writes are acknowledged or lost."""
    bed = Bed(dut)
    await bed.start(latency=(2, 12), acknowledge=(60, 90))
    await bed.right(True)
    words = len(bed.memory.written)
    bed.offer(False)
    await bed.written(2 * words)
    bed.memory.silence()
    await bed.bench.step(30)
    await bed.abort()
    bed.offer(True)
    await bed.bench.step(30)
    assert len(bed.bench.times("token_i")) == 2
    if not speaks:
        begun = bed.bench.cycle
        assert await bed.result() == [0] * LANES
        assert int(dut.error.value) == Fault.SILENCE
        assert bed.bench.times("token_o")[-1] <= begun + 2 * PATIENCE + 100
    bed.memory.speak()
    if speaks:
        await bed.result()
    await bed.right(True)
    await bed.right(False)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def the_host_sees_memory(dut) -> None:
    bed = Bed(dut)
    await bed.start(latency=(2, 12))
    await bed.right(True)
    assert IMAGE.map is not None
    at = IMAGE.map.logits * BLOCK
    for k in range(12):
        assert await bed.access(at + k) == bed.memory.get(at + k, 1)[0]
    for _ in range(2):  # a write that fails is the host's, not the next token's
        assert await bed.access(at) == bed.memory.get(at, 1)[0]
        bed.memory.wrong = {at // CONFIG.word_bytes}
        assert await bed.access(at, 3) is None
        bed.memory.wrong = ()
        await bed.right(False)
        assert await bed.access(at, 3) is not None
        assert bed.memory.get(at, 1) == b"\3"
    bed.memory.silence()
    assert await bed.access(at, 4) is None  # its word is there, but nothing is acknowledged
    assert await bed.access(0) is None
    bed.memory.speak()
    assert await bed.access(1) == bed.memory.get(1, 1)[0]
    assert await bed.access(CONFIG.memory_bytes) is None
    await bed.right(False)
