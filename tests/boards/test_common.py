# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""What is on every board: lights, and the link through a transceiver to a host, without a core."""

from __future__ import annotations

from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from amaranth.sim import Simulator

from nomul.host.protocol import FrameDecoder, decode_response, encode_request
from nomul.hw.boards.alone import NoCore
from nomul.hw.boards.bare import BARE
from nomul.hw.boards.lights import Lights
from nomul.hw.boards.serial import SerialStream
from nomul.hw.link import Link
from nomul.hw.link.uart import Uart
from nomul.hw.top import Top
from nomul.model.protocol import (
    REGIONS,
    Command,
    Fault,
    Identity,
    JobState,
    LaneToken,
    Statistics,
    Status,
    pack_rows,
)

IDENTITY = Identity(
    design=b"linkonly", bytes_per_beat=1, lanes=1, slots=1, clock_hz=24_000_000, memory_bytes=0,
    region_bytes=(0,) * REGIONS,
)  # fmt: skip


def test_lights():
    lights, seen = Lights(clock_hz=20), []

    async def run(ctx) -> None:
        for cycle in range(60):
            ctx.set(lights.memory_ready, cycle >= 5)
            ctx.set(lights.failed, cycle in (7, 8))
            seen.append((ctx.get(lights.heartbeat), ctx.get(lights.ready), ctx.get(lights.error)))
            await ctx.tick()

    simulator = Simulator(lights)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()
    beats = [beat for beat, _, _ in seen]
    assert beats == [k // 10 % 2 for k in range(60)]  # on and off within a second, which is 20 cycles
    assert [k for k in range(60) if not seen[k][1]] == [0, 1, 2, 3, 4, 5]
    assert [k for k in range(60) if seen[k][2]] == [8, 9]


def test_lights_want_a_clock():
    with pytest.raises(ValueError, match=r"^Lights: clock_hz is 1; at least 2$"):
        Lights(clock_hz=1)


def test_a_host_at_the_other_end_of_the_wires():
    """A board without a core: it says who it is, how it went, that nothing is there, and that no token can be made."""
    board = replace(BARE[0], clock_hz=24_000_000)
    m = Module()
    m.submodules.stream = stream = SerialStream(board=board, clock_hz=24_000_000)
    m.submodules.top = top = Top(core=NoCore(), link=Link(identity=IDENTITY))
    m.submodules.host = host = Uart(divisor=stream.uart.divisor)
    connect(m, stream.rx, top.rx)
    connect(m, top.tx, stream.tx)
    m.d.comb += [stream.rx_pin.eq(host.tx_pin), host.rx_pin.eq(stream.tx_pin)]
    decoder, answers, failed = FrameDecoder(), [], []
    row = pack_rows([[LaneToken(token=1, fresh=True)]], 1)
    requests = [
        (Command.OPEN, b""),
        (Command.READ, bytes([0, 0, 0, 0, 4, 0])),
        (Command.JOB, bytes([1, 0, 1, 0]) + row),
        (Command.POLL, bytes([1, 0, 0, 0])),
        (Command.STATUS, b""),
    ]

    async def send(ctx) -> None:
        for k, (command, arguments) in enumerate(requests):
            for byte in encode_request(command, 1 + k, 7, arguments):
                ctx.set(host.tx.payload, byte)
                ctx.set(host.tx.valid, 1)
                await ctx.tick().until(host.tx.ready)
                ctx.set(host.tx.valid, 0)
            while len(answers) <= k:
                await ctx.tick()

    async def take(ctx) -> None:
        ctx.set(host.rx.ready, 1)
        for _ in range(40_000):
            if ctx.get(host.rx.valid):
                answers.extend(decode_response(raw) for raw in decoder.feed(bytes([ctx.get(host.rx.payload)])))
                failed.append(ctx.get(top.failed))
            if len(answers) == len(requests):
                return
            await ctx.tick()
        raise AssertionError(f"{len(answers)} answers")

    simulator = Simulator(m)
    simulator.add_clock(1 / 24e6)
    simulator.add_testbench(send)
    simulator.add_testbench(take)
    simulator.run()
    assert stream.baud == 3_000_000
    opened, read, job, poll, status = answers
    assert Identity.unpack(opened.results) == IDENTITY
    assert (read.status, read.results) == (Status.BUS, b"")
    assert job.status == Status.OK
    assert tuple(poll.results[:4]) == (JobState.FAILED, Fault.PROGRAM, 0, 0)
    found = Statistics.unpack(status.results)
    assert (found.ok, found.crc, found.fault) == (5, 0, Fault.PROGRAM)
    assert found.cycles > 10 * stream.uart.divisor * 60
    assert failed[-1] == 1
