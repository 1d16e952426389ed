# SPDX-License-Identifier: Apache-2.0
"""Radiona ULX3S with the largest of its chips, and with either size of memory."""

from dataclasses import replace

from nomul.hw.dram.boards import ULX3S as MEMORY
from nomul.hw.dram.boards import ULX3S_32M as SMALLER_MEMORY

from .board import Board, Led, UartLink

__all__ = ["ULX3S_85F", "ULX3S_85F_32M"]

ULX3S_85F = Board(
    name=MEMORY.name,
    title="Radiona ULX3S, LFE5U-85F",
    platform="amaranth_boards.ulx3s:ULX3S_85F_Platform",
    link=UartLink(chip="FT231X", base_hz=3_000_000),
    clock_hz=90_000_000,  # 25 MHz · 18 / 5; 30 cycles a bit at 3 Mbaud
    heartbeat=Led(resource="led", number=0),
    ready=Led(resource="led", number=1),
    error=Led(resource="led", number=2),
    memory=MEMORY,
    loader=("--board", "ulx3s"),
    cables=("0403:6015",),
)

ULX3S_85F_32M = replace(
    ULX3S_85F, name=SMALLER_MEMORY.name, title="Radiona ULX3S, LFE5U-85F, 32 MB of SDRAM", memory=SMALLER_MEMORY
)
