# SPDX-License-Identifier: Apache-2.0
"""ButterStick r1.0 with the larger of its chips, and with the smaller or the larger memory."""

from dataclasses import replace

from nomul.hw.dram.boards import BUTTERSTICK as MEMORY
from nomul.hw.dram.boards import BUTTERSTICK_8G as LARGER_MEMORY

from .board import BankSupplies, Board, LedMatrix, Pins, UlpiLink

__all__ = ["BUTTERSTICK", "BUTTERSTICK_8G"]

_SINGLE = {"IO_TYPE": "SSTL135_I", "SLEWRATE": "FAST"}

BUTTERSTICK = Board(
    name=MEMORY.name,
    title="ButterStick r1.0 2G-85F, LFE5UM5G-85F",
    platform="amaranth_boards.butterstick:ButterStickPlatform",
    options={"VCCIOC": "1V8"},
    # amaranth-boards makes 1V8 LVCMOS25; the board's author drives the transceiver as LVCMOS18.
    link=UlpiLink(attributes={"IO_TYPE": "LVCMOS18", "SLEWRATE": "FAST"}),
    clock_hz=90_000_000,
    matrix=LedMatrix(resource="rgb_leds_muxed"),
    supplies=BankSupplies(resource="vccio_ctrl", volts=(1.8, 1.8, 1.8)),
    memory=MEMORY,
    # LiteX terminates data, amaranth-boards does not say so.
    memory_pins={
        "dq": Pins(
            sites=("U19", "T18", "U18", "R20", "P18", "P19", "P20", "N20",
                   "L19", "L17", "L16", "R16", "N18", "R17", "N17", "P17"),
            attributes={**_SINGLE, "TERMINATION": "75"},
        ),
    },
    # Pins beside the bank's power pins, wired to its supply, as on the OrangeCrab.
    tied={
        "ddram_vccio": (
            Pins(sites=("K16", "K17", "M19", "M18", "N19", "T20"),
                 attributes={"IO_TYPE": "SSTL135_II", "SLEWRATE": "FAST"}),
            1,
        ),
    },
)  # fmt: skip

BUTTERSTICK_8G = replace(
    BUTTERSTICK, name=LARGER_MEMORY.name, title="ButterStick r1.0 8G-85F, LFE5UM5G-85F", memory=LARGER_MEMORY
)
