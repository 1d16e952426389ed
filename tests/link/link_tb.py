# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the link's tests: a host made of bytes, in front of a link and a stand-in core."""

from __future__ import annotations

import struct
import zlib

import cocotb
from standin import HANGS, IDENTITY, REGION_BYTES, StandInCore, standin_tokens

from nomul.host.protocol import FrameDecoder, Response, decode_response, encode_request, slip
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.protocol import (
    HEADER_BYTES,
    MAX_DATA,
    MAX_FRAME,
    MAX_POLL,
    MAX_PROMPT,
    MAX_STEPS,
    RESPONSE,
    SLIP_END,
    SLIP_ESC,
    VERSION,
    Command,
    Identity,
    JobState,
    Region,
    Statistics,
    Status,
)
from nomul.sim.harness import Bench, parameters

P = parameters()
SESSION = 0xC0DB  # END and ESC, to be escaped in every frame


def test(limit_ms: int):
    """A cocotb test with a limit on simulated time; a cycle is 10 ns."""
    return cocotb.test(timeout_time=limit_ms, timeout_unit="ms")


class Host:
    """Speaks frames with the device under test."""

    def __init__(self, dut, stall: float = 0.0):
        top = Top(core=StandInCore(cycles=P["cycles"]), link=Link(identity=IDENTITY))
        self.bench = Bench(dut, top)
        self.dut, self.stall, self.rng = dut, stall, self.bench.rng
        self.sequence, self.session = 0xFFF0, SESSION  # wraps around early
        self.decoder = FrameDecoder()
        self.sent = dict.fromkeys(Statistics.__dataclass_fields__, 0)

    async def start(self) -> None:
        await self.bench.start()
        self.sent = dict.fromkeys(self.sent, 0)

    async def send(self, raw: bytes) -> None:
        self.bench.send("rx", raw, stall=self.stall)
        await self.bench.sent("rx")

    async def answer(self) -> Response:
        """The next response; the test's limit ends a wait for one that never comes."""
        while True:
            byte = bytes(await self.bench.receive("tx", 1, stall=self.stall))
            for raw in self.decoder.feed(byte):
                response = decode_response(raw)
                assert response is not None, f"damaged response {raw.hex()}"
                return response

    async def silent(self, raw: bytes, why: str) -> None:
        """Sends what must be dropped: no byte comes, and the link rests."""
        await self.send(raw)
        await self.bench.step(30)
        assert not self.dut.tx__valid.value, f"{why}: answered"
        assert not self.dut.busy.value, f"{why}: still busy"
        self.sent[why] += 1

    async def request(
        self,
        command: int,
        arguments: bytes = b"",
        *,
        again: bool = False,
        status: Status = Status.OK,
        **other: int,
    ) -> bytes:
        if not again:
            self.sequence = self.sequence + 1 & 0xFFFF
        session = other.pop("session", self.session)
        await self.send(encode_request(command, self.sequence, session, arguments, **other))
        self.sent["ok"] += 1
        response = await self.answer()
        assert (response.version, response.command, response.sequence) == (
            VERSION,
            command,
            self.sequence,
        )
        assert response.status == status, Status(response.status)
        if status is Status.OK:
            assert response.session == self.session
        elif command != Command.READ:
            assert response.results == b""
        return response.results

    async def open(self) -> None:
        assert Identity.unpack(await self.request(Command.OPEN)) == IDENTITY

    async def counted(self) -> None:
        """The board's counters agree with what was sent."""
        self.sent["ok"] += 1  # the request itself
        self.sequence = self.sequence + 1 & 0xFFFF
        await self.send(encode_request(Command.STATUS, self.sequence, self.session))
        found = Statistics.unpack((await self.answer()).results)
        assert vars(found) == self.sent

    async def job(
        self, job: int, prompt: list[int], steps: int, *, reset: bool = True, **other
    ) -> None:
        await self.request(Command.JOB, job_arguments(job, prompt, steps, reset), **other)

    async def poll(self, job: int, since: int, **other) -> tuple[JobState, int, list[int]]:
        results = await self.request(Command.POLL, struct.pack("<HH", job, since), **other)
        state, done, *tokens = struct.unpack(f"<BH{(len(results) - 3) // 2}H", results)
        return JobState(state), done, tokens

    async def results(self, job: int, steps: int) -> list[int]:
        """Polls a job to its end."""
        tokens: list[int] = []
        state = JobState.RUNNING
        while state is JobState.RUNNING or len(tokens) < steps:
            state, done, fresh = await self.poll(job, len(tokens))
            assert len(fresh) == min(done - len(tokens), MAX_POLL)
            tokens += fresh
            assert state is not JobState.ABORTED
        return tokens


def job_arguments(job: int, prompt: list[int], steps: int, reset: bool) -> bytes:
    return struct.pack(f"<HBBH{len(prompt)}H", job, reset, 0, steps, *prompt)


def place(address: int, count: int) -> bytes:
    return struct.pack("<IH", address, count)


async def opened(dut, stall: float = 0.0) -> Host:
    host = Host(dut, stall)
    await host.start()
    await host.open()
    return host


@test(50)
@cocotb.parametrize(stall=[0.0, 0.4])
async def memory_keeps_what_is_written(dut, stall: float) -> None:
    host = await opened(dut, stall)
    base = Region.NORMS.base
    blocks = [(0, 1), (1, 7), (8, MAX_DATA), (REGION_BYTES - 3, 3)]
    for offset, count in blocks:
        # Many ENDs and ESCs among random bytes.
        data = bytes(
            host.rng.choice([SLIP_END, SLIP_ESC, host.rng.randrange(256)]) for _ in range(count)
        )
        await host.request(Command.WRITE, struct.pack("<I", base + offset) + data)
        assert await host.request(Command.READ, place(base + offset, count)) == data
        crc = await host.request(Command.CHECKSUM, place(base + offset, count))
        assert int.from_bytes(crc, "little") == zlib.crc32(data)
    await host.counted()


@test(50)
@cocotb.parametrize(stall=[0.0, 0.4])
async def jobs_equal_the_definition(dut, stall: float) -> None:
    host = await opened(dut, stall)
    count = 0
    for job, (length, steps, reset) in enumerate(
        [
            (1, 1, 1),
            (1, 9, 0),
            (5, 5, 0),
            (2, MAX_STEPS, 1),
            (MAX_PROMPT, MAX_PROMPT + 3, 0),
            (3, 4, 1),
        ],
        1,
    ):
        prompt = [host.rng.randrange(HANGS) for _ in range(length)]
        count = 0 if reset else count
        await host.job(job, prompt, steps, reset=bool(reset))
        assert await host.results(job, steps) == standin_tokens(prompt, steps=steps, count=count)
        count += steps
        # The results stay until the next job, and may be asked for from anywhere.
        since = host.rng.randrange(steps + 1)
        state, done, tokens = await host.poll(job, since)
        assert (state, done) == (JobState.FINISHED, steps)
        assert (
            tokens
            == standin_tokens(prompt, steps=steps, count=count - steps)[since : since + MAX_POLL]
        )
        assert await host.poll(job, steps + 5) == (JobState.FINISHED, steps, [])
    await host.counted()


@test(20)
async def refuses_what_is_impossible(dut) -> None:
    host = await opened(dut)
    region = Region.WEIGHTS.base
    state_gone = job_arguments(1, [1], 1, False)
    for command, arguments, status in [
        (Command.JOB, state_gone, Status.STATE),
        (Command.POLL, struct.pack("<HH", 0, 0), Status.JOB),
        (Command.OPEN, b"x", Status.LENGTH),
        (Command.STATUS, b"x", Status.LENGTH),
        (Command.WRITE, struct.pack("<I", region), Status.LENGTH),
        (Command.WRITE, b"", Status.LENGTH),
        (Command.WRITE, struct.pack("<I", 1 << 28) + b"x", Status.ARGUMENT),
        (Command.WRITE, struct.pack("<I", region + REGION_BYTES - 1) + b"xy", Status.BUS),
        (Command.WRITE, struct.pack("<I", Region.LOGITS.base) + b"x", Status.BUS),
        (Command.READ, place(region, 1)[:-1], Status.LENGTH),
        (Command.READ, place(region, 1) + b"x", Status.LENGTH),
        (Command.READ, place(region, 0), Status.ARGUMENT),
        (Command.READ, place(region, MAX_DATA + 1), Status.ARGUMENT),
        (Command.READ, place(1 << 28, 1), Status.ARGUMENT),
        (Command.CHECKSUM, place(region, 0), Status.ARGUMENT),
        (Command.CHECKSUM, place(region + REGION_BYTES - 2, 3), Status.BUS),
        (Command.CHECKSUM, place(Region.COUNTERS.base, 1), Status.BUS),
        (Command.JOB, job_arguments(1, [], 1, True), Status.LENGTH),
        (Command.JOB, job_arguments(1, [1], 1, True) + b"x", Status.LENGTH),
        (Command.JOB, job_arguments(1, [1] * (MAX_PROMPT + 1), 200, True), Status.LENGTH),
        (Command.JOB, job_arguments(0, [1], 1, True), Status.ARGUMENT),
        (Command.JOB, job_arguments(1, [1], 0, True), Status.ARGUMENT),
        (Command.JOB, job_arguments(1, [1, 2], 1, True), Status.ARGUMENT),
        (Command.JOB, job_arguments(1, [1], MAX_STEPS + 1, True), Status.ARGUMENT),
        (Command.POLL, struct.pack("<H", 0), Status.LENGTH),
        (Command.POLL, struct.pack("<HH", 1, 0), Status.JOB),
        (Command.ABORT, b"", Status.LENGTH),
        (Command.ABORT, struct.pack("<H", 1), Status.JOB),
        (8, b"", Status.COMMAND),
        (15, b"", Status.COMMAND),
    ]:
        await host.request(command, arguments, status=status)
    await host.request(Command.STATUS, version=2, status=Status.VERSION)
    await host.request(Command.STATUS, session=SESSION ^ 1, status=Status.SESSION)
    await host.request(Command.STATUS, session=0, status=Status.SESSION)
    await host.request(Command.OPEN, session=0, status=Status.ARGUMENT)

    # A READ that runs off the end brings what there is.
    await host.request(Command.WRITE, struct.pack("<I", region + REGION_BYTES - 2) + b"ab")
    found = await host.request(Command.READ, place(region + REGION_BYTES - 2, 5), status=Status.BUS)
    assert found == b"ab"

    # While a job runs, memory is not to be touched, and no other job begins.
    await host.job(1, [1], MAX_STEPS)
    for command, arguments in [
        (Command.WRITE, struct.pack("<I", region) + b"x"),
        (Command.READ, place(region, 1)),
        (Command.CHECKSUM, place(region, 1)),
        (Command.JOB, job_arguments(2, [1], 1, True)),
    ]:
        await host.request(command, arguments, status=Status.BUSY)
    assert await host.results(1, MAX_STEPS) == standin_tokens([1], steps=MAX_STEPS)
    await host.counted()


@test(50)
async def drops_what_is_damaged(dut) -> None:
    host = await opened(dut)
    await host.request(Command.WRITE, struct.pack("<I", 0) + b"keep")
    raw = bytes([VERSION << 4 | Command.WRITE]) + struct.pack("<HHI", 7, SESSION, 0) + b"evil"
    raw += zlib.crc32(raw).to_bytes(4, "little")
    host.sequence = 7
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        await host.silent(slip(bytes(flipped)), "crc")
    for length in range(1, len(raw)):
        await host.silent(slip(raw[:length]), "length" if length < HEADER_BYTES + 4 else "crc")
    for length in (MAX_FRAME + 1, MAX_FRAME + 2, 1500):
        long = raw[:9] + bytes(length - 13)
        long += zlib.crc32(long).to_bytes(4, "little")
        assert len(long) == length
        await host.silent(slip(long), "length")
    end, escape = bytes([SLIP_END]), bytes([SLIP_ESC])
    body = slip(raw)[1:-1]
    await host.silent(end + body[:1] + escape + b"x" + body[1:] + end, "framing")
    await host.silent(end + body + escape + end, "framing")
    await host.silent(escape + b"x" + end, "framing")
    response = bytes([RESPONSE | VERSION << 4 | Command.WRITE]) + raw[1:-4]
    await host.silent(slip(response + zlib.crc32(response).to_bytes(4, "little")), "framing")
    await host.send(end * 5)
    assert await host.request(Command.READ, place(0, 4)) == b"keep"
    await host.counted()


@test(20)
async def repetitions_and_late_frames_do_no_harm(dut) -> None:
    host = await opened(dut)
    await host.job(1, [3], 20)
    for _ in range(3):  # whether it still runs or not
        await host.job(1, [3], 20, again=True)
    assert await host.results(1, 20) == standin_tokens([3], steps=20)
    await host.job(1, [3], 20)  # a new request with a job number that was seen
    await host.job(2, [4], 2, reset=False)  # goes on after exactly twenty tokens
    assert await host.results(2, 2) == standin_tokens([4], steps=2, count=20)

    # What was sent before a request that was taken is old, up to half a turn of the sequence.
    await host.request(Command.WRITE, struct.pack("<I", 0) + b"new")
    for age in (1, 2, 100, 0x8000):
        late = encode_request(
            Command.WRITE, host.sequence - age & 0xFFFF, SESSION, struct.pack("<I", 0) + b"old"
        )
        await host.silent(late, "stale")
    await host.silent(encode_request(Command.OPEN, host.sequence - 1 & 0xFFFF, SESSION), "stale")
    assert await host.request(Command.READ, place(0, 3)) == b"new"
    host.sequence = host.sequence + 0x7FFE & 0xFFFF  # the farthest that is new
    assert await host.request(Command.READ, place(0, 3)) == b"new"

    # Opening the same session again changes nothing; a new one forgets jobs and state.
    await host.open()
    assert (await host.poll(2, 2))[0] is JobState.FINISHED
    await host.job(3, [1], MAX_STEPS)
    host.session ^= 0x1111
    await host.open()
    await host.request(Command.POLL, struct.pack("<HH", 3, 0), status=Status.JOB)
    await host.bench.step(20)
    await host.request(Command.JOB, job_arguments(3, [1], 1, False), status=Status.STATE)
    await host.job(3, [9], 3)
    assert await host.results(3, 3) == standin_tokens([9], steps=3)
    await host.counted()


@test(50)
async def aborts_at_any_moment(dut) -> None:
    host = await opened(dut)
    await host.request(Command.ABORT, struct.pack("<H", 0))  # nothing runs
    job, states = 0, set()
    for wait in range(0, 5 * P["cycles"] + 30, 3):
        job += 1
        await host.job(job, [5, 7, 9], 4)
        await host.bench.step(wait)
        await host.request(Command.ABORT, struct.pack("<H", job))
        await host.bench.step(12)
        state, done, tokens = await host.poll(job, 0)
        assert state is JobState.ABORTED or (state is JobState.FINISHED and done == 4)
        assert tokens == standin_tokens([5, 7, 9], steps=4)[:done]
        job += 1
        if state is JobState.ABORTED:
            refused = job_arguments(job, [1], 1, False)
            await host.request(Command.JOB, refused, status=Status.STATE)
        states.add((state, done))
        await host.job(job, [8, 9], 3)
        assert await host.results(job, 3) == standin_tokens([8, 9], steps=3)
    assert {(JobState.ABORTED, k) for k in (1, 2, 3)} | {(JobState.FINISHED, 4)} <= states


@test(20)
async def a_reset_board_shows(dut) -> None:
    host = await opened(dut)
    await host.job(1, [1], MAX_STEPS)
    await host.send(encode_request(Command.POLL, 5, SESSION)[:6])  # in mid-frame and mid-job
    await host.start()
    await host.request(Command.POLL, struct.pack("<HH", 1, 0), status=Status.SESSION)
    await host.open()
    await host.request(Command.POLL, struct.pack("<HH", 1, 0), status=Status.JOB)
    await host.request(Command.JOB, job_arguments(2, [1], 1, False), status=Status.STATE)
    await host.job(2, [1], 2)
    assert await host.results(2, 2) == standin_tokens([1], steps=2)
    await host.counted()


@test(50)
async def survives_noise(dut) -> None:
    host = await opened(dut)
    await host.request(Command.WRITE, struct.pack("<I", 0) + b"keep")
    special = [SLIP_END, SLIP_ESC, 0xDC, 0xDD, VERSION << 4 | Command.WRITE]
    for density in (0.0, 0.01, 0.3, 0.9):
        noise = bytes(
            host.rng.choice(special) if host.rng.random() < density else host.rng.randrange(256)
            for _ in range(3000)
        )
        await host.send(noise + bytes([SLIP_ESC] * (density == 0.9)))
        await host.bench.step(30)
        assert not dut.tx__valid.value
        assert await host.request(Command.READ, place(0, 4)) == b"keep"


@test(5)
async def takes_the_stated_cycles(dut) -> None:
    host = await opened(dut)
    for command, arguments, count in [
        (Command.STATUS, b"", 0),
        (Command.READ, place(0, 5), 0),
        (Command.WRITE, struct.pack("<I", 0) + bytes(17), 17),
        (Command.CHECKSUM, place(0, 33), 33),
        (Command.JOB, job_arguments(1, [1] * 7, 7, True), 7),
        (Command.POLL, struct.pack("<HH", 1, 0), 0),
        (Command.ABORT, struct.pack("<H", 1), 0),
    ]:
        before = len(host.bench.times("tx"))
        monitor = host.bench.expect("tx", 1)  # ready long before the response comes
        await host.send(encode_request(command, host.sequence, SESSION, arguments))
        await monitor.done.wait()
        # The stand-in's bus is done two cycles after a strobe.
        took = host.bench.times("tx")[before] - host.bench.times("rx")[-1]
        assert took == Link.cycles(command, count, bus=2), command
        assert (await host.answer()).status == Status.OK
