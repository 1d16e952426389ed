# SPDX-License-Identifier: Apache-2.0
"""Chips without a board: pins are where nextpnr likes them, or where an LPF file of yours says."""

from .board import Bare, Board, UartLink

__all__ = ["BARE"]

BARE = tuple(
    Board(
        name=f"lfe5u-{size}f",
        title=f"bare LFE5U-{size}F, 25 MHz at its pin clk",
        platform=Bare(device=f"LFE5U-{size}F"),
        link=UartLink(chip="any with 3 Mbaud", base_hz=3_000_000),
        clock_hz=90_000_000,
    )
    for size in (25, 45, 85)
)
