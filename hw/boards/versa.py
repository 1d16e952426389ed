# SPDX-License-Identifier: Apache-2.0
"""Lattice ECP5 Versa, with the 5G chip that is sold today and with the first one."""

from dataclasses import replace

from nomul.hw.dram.boards import VERSA, VERSA_5G

from .board import Board, Led, UartLink

__all__ = ["VERSA_ECP5", "VERSA_ECP5_5G"]

VERSA_ECP5_5G = Board(
    name="versa-ecp5-5g",
    title="Lattice ECP5-5G Versa, LFE5UM5G-45F",
    platform="amaranth_boards.versa_ecp5_5g:VersaECP55GPlatform",
    link=UartLink(chip="FT2232H", base_hz=12_000_000),
    clock_hz=90_000_000,
    heartbeat=Led(resource="led", number=0),
    ready=Led(resource="led", number=1),
    error=Led(resource="led", number=2),
    memory=VERSA_5G,
    loader=("--cable", "ft2232"),
    cables=("0403:6010",),
)

VERSA_ECP5 = replace(
    VERSA_ECP5_5G,
    name="versa-ecp5",
    title="Lattice ECP5 Versa, LFE5UM-45F",
    platform="amaranth_boards.versa_ecp5:VersaECP5Platform",
    memory=VERSA,
)
