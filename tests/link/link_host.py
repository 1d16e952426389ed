# SPDX-License-Identifier: Apache-2.0
"""A host made of bytes, in front of a link and a stand-in core."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cocotb
from standin import StandInCore, standin_identity

from nomul.host.protocol import FrameDecoder, Response, decode_response, encode_request
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.protocol import (
    VERSION,
    Command,
    Fault,
    Identity,
    JobState,
    LaneToken,
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
        assert vars(found) == self.sent | {"fault": fault, "cycles": found.cycles}

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
