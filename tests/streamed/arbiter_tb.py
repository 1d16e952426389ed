# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the arbiter: clients that read and write, a memory that stalls, fails and falls silent."""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout
from nomul.hw.streamed.arbiter import Arbiter
from nomul.sim.harness import Bench, parameters
from nomul.sim.harness.memory import MemoryModel
from nomul.sim.harness.packing import unpack_bits

P = parameters()
OPTIONS = P["options"]
NAMES, WORD, PATIENCE = OPTIONS["clients"], OPTIONS["word_bytes"], OPTIONS["patience"]
QUIET = 4096
BITS = 8 * WORD


class Client:
    """Reads and writes a region of its own; knows what must come back."""

    def __init__(self, bench: Bench, memory: MemoryModel, index: int):
        self.bench, self.memory, self.name = bench, memory, NAMES[index]
        self.first = index << 20
        self.content: dict[int, int] = {}
        self.due: deque[int] = deque()  # words
        self.addresses: deque[int] = deque()
        self.came: list[tuple[int, int, bool]] = []  # cycle, word, error
        self.write_errors = 0

    def read(self, address: int, words: int, stall: float = 0.0) -> None:
        self._ask(address, words, False, stall)
        for k in range(address, address + words):
            self.addresses.append(self.first + k)
            self.due.append(self.content.get(k, self.memory.word(self.first + k)))

    def write(self, address: int, values: list[int], stall: float = 0.0) -> None:
        self._ask(address, len(values), True, stall)
        self.bench.send(f"{self.name}__write", values, stall=stall)
        self.content.update(enumerate(values, address))

    def _ask(self, address: int, words: int, write: bool, stall: float) -> None:
        command = {"address": self.first + address, "last": words - 1, "write": int(write)}
        self.bench.send(f"{self.name}__command", [command], stall=stall)

    def forget(self) -> None:
        """Withdraws all, as a client does that is reset."""
        for stream in ("command", "write"):
            port: Any = self.bench.ports[f"{self.name}__{stream}"]
            port.queue.clear()
            port.offering = False
            port.valid.value = 0
        self.due.clear()
        self.addresses.clear()

    def sample(self, now: int) -> None:
        dut = self.bench.dut
        unacknowledged = int(getattr(dut, f"{self.name}__unacknowledged").value)
        assert unacknowledged == int(dut.unacknowledged.value)
        if getattr(dut, f"{self.name}__write_error").value:
            self.write_errors += 1
            assert unacknowledged, f"{self.name}: an error of a write that counted as acknowledged"
        if not getattr(dut, f"{self.name}__read_valid").value:
            return
        word = int(getattr(dut, f"{self.name}__read_data").value)
        error = bool(getattr(dut, f"{self.name}__read_error").value)
        assert self.due, f"{self.name}: an answer that nobody waits for"
        wanted, at = self.due.popleft(), self.addresses.popleft()
        assert error == (at in self.memory.wrong)
        assert error or word == wanted, f"{self.name}: {word:#x} from {at:#x}, not {wanted:#x}"
        self.came.append((now, word, error))


class Acknowledgements:
    """Checks that clients know, without a gap and not for ever, whether writes are not acknowledged."""

    def __init__(self, bench: Bench, memory: MemoryModel):
        self.bench, self.memory = bench, memory
        self.begun = self.ended = 0  # writes
        self.forgotten = 0
        self.since = 0  # cycle of the latest acknowledgement, or of the loss

    def sample(self, now: int) -> None:
        """A cycle; what a loss left behind counts no more."""
        dut = self.bench.dut
        owed = self.begun - self.ended
        if owed > 0:
            assert dut.unacknowledged.value, "a gap"
        elif now > self.since + 1:
            assert not dut.unacknowledged.value, "nothing is owed"
        for name in NAMES:
            port: Any = self.bench.ports[f"{name}__command"]
            if port.fired():
                self.begun += unpack_bits(MemoryCommandLayout, int(port.payload.value))["write"]
        if self.memory.acknowledged and self.memory.acknowledged[-1] == now:
            self.since = now
            if self.forgotten:
                self.forgotten -= 1
            else:
                self.ended += 1
        if dut.lost.value:
            self.forgotten += self.begun - self.ended
            self.begun = self.ended = 0
            self.since = now


class Bed:
    """An arbiter between clients and memory, watched."""

    def __init__(self, dut: Any, **memory: Any):
        self.dut, self.settings = dut, memory
        self.failed: list[int] = []
        self.lost: list[int] = []

    async def start(self) -> None:
        dut = self.dut
        self.bench = Bench(dut, Arbiter(**OPTIONS))
        for name in ("read_valid", "read_data", "read_error", "write_error", "unacknowledged"):
            getattr(dut, f"memory__{name}").value = 0
        await self.bench.start()
        self.memory = MemoryModel(self.bench, "memory", word_bytes=WORD, **self.settings)
        self.clients = [Client(self.bench, self.memory, k) for k in range(len(NAMES))]
        self.writes = Acknowledgements(self.bench, self.memory)
        cocotb.start_soon(self.run())

    async def run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            now = self.bench.cycle
            await ReadOnly()
            for client in self.clients:
                client.sample(now)
            self.writes.sample(now)
            if self.dut.failed.value:
                self.failed.append(now)
            if self.dut.lost.value:
                self.lost.append(now)
                self.memory.withdrawn()

    def outstanding(self) -> int:
        """Bursts of reads at memory."""
        return len(self.memory._reads)

    async def settle(self, cycles: int = 20000) -> None:
        for _ in range(cycles):
            await self.bench.step()
            if not any(c.due for c in self.clients):
                break
        else:
            raise AssertionError("answers are missing")
        for name in NAMES:
            await self.bench.sent(f"{name}__command")
            await self.bench.sent(f"{name}__write")
        await self.memory.settle()


def some(bench: Bench, client: Client, stall: float) -> None:
    """A burst, anything that is allowed."""
    rng = bench.rng
    block, words = rng.randrange(3), rng.choice([1, 1, 2, rng.randint(1, BURST_WORDS), BURST_WORDS])
    at = block * BURST_WORDS + rng.randint(0, BURST_WORDS - words)
    waited_for = {client.first + k for k in range(at, at + words)} & {*client.addresses}
    if rng.random() < 0.5 or waited_for:  # a read may see what is written later
        client.read(at, words, stall)
    else:
        client.write(at, [rng.choice([0, (1 << BITS) - 1, rng.getrandbits(BITS)]) for _ in range(words)], stall)


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(
    latency=[(1, 1), (5, 60)], memory_stall=[0.0, 0.5], client_stall=[0.0, 0.7],
)  # fmt: skip
async def brings_answers_to_who_asked(dut, latency: Any, memory_stall: float, client_stall: float) -> None:
    bed = Bed(dut, latency=latency, stall=memory_stall)
    await bed.start()
    most = 0
    for _ in range(60):
        for client in bed.clients:
            for _ in range(bed.bench.rng.randint(0, 2)):
                some(bed.bench, client, client_stall)
        await bed.bench.step(bed.bench.rng.randint(1, 40))
        most = max(most, bed.outstanding())
    await bed.settle()
    for client in bed.clients:
        for at, word in client.content.items():
            assert bed.memory.word(client.first + at) == word
        assert not client.write_errors
    assert not bed.failed
    assert not bed.lost
    assert most <= 32


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def takes_a_cycle_each_way(dut) -> None:
    bed = Bed(dut, latency=(3, 3))
    await bed.start()
    bed.clients[0].read(5, 1)
    await bed.settle()
    asked = bed.bench.times(f"{NAMES[0]}__command")[0]
    assert bed.memory.bursts[0].cycle == asked + 1
    assert bed.memory.answers == [asked + 4]
    assert bed.clients[0].came[0][0] == asked + 5


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def gives_memory_a_burst_a_cycle_and_takes_a_word_a_cycle(dut) -> None:
    bed = Bed(dut, latency=(40, 40))
    await bed.start()
    last = bed.clients[-1]
    for k in range(32):
        last.read(k, 1)
    await bed.settle()
    cycles = [burst.cycle for burst in bed.memory.bursts]
    assert cycles == [*range(cycles[0], cycles[0] + 32)]
    cycles = [cycle for cycle, _, _ in last.came]
    assert cycles == [*range(cycles[0], cycles[0] + 32)]


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def has_at_most_32_bursts_on_their_way(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    bed.memory.silence()
    for k in range(40):
        bed.clients[k % len(NAMES)].read(k, 1 + k % 3)
    await bed.bench.step(100)
    assert bed.outstanding() == 32
    bed.memory.speak()
    await bed.settle()


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def serves_by_rank(dut) -> None:
    """Of those who wait, the first; nobody is overtaken from below while its turn is not possible."""
    bed = Bed(dut)
    await bed.start()
    bed.memory.silence(deaf=True)
    bed.clients[-1].read(0, 1)
    await bed.bench.step(4)
    for k, client in reversed([*enumerate(bed.clients)]):
        client.read(1 + k, 1)
        client.read(10 + k, 1)
    await bed.bench.step(4)
    bed.memory.speak()
    await bed.settle()
    whom = [burst.address >> 20 for burst in bed.memory.bursts]
    assert whom == [len(NAMES) - 1, *(k for k in range(len(NAMES)) for _ in range(2))]


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def writers_are_not_mixed(dut) -> None:
    bed = Bed(dut, stall=0.3)
    await bed.start()
    for _ in range(10):
        for k, client in enumerate(bed.clients):
            client.write(0, [k << 4 | n % 16 for n in range(BURST_WORDS)], 0.2)
        await bed.settle()
    writes = [burst for burst in bed.memory.bursts if burst.write]
    wanted = [burst.address >> 20 << 4 | n % 16 for burst in writes for n in range(burst.words)]
    assert bed.memory.written == wanted


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def tells_errors(dut) -> None:
    bed = Bed(dut, latency=(2, 9), wrong={1 << 20, 5})
    await bed.start()
    first, second = bed.clients[:2]
    second.read(0, 3)
    first.read(4, 3)
    await bed.settle()
    assert [error for _, _, error in second.came] == [True, False, False]
    assert [error for _, _, error in first.came] == [False, True, False]
    assert len(bed.failed) == 2
    assert {cycle for cycle, _, error in [*first.came, *second.came] if error} == set(bed.failed)
    first.write(4, [1, 2, 3])
    await bed.settle()
    await bed.bench.step(20)
    assert len(bed.failed) == 3
    assert [client.write_errors for client in bed.clients] == [1] * len(NAMES)
    assert not bed.lost


async def lose(bed: Bed, limit: int = PATIENCE + 200) -> int:
    """Waits for the loss; then clients forget."""
    count = len(bed.lost)
    for _ in range(limit):
        await FallingEdge(bed.dut.clk)
        if len(bed.lost) > count:
            break
    else:
        raise AssertionError("no loss")
    for client in bed.clients:
        client.forget()
    return bed.lost[-1]


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(deaf=[False, True], what=["read", "write", "words", "both"])
async def notices_silence(dut, deaf: bool, what: str) -> None:
    """Silence is told after ``patience`` cycles; late answers reach nobody; then all is as before."""
    bed = Bed(dut, latency=(1, 4))
    await bed.start()
    first, second = bed.clients[:2]
    second.read(0, 2)
    await bed.settle()
    await bed.bench.step(3 * PATIENCE)
    assert not bed.lost  # who waits for nothing is patient
    if what == "words":  # the command is taken, then no word is
        second.bench.send(f"{second.name}__command", [{"address": second.first, "last": 3, "write": 1}])
        await bed.bench.step(5)
        assert len(bed.memory._writes) == 1
    bed.memory.silence(deaf=deaf)
    began = bed.memory.bursts[-1].cycle if what == "words" and deaf else bed.bench.cycle
    if what == "words":
        if deaf:
            bed.bench.send(f"{second.name}__write", [7, 7, 7, 7])
        else:
            bed.bench.send(f"{second.name}__write", [7, 7])  # and then nothing comes
    if what in ("read", "both"):
        for k in range(6):
            bed.clients[k % 2].read(64 * k, 64)
    if what in ("write", "both"):
        if deaf:
            first.write(0, [9] * 40)
        else:  # words are missing
            bed.bench.send(f"{first.name}__command", [{"address": 0, "last": 5, "write": 1}])
            bed.bench.send(f"{first.name}__write", [9] * 2)
    at = await lose(bed)
    assert began + PATIENCE <= at <= began + PATIENCE + 12
    await bed.bench.step(20)
    bed.memory.speak()  # answers come late
    await bed.bench.step(2 * QUIET // 3)
    late = bed.memory.answers[-1]
    assert bed.memory.idle
    asked = bed.bench.cycle
    first.read(100, 5)
    second.read(70, 3)
    values = [bed.bench.rng.getrandbits(BITS) for _ in range(7)]
    first.write(200, values)
    first.read(199, 9)
    before = len(bed.memory.bursts)
    await bed.settle()
    assert bed.memory.bursts[before].cycle >= max(late, asked - QUIET) + 1
    if late > at:
        assert bed.memory.bursts[before].cycle >= late + QUIET
    assert len(bed.lost) == 1
    for client in bed.clients:
        assert not client.due


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def late_answers_reach_nobody(dut) -> None:
    """Whenever they come, from the cycle of the loss on."""
    bed = Bed(dut, latency=(1, 1))
    await bed.start()
    for delay in range(-2, 6):
        bed.memory.silence()
        bed.clients[0].read(0, 8)
        bed.clients[1].read(0, 8)
        await bed.bench.step(2)
        count, guess = len(bed.lost), bed.bench.cycle + PATIENCE + delay
        while bed.bench.cycle < guess:
            await FallingEdge(dut.clk)
            if len(bed.lost) > count:
                count += 1
                for client in bed.clients:
                    client.forget()
        bed.memory.speak()
        for _ in range(60):
            await FallingEdge(dut.clk)
            if len(bed.lost) > count:
                count += 1
                for client in bed.clients:
                    client.forget()
        await bed.bench.step(QUIET + 100)
        bed.clients[1].read(3, 4)
        await bed.settle()


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def dead_memory_is_lost_again_and_again(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    bed.memory.silence(deaf=True)
    for turn in range(3):
        bed.clients[0].read(0, 2)
        bed.clients[1].write(0, [1])
        await lose(bed, 2 * PATIENCE + QUIET + 200)
        assert len(bed.lost) == turn + 1


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def late_errors_of_writes_are_told(dut) -> None:
    """Memory that takes its time with acknowledgements is not lost, if it gives the last within ``patience``."""
    bed = Bed(dut, latency=(1, 9), stall=0.2, acknowledge=(PATIENCE - 80, PATIENCE - 20), wrong={2})
    await bed.start()
    for _ in range(5):
        count = len(bed.failed)
        for client in bed.clients:
            client.write(0, [1, 2, 3, 4], 0.3)
        await bed.settle()
        await bed.bench.step(3)
        assert len(bed.failed) == count + 1
    assert [client.write_errors for client in bed.clients] == [5] * len(NAMES)
    assert not bed.lost


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(deaf=[False, True], wrong=[False, True])
async def writes_that_are_never_acknowledged_are_a_loss(dut, deaf: bool, wrong: bool) -> None:
    """Told once, and again to who asks until memory speaks; errors of what is forgotten reach nobody."""
    bed = Bed(dut, latency=(1, 4), wrong={0, 1} if wrong else ())
    await bed.start()
    first, second = bed.clients[:2]
    bed.memory.silence(deaf=deaf)
    first.write(0, [1, 2, 3])
    await bed.bench.step(8)
    began = bed.bench.cycle
    assert bed.memory.written == ([] if deaf else [1, 2, 3])
    at = await lose(bed)
    assert began + PATIENCE - 8 <= at <= began + PATIENCE + 4
    for turn in range(1, 4):
        await bed.bench.step(5 * PATIENCE)
        assert len(bed.lost) == turn  # nobody asks
        assert not dut.unacknowledged.value
        begun = bed.bench.cycle
        if turn % 2:
            second.read(2, 3)
        else:
            second.write(2, [5])
        assert begun + PATIENCE <= await lose(bed) <= begun + PATIENCE + 4
    assert len(bed.memory.bursts) == (0 if deaf else 1)
    bed.memory.speak()
    second.read(0, 2)
    first.read(3, 2)
    await bed.settle()
    assert bed.memory.bursts[-2].cycle >= bed.memory.acknowledged[-1] + QUIET
    assert len(bed.lost) == 4
    assert not bed.failed
    assert not any(client.write_errors for client in bed.clients)
    second.write(7, [1, 2])
    second.read(7, 2)
    await bed.settle()
