# SPDX-License-Identifier: Apache-2.0
"""LambdaConcept ECPIX-5 with the larger of its chips."""

from nomul.hw.dram.boards import ECPIX5 as MEMORY

from .board import Board, Led, UartLink

__all__ = ["ECPIX5_85F"]

ECPIX5_85F = Board(
    name=MEMORY.name,
    title="LambdaConcept ECPIX-5, LFE5UM5G-85F",
    platform="amaranth_boards.ecpix5:ECPIX585Platform",
    link=UartLink(chip="FT2232H", base_hz=12_000_000),
    clock_hz=90_000_000,
    heartbeat=Led(resource="rgb_led", number=0, part="b"),
    ready=Led(resource="rgb_led", number=1, part="g"),
    error=Led(resource="rgb_led", number=2, part="r"),
    memory=MEMORY,
    loader=("--board", "ecpix5"),
    cables=("0403:6010", "0403:6011"),  # of the first revisions, and of R03
)
