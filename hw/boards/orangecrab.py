# SPDX-License-Identifier: Apache-2.0
"""OrangeCrab r0.2 with the larger of its chips."""

from .board import Board, Led, UsbLink

__all__ = ["ORANGECRAB_85F"]

ORANGECRAB_85F = Board(
    name="orangecrab-r0.2-85f",
    title="OrangeCrab r0.2, LFE5U-85F",
    platform="amaranth_boards.orangecrab_r0_2:OrangeCrabR0_2_85FPlatform",
    link=UsbLink(),
    clock_hz=96_000_000,  # twice the oscillator
    heartbeat=Led(resource="rgb_led", part="b"),
    ready=Led(resource="rgb_led", part="g"),
    error=Led(resource="rgb_led", part="r"),
    loader=("--board", "orangeCrab"),
    cables=("1209:5af0",),
    packing=("--compress", "--freq", "38.8"),
)
