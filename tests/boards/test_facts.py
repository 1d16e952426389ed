# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Facts of boards: those of their platform classes, and tops that stand on them."""

from __future__ import annotations

import re

import pytest
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from nomul.hw.boards.board import NEXTPNR_DEVICES, UartLink
from nomul.hw.boards.configurations import board_top, find_configuration
from nomul.hw.boards.constraints import lpf
from nomul.hw.boards.registry import BOARDS, find_board
from nomul.hw.build.verilog import convert
from nomul.model.errors import NomulError
from nomul.model.manifest import IDCODES

BRIDGED = [board for board in BOARDS.values() if isinstance(board.link, UartLink)]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_part_is_known_to_the_tools(board):
    assert board.device in NEXTPNR_DEVICES
    assert board.device in IDCODES
    assert re.fullmatch(r"LFE5U(M|M5G)?-(25|45|85)F-[678](CABGA|CSFBGA)\d+", board.part)
    assert board.input_hz >= 10_000_000


def test_parts_of_boards():
    assert {name: board.part for name, board in BOARDS.items()} == {
        "ulx3s-85f": "LFE5U-85F-6CABGA381",
        "ulx3s-85f-32m": "LFE5U-85F-6CABGA381",
        "ecpix5-85f": "LFE5UM5G-85F-8CABGA554",
        "orangecrab-r0.2-85f": "LFE5U-85F-8CSFBGA285",
        "butterstick": "LFE5UM5G-85F-8CABGA381",
        "butterstick-8g": "LFE5UM5G-85F-8CABGA381",
        "versa-ecp5": "LFE5UM-45F-8CABGA381",
        "versa-ecp5-5g": "LFE5UM5G-45F-8CABGA381",
        "lfe5u-25f": "LFE5U-25F-6CABGA381",
        "lfe5u-45f": "LFE5U-45F-6CABGA381",
        "lfe5u-85f": "LFE5U-85F-6CABGA381",
    }


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_memories_are_those_of_the_boards(board):
    if board.memory is not None:
        assert board.memory.name == board.name
        assert (board.memory.device, board.memory.input_hz) == (board.part, board.input_hz)


@pytest.mark.parametrize("board", BRIDGED, ids=lambda board: board.name)
def test_every_pin_of_the_top_has_its_own_place(board):
    top = board_top(board, None)
    text = top.constraints()
    sites = re.findall(r'^LOCATE COMP "(\w+)" SITE "(\w+)";$', text, re.M)
    assert len({site for _, site in sites}) == len(sites)
    ports = {port for port, _ in sites}
    assert ports == (set() if board.name.startswith("lfe5u") else set(top.ports))
    assert set(top.signature.members) == set(top.ports) >= {"clk", "rx_pin", "tx_pin", "heartbeat", "ready", "error"}
    assert f'FREQUENCY PORT "clk" {board.input_hz / 1e6:.6f} MHZ;' in text
    assert text.count("IOBUF") == len(sites)


def test_pins_are_those_of_the_platform():
    board, platform = BOARDS["ulx3s-85f"], ULX3S_85F_Platform()
    uart = {part.name: part.ios[0].names for part in platform.resources["uart", 0].ios}
    assert board.pins("uart", "rx").sites == tuple(uart["rx"]) == ("M1",)
    assert board.pins("uart", "tx").sites == tuple(uart["tx"]) == ("L4",)
    assert board.clock.attributes == {"IO_TYPE": "LVCMOS33"}
    ecpix = BOARDS["ecpix5-85f"]
    assert ecpix.led(ecpix.heartbeat).invert
    assert ecpix.reset.invert
    assert ecpix.pins("ddr3", "dq").attributes == {
        "IO_TYPE": "SSTL15_I", "SLEWRATE": "FAST", "TERMINATION": "75",
    }  # fmt: skip


def test_bridges_run_at_the_highest_clean_rate():
    rates = {}
    for board in BRIDGED:
        stream = board_top(board, None).stream
        assert stream.uart.divisor * stream.baud == board.clock_hz
        rates[board.name] = stream.baud
    assert rates == {
        "ulx3s-85f": 3_000_000, "ulx3s-85f-32m": 3_000_000, "ecpix5-85f": 6_000_000, "versa-ecp5": 6_000_000,
        "versa-ecp5-5g": 6_000_000, "lfe5u-25f": 3_000_000, "lfe5u-45f": 3_000_000,
        "lfe5u-85f": 3_000_000,
    }  # fmt: skip


def test_lights_shine_whatever_their_polarity():
    text = convert(board_top(BOARDS["ecpix5-85f"], None), "board")
    assert re.search(r"assign heartbeat = ~", text)
    text = convert(board_top(BOARDS["ulx3s-85f"], None), "board")
    assert not re.search(r"assign heartbeat = ~", text)


def test_bits_of_a_port_have_places():
    pins = BOARDS["ecpix5-85f"].pins("ddr3", "ba")
    assert 'LOCATE COMP "ba[2]" SITE "N4";' in lpf({"ba": pins}, {})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ulx3s", "no board is called 'ulx3s'; did you mean ulx3s-85f or ulx3s-85f-32m?"),
        ("ECPIX5", "no board is called 'ECPIX5'; did you mean ecpix5-85f"),
        ("zzz", "no board is called 'zzz'; one of ulx3s-85f, ulx3s-85f-32m, ecpix5-85f"),
    ],
)
def test_unknown_boards(name: str, message: str):
    with pytest.raises(NomulError) as refused:
        find_board(name)
    assert str(refused.value).startswith(message)


def test_unknown_configurations():
    with pytest.raises(NomulError, match=r"^ulx3s-85f: no configuration is called 'onship'; did you mean onchip\?$"):
        find_configuration("onship", BOARDS["ulx3s-85f"])
