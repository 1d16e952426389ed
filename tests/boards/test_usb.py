# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The USB byte stream: LUNA's device becomes Verilog, frames end packets, bytes cross the clocks in order."""

from __future__ import annotations

import gc
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import ClockDomain, Elaboratable, Module, Signal
from amaranth.sim import Simulator
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.host.protocol import slip
from nomul.hw.boards import usb
from nomul.hw.boards.configurations import board_top
from nomul.hw.boards.registry import BOARDS
from nomul.hw.boards.usb import FrameEnds, UsbStream
from nomul.hw.build.verilog import convert
from nomul.model.errors import NomulError

BOARD = BOARDS["orangecrab-r0.2-85f"]


@pytest.fixture(autouse=True)
def collected():
    """Tops that were not made into hardware go here, not after the last test, where that would be an error."""
    yield
    gc.collect()


def test_the_top_becomes_verilog_with_pads_that_go_both_ways():
    top = board_top(BOARD, None)
    text = convert(top, "board")
    board = text[text.index("module board(") :].split("endmodule")[0]
    for name in ("usb_d_p", "usb_d_n"):
        assert len(re.findall(rf"^  inout {name};$", board, re.M)) == 1
        assert f'LOCATE COMP "{name}" SITE' in top.constraints()
    assert text.count("BB ") == 2
    assert top.pll.outputs_hz == (96_000_000, 48_000_000, 12_000_000)
    assert set(top.ports) == {"clk", "usb_pullup", "usb_d_p", "usb_d_n", "heartbeat", "ready", "error"}


def test_without_luna(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "luna.gateware.usb.devices.acm", None)
    with pytest.raises(NomulError, match=r"^luna-usb is not installed: run pip install 'nomul\[usb\]'$"):
        usb.LunaDevice(SimpleNamespace(), packet=64)


@settings(max_examples=20)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4))
def test_a_packet_ends_with_each_frame_and_nowhere_else(frames: list[bytes]):
    ends, marks = FrameEnds(), []
    data = b"".join(map(slip, frames))

    async def run(ctx) -> None:
        for k, byte in enumerate(data):
            ctx.set(ends.byte, byte)
            ctx.set(ends.taken, 1)
            if ctx.get(ends.last):
                marks.append(k)
            await ctx.tick()

    simulator = Simulator(ends)
    simulator.add_clock(1e-8)
    simulator.add_testbench(run)
    simulator.run()
    at, wanted = 0, []
    for frame in frames:
        at += len(slip(frame))
        wanted.append(at - 1)
    assert marks == wanted


class StandIn(Elaboratable):
    """In the device's place: sends back what it gets, bytes and marks, one domain over."""

    def __init__(self, bus: SimpleNamespace):
        self.device = self
        self.connect = Signal()
        self.rx, self.tx = (
            SimpleNamespace(payload=Signal(8), valid=Signal(), ready=Signal(), last=Signal()) for _ in range(2)
        )

    def elaborate(self, platform: object) -> Module:
        return Module()


def test_bytes_cross_the_clocks_in_order(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator):
    monkeypatch.setattr(usb, "LunaDevice", lambda bus, packet: made.append(StandIn(bus)) or made[-1])
    made: list[StandIn] = []
    m, stream = Module(), UsbStream(board=BOARD, clock_hz=96_000_000)
    m.domains.usb = ClockDomain()
    m.submodules.stream = stream
    sent = {"host": slip(rng.bytes(60)), "core": slip(rng.bytes(60)) + slip(rng.bytes(9))}
    found: dict[str, list[int]] = {"host": [], "core": []}
    marks: list[int] = []

    async def host_sends(ctx) -> None:
        rx = made[0].rx
        for byte in sent["host"]:
            while rng.random() < 0.3:
                await ctx.tick("usb")
            ctx.set(rx.payload, byte)
            ctx.set(rx.valid, 1)
            await ctx.tick("usb").until(rx.ready)
            ctx.set(rx.valid, 0)

    async def core_takes(ctx) -> None:
        while len(found["host"]) < len(sent["host"]):
            ready = bool(rng.random() < 0.5)
            ctx.set(stream.rx.ready, ready)
            if ready and ctx.get(stream.rx.valid):
                found["host"].append(ctx.get(stream.rx.payload))
            await ctx.tick()

    async def core_sends(ctx) -> None:
        for byte in sent["core"]:
            ctx.set(stream.tx.payload, byte)
            ctx.set(stream.tx.valid, 1)
            await ctx.tick().until(stream.tx.ready)
            ctx.set(stream.tx.valid, 0)

    async def host_takes(ctx) -> None:
        tx = made[0].tx
        while len(found["core"]) < len(sent["core"]):
            ready = bool(rng.random() < 0.7)
            ctx.set(tx.ready, ready)
            if ready and ctx.get(tx.valid):
                if ctx.get(tx.last):
                    marks.append(len(found["core"]))
                found["core"].append(ctx.get(tx.payload))
            await ctx.tick("usb")

    simulator = Simulator(m)
    simulator.add_clock(1 / 96e6)
    simulator.add_clock(1 / 12e6, domain="usb")
    for bench in (host_sends, core_takes, core_sends, host_takes):
        simulator.add_testbench(bench)
    simulator.run_until(1e-3)
    assert {name: bytes(data) for name, data in found.items()} == sent
    ends = [k for k, byte in enumerate(sent["core"]) if byte == 0xC0]
    assert marks == ends[1::2]
