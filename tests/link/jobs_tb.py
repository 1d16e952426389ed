# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the link: jobs, their rows of lanes, and how they end."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from itertools import pairwise

import cocotb
from link_host import (
    LANES,
    MAX_ROWS,
    MAX_STEPS,
    POLLED,
    SLOTS,
    P,
    Row,
    alone,
    job_arguments,
    job_rows,
    opened,
    ours,
    place,
    test,
)
from standin import FAILS, StandInModel, standin_tokens

from nomul.hw.link.runner import JobRunner
from nomul.model.protocol import (
    FEED_BACK,
    LANE_BYTES,
    Command,
    Fault,
    JobState,
    LaneFlag,
    LaneToken,
    Region,
    Status,
)


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


def random_rows(rng, users: dict[int, int], count: int) -> list[list[LaneToken | None]]:
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


def defined(model: StandInModel, rows: Sequence[Row], steps: int) -> list[list[int | None]]:
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
        rows = random_rows(host.rng, users, count)
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


# It looks inside, where a netlist has no hierarchy.
@cocotb.test(timeout_time=20, timeout_unit="ms", skip=bool(os.environ.get("NOMUL_SYNTHESISED")))
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
