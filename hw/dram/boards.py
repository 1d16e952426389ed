# SPDX-License-Identifier: Apache-2.0
"""Memories of boards: part, PHY and clock, and what follows from them for the port. The boards are in ``hw/boards``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .parts import AS4C32M16SB_7, IS42S16160G_7, MT41K64M16_125, MT41K256M16_125, DramPart

__all__ = [
    "BOARDS", "BUTTERSTICK", "BUTTERSTICK_8G", "ECPIX5", "ORANGECRAB", "ULX3S", "ULX3S_32M", "VERSA", "VERSA_5G",
    "DramBoard",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DramBoard:
    """A memory part behind a PHY.

    Attributes
    ----------
    name : str
        Of the board, as in :mod:`nomul.hw.boards.registry`.
    part : DramPart
    phy : str
        LiteDRAM's class: ``ECP5DDRPHY`` or ``HalfRateGENSDRPHY``. Both run the part at twice the system clock.
    cl, cwl : int
        Latencies of reads and writes in clocks of the part, as programmed; ``cwl`` is 0 for SDR.
    clock_hz : int
        System clock, which is the controller's.
    device : str
        The chip with the controller, as vendors write it.
    input_hz : int
        The board's oscillator.
    command_delay : int
        Taps of 25 ps by which clock and commands of DDR3 leave the chip later.
    terminated : bool
        DDR3: the part terminates its data pins (RTT_NOM of 60 Ω) while it is written.
    clock_phase : int
        SDR: degrees of the part's clock behind the edge at which commands leave the chip.
    """

    name: str
    part: DramPart
    phy: str
    cl: int
    cwl: int
    clock_hz: int
    device: str
    input_hz: int
    command_delay: int = 0
    terminated: bool = True
    clock_phase: int = 180

    #: Clocks of the part in a system cycle, commands that it gets in one ("phases").
    ratio = 2

    def __post_init__(self) -> None:
        kinds = {"ECP5DDRPHY": "DDR3", "HalfRateGENSDRPHY": "SDR"}
        if kinds.get(self.phy) != self.part.kind:
            raise ValueError(
                f"DramBoard {self.name}: {self.phy} is not for {self.part.kind} but one of {kinds}"
            )

    @property
    def word_bytes(self) -> int:
        """Width of the controller's port: what a column command moves, at least a cycle's worth."""
        return max(self.part.beats, self.ratio) * self.part.data_bits // 8

    @property
    def bytes_per_cycle(self) -> int:
        """What the pins move in a system cycle at most."""
        return self.ratio * self.part.data_bits // 8 * (2 if self.part.kind == "DDR3" else 1)

    @property
    def cycles_per_word(self) -> int:
        """System cycles that a word of the port takes on the pins."""
        return self.word_bytes // self.bytes_per_cycle

    @property
    def peak(self) -> int:
        """Bytes a second of the pins."""
        return self.bytes_per_cycle * self.clock_hz

    @property
    def words(self) -> int:
        """Words of the port in the memory."""
        return self.part.capacity // self.word_bytes


#: LambdaConcept ECPIX-5 with an LFE5U-85F. 75 MHz is what LiteX runs its memory at; the part then gets
#: 150 MHz, which is below its data sheet's least clock with the DLL on (303 MHz), and works nevertheless.
ECPIX5 = DramBoard(
    name="ecpix5-85f",
    part=MT41K256M16_125,
    phy="ECP5DDRPHY",
    cl=6,
    cwl=5,
    clock_hz=75_000_000,
    device="LFE5UM5G-85F-8CABGA554",
    input_hz=100_000_000,
)

#: OrangeCrab r0.2. Clock, delay and termination are those with which LiteX boots Linux on it.
ORANGECRAB = DramBoard(
    name="orangecrab-r0.2-85f",
    part=MT41K64M16_125,
    phy="ECP5DDRPHY",
    cl=6,
    cwl=5,
    clock_hz=64_000_000,
    device="LFE5U-85F-8CSFBGA285",
    input_hz=48_000_000,
    command_delay=100,
    terminated=False,
)

#: Lattice ECP5 Versa, with either chip.
VERSA = replace(ECPIX5, name="versa-ecp5", part=MT41K64M16_125, device="LFE5UM-45F-8CABGA381")
VERSA_5G = replace(VERSA, name="versa-ecp5-5g", device="LFE5UM5G-45F-8CABGA381")

#: ButterStick r1.0, the first of its two ranks: of 128 MB with parts of 1 Gb, of 512 MB with parts of 4 Gb.
BUTTERSTICK = replace(VERSA, name="butterstick", device="LFE5UM5G-85F-8CABGA381", input_hz=30_000_000)
BUTTERSTICK_8G = replace(BUTTERSTICK, name="butterstick-8g", part=MT41K256M16_125)

#: Radiona ULX3S with an LFE5U-85F; the part runs at 120 MHz. 60 MHz is the highest clock below the part's that 3 Mbaud
#: divide and its PLL makes. The part's clock is half of one late: commands have 4.2 ns before its edge and after.
ULX3S = DramBoard(
    name="ulx3s-85f",
    part=AS4C32M16SB_7,
    phy="HalfRateGENSDRPHY",
    cl=3,
    cwl=0,
    clock_hz=60_000_000,
    device="LFE5U-85F-6CABGA381",
    input_hz=25_000_000,
)

#: The same with half the memory, as most were sold.
ULX3S_32M = replace(ULX3S, name="ulx3s-85f-32m", part=IS42S16160G_7)

BOARDS = {
    board.name: board
    for board in (ECPIX5, ULX3S, ULX3S_32M, ORANGECRAB, VERSA, VERSA_5G, BUTTERSTICK, BUTTERSTICK_8G)
}
