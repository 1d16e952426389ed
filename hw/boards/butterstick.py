# SPDX-License-Identifier: Apache-2.0
"""ButterStick r1.0."""

from .board import Board, UlpiLink

__all__ = ["BUTTERSTICK"]

BUTTERSTICK = Board(
    name="butterstick",
    title="ButterStick r1.0, LFE5UM5G-85F",
    platform="amaranth_boards.butterstick:ButterStickPlatform",
    link=UlpiLink(),
    clock_hz=90_000_000,
)
