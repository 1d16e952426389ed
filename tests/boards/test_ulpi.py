# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""A link through a ULPI transceiver, and the lights of a matrix."""

from __future__ import annotations

import gc
import re
from types import SimpleNamespace

import pytest
from amaranth.hdl import ClockDomain, Module, Signal
from amaranth.sim import Simulator

from nomul.hw.boards.board import LedMatrix
from nomul.hw.boards.configurations import board_top
from nomul.hw.boards.lights import _SLOT_BITS, LightMatrix
from nomul.hw.boards.registry import BOARDS
from nomul.hw.boards.usb import LunaDevice
from nomul.hw.build.verilog import convert

BOARD = BOARDS["butterstick"]


@pytest.fixture(autouse=True)
def collected():
    """Tops that were not made into hardware go here, not after the last test, where that would be an error."""
    yield
    gc.collect()


def test_the_top_becomes_verilog():
    top = board_top(BOARD, None)
    text = convert(top, "board")
    board = text[text.index("module board(") :].split("endmodule")[0]
    assert len(re.findall(r"^  inout \[7:0\] ulpi_data;$", board, re.M)) == 1
    assert text.count("BB ") == 8
    assert text.count("ODDRX1F ") == 1
    for name in ("ulpi_dir", "ulpi_nxt"):
        assert re.search(rf"^  input {name};$", board, re.M)
    assert top.pll.outputs_hz == (90_000_000, 60_000_000)
    assert set(top.ports) == {
        "clk", "ulpi_clk", "ulpi_data", "ulpi_dir", "ulpi_nxt", "ulpi_rst", "ulpi_stp", "leds", "led_r", "led_g",
        "led_b", "supply_pulses", "supply_on",
    }  # fmt: skip
    assert set(re.findall(r'LOCATE COMP "(\w+)', top.constraints())) == {*top.ports}
    # The transceiver's reset is low active, and the domain's.
    assert re.search(r"assign ulpi_rst = ~", text)


def test_a_transceiver_is_set_up(monkeypatch: pytest.MonkeyPatch):
    """LUNA waits, then writes the transceiver's registers over the bus: transfers of a command, a value and a stop."""
    from luna.gateware.interface.ulpi import UTMITranslator

    monkeypatch.setattr(UTMITranslator, "_CYCLES_1_MILLISECONDS", 60)
    bus = SimpleNamespace(
        data=SimpleNamespace(i=Signal(8), o=Signal(8), oe=Signal()), clk=SimpleNamespace(o=Signal()),
        dir=SimpleNamespace(i=Signal()), nxt=SimpleNamespace(i=Signal()), stp=SimpleNamespace(o=Signal()),
        rst=SimpleNamespace(o=Signal()),
    )  # fmt: skip
    m = Module()
    m.domains.usb = ClockDomain()
    m.submodules.device = luna = LunaDevice(bus, packet=512)
    m.d.comb += luna.device.connect.eq(1)
    registers: dict[int, int] = {}
    first = []

    async def transceiver(ctx) -> None:
        ctx.set(bus.nxt.i, 1)  # it takes a byte in every cycle
        command = None
        for cycle in range(400):
            out, stop = ctx.get(bus.data.o), ctx.get(bus.stp.o)
            if command is not None and not stop and out:
                registers[command] = out
            command = out & 0x3F if command is None and out >> 6 == 2 else None if stop else command
            if command is not None and not first:
                first.append(cycle)
            assert ctx.get(bus.data.oe)
            await ctx.tick("usb")

    simulator = Simulator(m)
    simulator.add_clock(1 / 60e6, domain="usb")
    simulator.add_testbench(transceiver)
    simulator.run()
    assert first[0] >= 60
    assert 0x04 in registers  # function control
    assert registers[0x04] & 0x40  # not suspended


def test_a_matrix_shows_one_colour_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nomul.hw.boards.lights._SLOT_BITS", 3)
    assert _SLOT_BITS == 16
    matrix = LightMatrix(matrix=LedMatrix(resource="leds", heartbeat=0, ready=4, error=6), leds=7)
    seen = set()

    async def watch(ctx) -> None:
        for levels in range(8):
            for bit, name in enumerate(("heartbeat", "ready", "error")):
                ctx.set(getattr(matrix, name), levels >> bit & 1)
            await ctx.tick()
            await ctx.tick()
            for _ in range(24):
                colours = [ctx.get(getattr(matrix, f"led_{colour}")) for colour in "rgb"]
                assert sum(colours) <= 1
                seen.add((levels, *colours, ctx.get(matrix.leds)))
                await ctx.tick()

    simulator = Simulator(matrix)
    simulator.add_clock(1e-6)
    simulator.add_testbench(watch)
    simulator.run()
    wanted = {(levels, 0, 0, 0, 0) for levels in range(8)}
    for levels in range(8):
        wanted |= {
            (levels, 1, 0, 0, (levels >> 2 & 1) << 6), (levels, 0, 1, 0, (levels >> 1 & 1) << 4),
            (levels, 0, 0, 1, levels & 1),
        }  # fmt: skip
    assert seen == wanted
