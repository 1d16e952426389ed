# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the link: frames, memory and the session."""

from __future__ import annotations

import struct
import zlib

import cocotb
from link_host import (
    LANES,
    MAX_STEPS,
    SESSION,
    Host,
    P,
    alone,
    job_arguments,
    job_rows,
    opened,
    place,
    test,
)
from standin import MEMORY_BYTES, REGION_BYTES, standin_tokens

from nomul.host.protocol import decode_response, encode_request, slip
from nomul.hw.link import Link
from nomul.model.protocol import (
    EXTERNAL,
    HEADER_BYTES,
    MAX_DATA,
    MAX_FRAME,
    RESPONSE,
    SLIP_END,
    SLIP_ESC,
    VERSION,
    Command,
    JobState,
    Region,
    Statistics,
    Status,
)


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
    # External memory has a port of its own.
    await host.request(Command.WRITE, struct.pack("<I", EXTERNAL + 7) + b"meanwhile")
    assert await host.request(Command.READ, place(EXTERNAL + 7, 9)) == b"meanwhile"
    crc = await host.request(Command.CHECKSUM, place(EXTERNAL + 7, 9))
    assert int.from_bytes(crc, "little") == zlib.crc32(b"meanwhile")
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


@test(5)
async def counts_its_cycles(dut) -> None:
    host = await opened(dut)
    seen = []
    for pause in (0, 1, 1000, 3):
        await host.bench.step(pause)
        results = await host.request(Command.STATUS)
        seen.append((host.bench.times("rx")[-1], Statistics.unpack(results).cycles))
    ages = {cycles - at for at, cycles in seen}  # from the last byte taken, always the same
    assert len(ages) == 1
    assert seen[-1][0] - seen[0][0] > 1004


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
