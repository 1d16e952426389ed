# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the link's tests: a host made of bytes, in front of a link and a stand-in core."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from itertools import pairwise

import cocotb
from standin import (
    FAILS,
    MEMORY_BYTES,
    REGION_BYTES,
    StandInCore,
    StandInModel,
    standin_identity,
    standin_tokens,
)

from nomul.host.protocol import FrameDecoder, Response, decode_response, encode_request, slip
from nomul.hw.link import Link
from nomul.hw.link.runner import JobRunner
from nomul.hw.top import Top
from nomul.model.protocol import (
    EXTERNAL,
    FEED_BACK,
    HEADER_BYTES,
    LANE_BYTES,
    MAX_DATA,
    MAX_FRAME,
    RESPONSE,
    SLIP_END,
    SLIP_ESC,
    VERSION,
    Command,
    Fault,
    Identity,
    JobState,
    LaneFlag,
    LaneToken,
    Region,
    Statistics,
    Status,
    max_rows,
    max_steps,
    pack_rows,
    polled_steps,
)
from nomul.sim.harness import Bench, parameters

P = parameters()
SESSION = 0xC0DB  # END and ESC, to be escaped in every frame
LANES, SLOTS = P["lanes"], P["slots"]
IDENTITY = standin_identity(LANES, SLOTS)
MAX_ROWS, MAX_STEPS, POLLED = max_rows(LANES), max_steps(LANES), polled_steps(LANES)
Row = Sequence[LaneToken | None]


def test(limit_ms: int):
    """A cocotb test with a limit on simulated time; a cycle is 10 ns."""
    return cocotb.test(timeout_time=limit_ms, timeout_unit="ms")


class Host:
    """Speaks frames with the device under test."""

    def __init__(self, dut, stall: float = 0.0):
        core = StandInCore(cycles=P["cycles"], lanes=LANES, slots=SLOTS)
        top = Top(core=core, link=Link(identity=IDENTITY))
        self.bench = Bench(dut, top)
        self.dut, self.stall, self.rng = dut, stall, self.bench.rng
        self.sequence, self.session = 0xFFF0, SESSION  # wraps around early
        self.decoder = FrameDecoder()
        self.sent = dict.fromkeys(Statistics.COUNTERS, 0)

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

    async def counted(self, *, fault: int = Fault.NONE) -> None:
        """The board's counters agree with what was sent."""
        self.sent["ok"] += 1  # the request itself
        self.sequence = self.sequence + 1 & 0xFFFF
        await self.send(encode_request(Command.STATUS, self.sequence, self.session))
        found = Statistics.unpack((await self.answer()).results)
        assert vars(found) == self.sent | {"fault": fault}

    async def job(
        self, job: int, prompt: list[int], steps: int, *, reset: bool = True, **other
    ) -> None:
        await self.request(Command.JOB, job_arguments(job, prompt, steps, reset), **other)

    async def poll(
        self, job: int, since: int, *, fault: int = Fault.NONE, **other
    ) -> tuple[JobState, int, list[list[int]]]:
        results = await self.request(Command.POLL, struct.pack("<HH", job, since), **other)
        state, told, done, *tokens = struct.unpack(f"<BBH{(len(results) - 4) // 2}H", results)
        assert told == fault
        assert len(tokens) % LANES == 0
        steps = [tokens[k : k + LANES] for k in range(0, len(tokens), LANES)]
        return JobState(state), done, steps

    async def steps(self, job: int, steps: int) -> list[list[int]]:
        """Polls a job to its end: arg-maxes of each step."""
        found: list[list[int]] = []
        state = JobState.RUNNING
        while state is JobState.RUNNING or len(found) < steps:
            state, done, fresh = await self.poll(job, len(found))
            assert len(fresh) == min(done - len(found), POLLED)
            found += fresh
            assert state in (JobState.RUNNING, JobState.FINISHED)
        return found

    async def results(self, job: int, steps: int) -> list[int]:
        """Polls a job of one user to its end."""
        return ours(await self.steps(job, steps))


USERS_LANE = LANES - 1  # of tests with one user


def ours(steps: list[list[int]]) -> list[int]:
    """What the lane of a lone user gave."""
    return [lanes[USERS_LANE] for lanes in steps]


def alone(token: int | None, *, fresh: bool = False) -> Row:
    """A row of a lone user."""
    entry = LaneToken(token=token, slot=SLOTS - 1, fresh=fresh, logits=True)
    return [None] * USERS_LANE + [entry]


def job_rows(job: int, rows: Sequence[Row], steps: int) -> bytes:
    return struct.pack("<HH", job, steps) + pack_rows(rows, LANES)


def job_arguments(job: int, prompt: list[int], steps: int, reset: bool) -> bytes:
    """A prompt in one lane; then, if there are more steps, what is fed back."""
    rows = [alone(token, fresh=reset and k == 0) for k, token in enumerate(prompt)]
    if steps > len(prompt):
        rows.append(alone(None))
    return job_rows(job, rows, steps)


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
    history: list[int] = []
    for job, (length, steps, reset) in enumerate(
        [
            (1, 1, 1),
            (1, 9, 0),
            (5, 5, 0),
            (2, MAX_STEPS, 1),
            (MAX_ROWS - 1, MAX_ROWS + 2, 0),
            (MAX_ROWS, MAX_ROWS, 0),
            (3, 4, 1),
        ],
        1,
    ):
        prompt = [host.rng.randrange(FAILS) for _ in range(length)]
        history = [] if reset else history
        await host.job(job, prompt, steps, reset=bool(reset))
        expected = standin_tokens(prompt, steps=steps, history=history)
        assert await host.results(job, steps) == expected
        history += [*prompt, *expected[length - 1 : -1]]
        # The results stay until the next job, and may be asked for from anywhere.
        since = host.rng.randrange(steps + 1)
        state, done, found = await host.poll(job, since)
        assert (state, done) == (JobState.FINISHED, steps)
        assert ours(found) == expected[since : since + POLLED]
        assert await host.poll(job, steps + 5) == (JobState.FINISHED, steps, [])
    await host.counted()


def random_rows(rng, users: dict[int, int], count: int, *, first: bool) -> list[list[LaneToken | None]]:
    """Rows of users mixed freely; ``users`` is what each slot that holds a state has been given."""
    rows: list[list[LaneToken | None]] = []
    before: set[int] = set()
    for _ in range(count):
        row: list[LaneToken | None] = []
        for _ in range(LANES):
            slot = rng.randrange(SLOTS)
            fresh = slot not in users or rng.random() < 0.1
            token: int | None = rng.choice([rng.randrange(FAILS), 0, FAILS - 1])
            if slot in before and not fresh and rng.random() < 0.6:
                token = None
            if rng.random() < 0.2:
                row.append(None)
            else:
                row.append(LaneToken(token=token, slot=slot, fresh=fresh, logits=rng.random() < 0.5))
                users[slot] = users.get(slot, 0) + 1
        before = {entry.slot for entry in row if entry is not None}
        rows.append(row)
    return rows


def defined(
    model: StandInModel, rows: Sequence[Row], steps: int
) -> list[list[int | None]]:
    """What a job gives, lane by lane; ``None`` where nothing is meant."""
    last: dict[int, int] = {}
    out: list[list[int | None]] = []
    for k in range(steps):
        found: list[int | None] = []
        given: dict[int, int] = {}
        for entry in rows[min(k, len(rows) - 1)]:
            if entry is None:
                found.append(None)
                continue
            token = last[entry.slot] if entry.token is None else entry.token
            given[entry.slot] = model.step(token, slot=entry.slot, fresh=entry.fresh)
            found.append(given[entry.slot])
        last = given
        out.append(found)
    return out


@test(50)
@cocotb.parametrize(stall=[0.0, 0.4])
async def rows_mix_users_freely(dut, stall: float) -> None:
    host = await opened(dut, stall)
    model, users = StandInModel(SLOTS), {}
    for job in range(1, 13):
        count = host.rng.choice([1, 2, 5, MAX_ROWS])
        rows = random_rows(host.rng, users, count, first=job == 1)
        steps = host.rng.choice([count, count + 1, count + 7, MAX_STEPS])
        await host.request(Command.JOB, job_rows(job, rows, steps))
        found = await host.steps(job, steps)
        expected = defined(model, rows, steps)
        assert [
            [None if wanted is None else token for token, wanted in zip(*pair, strict=True)]
            for pair in zip(found, expected, strict=True)
        ] == expected
        for lane, wanted in enumerate(expected[-1]):  # logits, by lane
            if wanted is not None:
                raw = await host.request(Command.READ, place(Region.LOGITS.base + 8 * lane, 8))
                assert raw == wanted.to_bytes(8, "little")
    await host.counted()


@test(20)
async def refuses_rows_that_mean_nothing(dut) -> None:
    host = await opened(dut)

    def lane(token: int | None, slot: int = 0, fresh: bool = False) -> LaneToken:
        return LaneToken(token=token, slot=slot, fresh=fresh)

    async def refused(rows: Sequence[Row], status: Status) -> None:
        await host.request(Command.JOB, job_rows(99, rows, len(rows)), status=status)

    async def refused_raw(entry: bytes) -> None:
        raw = job_rows(99, [[lane(1, fresh=True)]], 2) + entry + bytes(LANE_BYTES * (LANES - 1))
        await host.request(Command.JOB, raw, status=Status.ARGUMENT)

    await refused([[lane(1)]], Status.STATE)
    await refused([[lane(1, fresh=True)], [lane(2)], [lane(None)], [lane(1, SLOTS)]], Status.ARGUMENT)
    await refused([[lane(1, 255, fresh=True)]], Status.ARGUMENT)
    await refused([[lane(None)]], Status.ARGUMENT)  # nothing came before
    await refused([[lane(1, fresh=True)], [], [lane(None)]], Status.ARGUMENT)  # nor just before
    await refused_raw(struct.pack("<HBB", FEED_BACK, 0, LaneFlag.ACTIVE | LaneFlag.FRESH))
    await refused_raw(struct.pack("<HBB", FEED_BACK, 0, 0))
    for extra in (1, 2, 3, *(LANE_BYTES * k for k in range(1, LANES))):
        raw = job_rows(99, [[lane(1, fresh=True)]], 2) + bytes(extra)
        await host.request(Command.JOB, raw, status=Status.LENGTH)
    # What was refused has begun nothing, not even a state.
    await refused([[lane(1)]], Status.STATE)
    await host.request(Command.POLL, struct.pack("<HH", 99, 0), status=Status.JOB)

    for slot in range(SLOTS):  # each slot goes on by itself
        await refused([[lane(1, slot)]], Status.STATE)
        rows = [[lane(7, slot, fresh=True)], [lane(None, slot)]]
        await host.request(Command.JOB, job_rows(1 + slot, rows, 2))
        await host.steps(1 + slot, 2)
        await host.request(Command.JOB, job_rows(1 + slot, rows, 2))  # again: as it was
    if SLOTS > 1:
        await refused([[lane(1, 0)], [lane(None, 1)]], Status.ARGUMENT)  # another slot's arg-max
    rows = [[lane(3, slot)] for slot in range(SLOTS)]
    await host.request(Command.JOB, job_rows(100, rows, SLOTS))
    found = [lanes[0] for lanes in await host.steps(100, SLOTS)]
    history = [7, *standin_tokens([7], steps=1)]
    assert found == standin_tokens([3], steps=1, history=history) * SLOTS
    # An aborted job spoils them all.
    await host.request(Command.JOB, job_rows(101, [[lane(3)]], MAX_STEPS))
    await host.request(Command.ABORT, struct.pack("<H", 101))
    await host.bench.step(P["cycles"] + 20)
    for slot in range(SLOTS):
        await refused([[lane(1, slot)]], Status.STATE)
    await host.counted()


@test(20)
async def a_fault_stops_the_job(dut) -> None:
    host = await opened(dut)
    job = 0
    for fault in (*Fault, 7):
        if fault is Fault.NONE:
            continue
        for before in (0, 3):
            job += 1
            prompt = [*[5, 6, 8][:before], FAILS + fault]
            await host.job(job, prompt, before + 9)
            state = JobState.RUNNING
            await host.bench.step((before + 1) * (P["cycles"] + 30))
            state, done, found = await host.poll(job, 0, fault=fault)
            assert (state, done) == (JobState.FAILED, before)
            assert ours(found) == standin_tokens(prompt, steps=before)
            await host.counted(fault=fault)
            refused = job_arguments(job + 1, [1], 1, False)
            await host.request(Command.JOB, refused, status=Status.STATE)
    await host.job(job + 1, [9, 4], 6)
    assert await host.results(job + 1, 6) == standin_tokens([9, 4], steps=6)
    await host.counted()


@test(20)
async def external_memory_has_addresses_of_its_own(dut) -> None:
    host = await opened(dut)
    data = host.rng.randbytes(100)
    await host.request(Command.WRITE, struct.pack("<I", 0) + bytes(100))
    await host.request(Command.WRITE, struct.pack("<I", EXTERNAL | MEMORY_BYTES - 100) + data)
    assert await host.request(Command.READ, place(EXTERNAL | MEMORY_BYTES - 100, 100)) == data
    crc = await host.request(Command.CHECKSUM, place(EXTERNAL | MEMORY_BYTES - 100, 100))
    assert int.from_bytes(crc, "little") == zlib.crc32(data)
    assert await host.request(Command.READ, place(0, 100)) == bytes(100)
    for address in (EXTERNAL | MEMORY_BYTES, 0xFFFFFFFF, 1 << 28, 1 << 30, 8 << 24):
        write = struct.pack("<I", address) + b"x"
        await host.request(Command.WRITE, write, status=Status.BUS)
        assert await host.request(Command.READ, place(address, 1), status=Status.BUS) == b""


@test(20)
async def a_step_takes_the_stated_cycles(dut) -> None:
    host = await opened(dut)
    runner = dut.link.runner
    for job, (token, core) in enumerate(((1, P["cycles"] + 1), (2, 2)), 1):
        rows = [alone(token, fresh=True)] * MAX_ROWS
        await host.request(Command.JOB, job_rows(job, rows, 2 * MAX_ROWS))
        ends = []  # cycles in which a step is done
        cycle = done = 0
        while done < 2 * MAX_ROWS:
            await host.bench.step(1)
            cycle += 1
            if int(runner.done.value) != done:
                done = int(runner.done.value)
                ends.append((done, cycle))
        gaps = {
            (end, after - before)
            for (_, before), (end, after) in pairwise(ends[1:])
        }  # fmt: skip
        assert ends[0][0] < MAX_ROWS - 1
        assert gaps == {
            (end, JobRunner.cycles(core, lanes=LANES, another=end < MAX_ROWS))
            for end, _ in ends[2:]
        }


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
        (Command.WRITE, struct.pack("<I", region + REGION_BYTES - 1) + b"xy", Status.BUS),
        (Command.WRITE, struct.pack("<I", Region.LOGITS.base) + b"x", Status.BUS),
        (Command.READ, place(region, 1)[:-1], Status.LENGTH),
        (Command.READ, place(region, 1) + b"x", Status.LENGTH),
        (Command.READ, place(region, 0), Status.ARGUMENT),
        (Command.READ, place(region, MAX_DATA + 1), Status.ARGUMENT),
        (Command.CHECKSUM, place(region, 0), Status.ARGUMENT),
        (Command.CHECKSUM, place(region + REGION_BYTES - 2, 3), Status.BUS),
        (Command.CHECKSUM, place(Region.COUNTERS.base, 1), Status.BUS),
        (Command.JOB, job_arguments(1, [], 0, True), Status.LENGTH),
        (Command.JOB, b"", Status.LENGTH),
        (Command.JOB, job_arguments(1, [1], 1, True) + b"x", Status.LENGTH),
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
    await host.request(Command.STATUS, version=1, status=Status.VERSION)
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
    history = [3, *standin_tokens([3], steps=19)]
    assert await host.results(2, 2) == standin_tokens([4], steps=2, history=history)

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
        await host.job(job, [5, 7, 9, 11], 5)
        await host.bench.step(wait)
        await host.request(Command.ABORT, struct.pack("<H", job))
        await host.bench.step(12)
        state, done, tokens = await host.poll(job, 0)
        assert state is JobState.ABORTED or (state is JobState.FINISHED and done == 5)
        assert ours(tokens) == standin_tokens([5, 7, 9, 11], steps=5)[:done]
        job += 1
        if state is JobState.ABORTED:
            refused = job_arguments(job, [1], 1, False)
            await host.request(Command.JOB, refused, status=Status.STATE)
        states.add((state, done))
        await host.job(job, [8, 9], 3)
        assert await host.results(job, 3) == standin_tokens([8, 9], steps=3)
    assert {(JobState.ABORTED, k) for k in (1, 2, 3)} | {(JobState.FINISHED, 5)} <= states


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
        (Command.JOB, job_arguments(1, [1] * 7, 7, True), 7 * LANES),
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


def soup(host: Host) -> bytes:
    """Anything that may stand on a line: noise, frames in pieces, frames glued, and whole ones that mean nothing."""
    rng = host.rng
    special = [SLIP_END, SLIP_ESC, 0xDC, 0xDD]

    def noise(count: int) -> bytes:
        return bytes(rng.choice([*special, rng.randrange(256)]) for _ in range(count))

    command = rng.choice([c for c in range(16) if c not in (Command.OPEN, Command.WRITE)])
    arguments = rng.choice([
        noise(rng.choice([0, 1, 2, 4, 6, 100, MAX_DATA + 4, MAX_DATA + 5])),
        place(rng.choice([0, 1 << 24, EXTERNAL, rng.getrandbits(32)]), rng.randrange(600)),
        job_rows(rng.randrange(3), [alone(rng.randrange(0xFFFF), fresh=True)], rng.randrange(1 << 16)),
    ])  # fmt: skip
    frame = encode_request(
        command, host.sequence, rng.choice([host.session, host.session, 0, 1, SESSION ^ 0xFFFF]),
        arguments, version=rng.choice([VERSION, VERSION, VERSION, rng.randrange(8)]),
    )  # fmt: skip
    at = rng.randrange(len(frame))
    match rng.randrange(7):
        case 0:
            return noise(rng.randrange(1, 60))
        case 1:
            return frame[:at]
        case 2:
            return frame[at:]
        case 3:
            return frame[:at] + bytes([frame[at] ^ 1 << rng.randrange(8)]) + frame[at + 1 :]
        case 4:
            return frame[:at] + noise(1) + frame[at:]
        case 5:
            return frame[:at] + frame
        case _:
            return frame


@test(100)
@cocotb.parametrize(stall=[0.0, 0.3])
async def whatever_came_before_a_request_is_answered(dut, stall: float) -> None:
    host = await opened(dut)
    await host.request(Command.WRITE, struct.pack("<I", Region.NORMS.base) + b"keep")
    monitor = host.bench.expect("tx", 1 << 30, stall=stall)  # whatever is answered is taken
    seen, answered = len(monitor.words), dict[int, int]()
    host.decoder.clear()
    for _ in range(60):
        mixed = b"".join(soup(host) for _ in range(host.rng.randrange(1, 8)))
        host.sequence = host.sequence + 1 & 0xFFFF
        request = encode_request(Command.STATUS, host.sequence, host.session)
        host.bench.send("rx", mixed + request, stall=stall)
        response = None
        for _ in range(2000):
            await host.bench.step(50)
            for raw in host.decoder.feed(bytes(monitor.words[seen:])):
                found = decode_response(raw)
                assert found is not None, f"damaged response {raw.hex()}"
                assert found.status in [*Status]
                answered[found.status] = answered.get(found.status, 0) + 1
                if (found.command, found.sequence) == (Command.STATUS, host.sequence):
                    response = found
            seen = len(monitor.words)
            if response is not None:
                break
        assert response is not None, f"not answered after {mixed.hex()}"
        assert (response.status, len(response.results)) == (Status.OK, Statistics.SIZE)
    assert len(answered) >= 5  # whole frames among the soup were understood, and refused
    await host.bench.sent("rx")
    await host.bench.step(50)
    assert len(monitor.words) == seen
    monitor.wanted = len(monitor.words)
    await host.request(Command.ABORT, struct.pack("<H", 0))
    await host.bench.step(P["cycles"] + 20)
    assert await host.request(Command.READ, place(Region.NORMS.base, 4)) == b"keep"
    await host.job(9, [9, 4], 6)
    assert await host.results(9, 6) == standin_tokens([9, 4], steps=6)
