# SPDX-License-Identifier: Apache-2.0
"""OrangeCrab r0.2 with the larger of its chips."""

from nomul.hw.dram.boards import ORANGECRAB as MEMORY

from .board import Board, Led, Pins, UsbLink

__all__ = ["ORANGECRAB_85F"]

_SINGLE = {"IO_TYPE": "SSTL135_I", "SLEWRATE": "FAST"}
_PAIR = {"IO_TYPE": "SSTL135D_I", "SLEWRATE": "FAST"}

#: In amaranth-boards banks are at another board's pins, the strobes' pairs are crossed and data are terminated. These
#: are LiteX's, on the same board. Each mask is beside the data in whose group of pins it is, and wired to the other
#: byte's; nothing is ever masked.
_PINS = {
    "ba": Pins(sites=("D6", "B7", "A6"), attributes=_SINGLE),
    "dm": Pins(sites=("D16", "G16"), attributes=_SINGLE),
    "dq": Pins(
        sites=("C17", "D15", "B17", "C16", "A15", "B13", "A17", "A13",
               "F17", "F16", "G15", "F15", "J16", "C18", "H16", "F18"),
        attributes={**_SINGLE, "TERMINATION": "OFF"},
    ),
    "dqs_p": Pins(sites=("B15", "G18"), attributes={**_PAIR, "TERMINATION": "OFF", "DIFFRESISTOR": "100"}),
}  # fmt: skip

#: Pins beside the bank's power pins, wired to its supplies: driven hard, they carry some of its current.
_POWER = {"IO_TYPE": "SSTL135_II", "SLEWRATE": "FAST"}
_TIED = {
    "ddram_vccio": (Pins(sites=("K16", "D17", "K15", "K17", "B18", "C6"), attributes=_POWER), 1),
    "ddram_gnd": (Pins(sites=("L15", "L16"), attributes=_POWER), 0),
}

ORANGECRAB_85F = Board(
    name="orangecrab-r0.2-85f",
    title="OrangeCrab r0.2, LFE5U-85F",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    link=UsbLink(),
    clock_hz=96_000_000,  # twice the oscillator
    heartbeat=Led(resource="rgb_led", part="b"),
    ready=Led(resource="rgb_led", part="g"),
    error=Led(resource="rgb_led", part="r"),
    memory=MEMORY,
    memory_pins=_PINS,
    tied=_TIED,
    packing=("--compress", "--freq", "38.8"),
)
