# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Memories of boards: each pin of the controller has a place, no place is used twice, what is spare stands still."""

from __future__ import annotations

import gc
import re

import pytest

from nomul.hw.boards.configurations import CONFIGURATIONS, find_configuration
from nomul.hw.boards.memory import MemoryTop
from nomul.hw.boards.memory_pins import memory_pins, tied_pins
from nomul.hw.boards.registry import BOARDS
from nomul.hw.boards.surroundings import byte_stream, places
from nomul.hw.build.verilog import convert
from nomul.hw.dram.controller import available, generate
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.streamed_config import StreamedConfig

WITH_MEMORY = {name: board for name, board in BOARDS.items() if board.memory is not None}
needs_litedram = pytest.mark.skipif(available() is not None, reason=str(available()))


@pytest.fixture(autouse=True)
def collected():
    """Streams that were not made into hardware go here, not after the last test, where that would be an error."""
    yield
    gc.collect()


@pytest.mark.parametrize("board", WITH_MEMORY.values(), ids=WITH_MEMORY)
def test_a_place_for_each_bit_and_a_bit_for_each_place(board):
    ports = {**memory_pins(board), **{name: pins for name, (pins, _) in tied_pins(board).items()}}
    around = places(board, byte_stream(board, board.memory.clock_hz))
    assert not ports.keys() & around.keys()
    sites = [site for pins in [*ports.values(), *around.values()] for site in pins.sites]
    assert len(set(sites)) == len(sites)
    assert all(pins.attributes["IO_TYPE"] for pins in ports.values())
    for name, pins in ports.items():
        both_ways = name.endswith(("_dq", "_dqs_p"))
        assert both_ways or not {"TERMINATION", "DIFFRESISTOR"} & set(pins.attributes), name


@needs_litedram
@pytest.mark.parametrize("name", ["ecpix5-85f", "orangecrab-r0.2-85f", "versa-ecp5", "ulx3s-85f", "butterstick-8g"])
def test_pins_are_the_controllers(name: str):
    """By name and width; pairs' other halves are the pads' own."""
    board = BOARDS[name]
    text = generate(board.memory, model=False).verilog
    found = {
        port: int(high or 0) + 1
        for high, port in re.findall(r"^ {4}\w+ +wire +(?:\[(\d+):0\] +)?((?:ddram|sdram)_\w+),?$", text, re.M)
    }
    absent = {"ddram_cs_n", "ddram_reset_n"} if name == "ecpix5-85f" else set()
    assert {port: len(pins.sites) for port, pins in memory_pins(board).items()} == {
        port: bits for port, bits in found.items() if not port.endswith(("_clk_n", "_dqs_n")) and port not in absent
    }


def test_what_the_orangecrab_wants():
    """amaranth-boards has bank pins that are LEDs, and crossed strobes."""
    board = BOARDS["orangecrab-r0.2-85f"]
    pins, tied = memory_pins(board), tied_pins(board)
    assert pins["ddram_ba"].sites == ("D6", "B7", "A6")
    assert pins["ddram_dqs_p"].sites == ("B15", "G18")
    assert pins["ddram_dm"].sites == ("D16", "G16")
    assert pins["ddram_dq"].attributes["TERMINATION"] == "OFF"
    assert not board.memory.terminated
    assert len(pins["ddram_a"].sites) == 13
    levels = {name: (len(one.sites), level) for name, (one, level) in tied.items()}
    assert levels == {"ddram_vccio": (6, 1), "ddram_gnd": (2, 0), "ddram_a_spare": (3, 0)}


def test_a_second_rank_is_never_chosen():
    levels = {name: (len(pins.sites), level) for name, (pins, level) in tied_pins(BOARDS["butterstick-8g"]).items()}
    assert levels == {
        "ddram_vccio": (6, 1), "ddram_a_spare": (1, 0), "ddram_cke_spare": (1, 0), "ddram_clk_p_spare": (1, 0),
        "ddram_cs_n_spare": (1, 1), "ddram_odt_spare": (1, 0),
    }  # fmt: skip


@needs_litedram
def test_registers_that_start_a_memory():
    """SDR: JESD21-C's sequence. DDR3: termination as the board has it."""
    sdr = generate(BOARDS["ulx3s-85f"].memory, model=False)
    commands = [(step["command"], step["address"]) for step in sdr.init if not step["control"]]
    assert commands == [(11, 1 << 10), *[(13, 0)] * 8, (15, 0x31)]  # precharge all, refresh, mode: CL 3, bursts of 2
    assert sdr.init[0]["control"]
    assert sdr.init[0]["cycles"] / BOARDS["ulx3s-85f"].memory.clock_hz >= 200e-6
    for name, mode in (("ecpix5-85f", 0x6), ("versa-ecp5", 0x6), ("orangecrab-r0.2-85f", 0x2)):
        made = generate(BOARDS[name].memory, model=False)
        assert [step["address"] for step in made.init if "Register 1" in step["what"]] == [mode]


@needs_litedram
@pytest.mark.parametrize("name", ["orangecrab-r0.2-85f", "ulx3s-85f"])
def test_clocks_are_exact(name: str):
    """What LiteX's search made of the oscillator, from the PLL's dividers in the text."""
    board = BOARDS[name]
    text = generate(board.memory, model=False).verilog
    value = {key: int(number) for key, number in re.findall(r"\.(\w+) *\(\d+'d(\d+)\)", text)}
    output = re.search(r'FEEDBK_PATH *\("INT_O(\w+)"\)', text)[1]
    vco = board.input_hz * value["CLKFB_DIV"] * value[f"CLKO{output}_DIV"] / value["CLKI_DIV"]
    assert 400e6 <= vco <= 800e6
    outputs = {round(vco / value[f"CLKO{name}_DIV"]) for name in ("P", "S", "S2", "S3") if f"CLKO{name}_DIV" in value}
    assert 2 * board.memory.clock_hz in outputs
    if board.memory.part.kind == "SDR":
        assert board.memory.clock_hz in outputs
        assert "ODDRX1F" in text


@needs_litedram
def test_a_top_with_a_memory_and_a_link_of_its_own_clocks():
    board = BOARDS["orangecrab-r0.2-85f"]
    geometry = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
    config = StreamedConfig.for_geometry(
        geometry, word_bytes=board.memory.word_bytes, memory_bytes=board.memory.part.capacity, tile_outputs=32
    )
    top = MemoryTop(board=board, config=config)
    assert top.pll.outputs_hz == (48_000_000, 12_000_000)
    text = convert(top, "board")
    ports = text[text.index("module board(") :].split("endmodule")[0]
    for name in ("usb_d_p", "usb_d_n", "ddram_dq", "ddram_dqs_p"):
        assert len(re.findall(rf"^  inout (?:\[\d+:0\] )?{name};$", ports, re.M)) == 1
    assert re.search(r"assign ddram_vccio = 6'h3f;", ports)
    assert re.search(r"assign ddram_gnd = 2'h0;", ports)
    assert set(re.findall(r'LOCATE COMP "(\w+)', top.constraints())) == {*top.ports}


def test_what_can_be_built():
    """A streamed core where there is a memory, and nowhere else."""
    for name, board in BOARDS.items():
        for configuration in CONFIGURATIONS:
            if configuration.startswith("lanes") and name not in WITH_MEMORY:
                with pytest.raises(NomulError, match="wants external memory for which there is a controller"):
                    find_configuration(configuration, board)
            else:
                assert find_configuration(configuration, board).name == configuration
    assert {name for name in BOARDS if name not in WITH_MEMORY} == {"lfe5u-25f", "lfe5u-45f", "lfe5u-85f"}
