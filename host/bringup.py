# SPDX-License-Identifier: Apache-2.0
"""Brings a board's memory up over the link: LiteDRAM's sequence, and read levelling. No processor on the chip does.

What is written where is :mod:`nomul.model.dram_control`; docs/dram.md says why the host does it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from nomul.model.dram_control import (
    MAX_OPERATIONS,
    READY,
    REGISTERS,
    DramControl,
    pack_operations,
)
from nomul.model.errors import NomulError
from nomul.model.protocol import Region

from .session import Session

__all__ = ["Eye", "Registers", "bring_up", "is_up"]

_SOFTWARE, _HARDWARE, _CKE, _ODT, _RESET_N = 0, 1, 2, 4, 8  # of dfii_control
_CS, _WE, _CAS, _RAS, _WRITE, _READ = 1, 2, 4, 8, 16, 32  # of a phase's command
_PRECHARGE_ALL = 0x400  # on the address pins
_RESET_S = 0.001  # reset is held for 200 µs at least (JESD79-3, "RESET initialization with stable power")
_PATTERNS = 3  # random ones, for each setting
_LAST_PATTERNS = 16  # for those that were chosen


@dataclass(frozen=True, kw_only=True)
class Eye:
    """Settings of the read path at which a byte of the pins was read right.

    Attributes
    ----------
    byte : int
        Of the data pins.
    bitslip, delay : int
        What was chosen: the middle of the widest run.
    right : tuple of tuples of bool
        ``right[bitslip][delay]``.
    """

    byte: int
    bitslip: int
    delay: int
    right: tuple[tuple[bool, ...], ...]

    def __str__(self) -> str:
        """``byte 0: bitslip 1, delay 3 of 1 to 5``."""
        row = self.right[self.bitslip]
        first = self.delay
        while first and row[first - 1]:
            first -= 1
        last = self.delay
        while last + 1 < len(row) and row[last + 1]:
            last += 1
        return f"byte {self.byte}: bitslip {self.bitslip}, delay {self.delay} of {first} to {last}"


class Registers:
    """The registers of a controller, over the link.

    Parameters
    ----------
    board : Session
    names : dict of int
        Byte addresses by LiteX's names.
    """

    def __init__(self, board: Session, names: dict[str, int]):
        self._board = board
        self.names = names
        self._ticket = board.read(Region.CONTROL.base, 1)[0]

    def write(self, operations: Iterable[tuple[str | int, int]]) -> None:
        """Writes words to registers, in order; as many in a request as it holds."""
        waiting = [(self.names[at] if isinstance(at, str) else at, word) for at, word in operations]
        for k in range(0, len(waiting), MAX_OPERATIONS):
            part = waiting[k : k + MAX_OPERATIONS]
            # On a bad line the driver cuts a request into pieces; the board puts them together by their places.
            self._board.write(Region.CONTROL.base, pack_operations(part, self._ticket))
            self._ticket = self._ticket + len(part) & 0xFF
        found = self._board.read(Region.CONTROL.base, 1)[0]
        if found != self._ticket:
            raise NomulError(
                f"memory: the controller took operations up to {found}, sent were those up to {self._ticket}; is "
                f"another host using the board?"
            )

    def read(self, name: str, words: int = 1) -> int:
        """A register of several words, the first of them the highest."""
        raw = self._board.read(Region.CONTROL.base + REGISTERS + self.names[name], 4 * words)
        return int.from_bytes(np.frombuffer(raw, "<u4").astype(">u4").tobytes(), "big")


def is_up(board: Session) -> bool:
    """Whether the host, this one or another, has said so since the board's reset."""
    return bool(board.read(Region.CONTROL.base + 1, 1)[0])


class _Memory:
    """A memory whose pins the host drives."""

    def __init__(self, registers: Registers, control: DramControl, rng: np.random.Generator):
        self.registers = registers
        self.control = control
        self.rng = rng
        self.beat_bytes = control.data_bits // 8
        self.size = control.phase_bits // 8  # bytes of a phase's data
        self.words = -(-self.size // 4)

    def command(self, phase: int, bits: int, *, address: int = 0, bank: int = 0) -> list[tuple[str | int, int]]:
        """What puts a command on the pins for one clock."""
        pins = f"sdram_dfii_pi{phase}_"
        return [
            (f"{pins}address", address), (f"{pins}baddress", bank), (f"{pins}command", bits),
            (f"{pins}command_issue", 1),
        ]  # fmt: skip

    def start(self) -> None:
        """LiteDRAM's sequence."""
        write = self.registers.write
        write([("sdram_dfii_control", _SOFTWARE)])  # reset
        time.sleep(_RESET_S)
        for step in self.control.init:
            if step.control:
                write([
                    ("sdram_dfii_pi0_address", step.address), ("sdram_dfii_pi0_baddress", step.bank),
                    ("sdram_dfii_control", step.command),
                ])  # fmt: skip
            else:
                write(self.command(0, step.command, address=step.address, bank=step.bank))
            time.sleep(step.cycles / self.control.clock_hz)

    def set_path(self, byte: int, *names: str) -> None:
        """Changes settings of the read path of a byte of the pins: ``rst``, ``inc``, ``bitslip_rst``, ``bitslip``.

        The PHY's strobe logic stands still while a byte is selected; that of all bytes then starts together.
        """
        everyone = (1 << self.beat_bytes) - 1
        self.registers.write([
            ("phy_dly_sel", 1 << byte), *((f"phy_rdly_dq_{name}", 1) for name in names),
            ("phy_dly_sel", everyone), ("phy_dly_sel", 0),
        ])  # fmt: skip

    def wrong(self) -> np.ndarray:
        """Writes a random burst and reads it back; whether each byte of the pins came back wrong."""
        control = self.control
        data = [self.rng.bytes(self.size) for _ in range(control.phases)]
        operations: list[tuple[str | int, int]] = []
        operations += self.command(0, _RAS | _CS)  # a row
        for phase, part in enumerate(data):
            at = self.registers.names[f"sdram_dfii_pi{phase}_wrdata"]
            words = np.frombuffer(part.ljust(4 * self.words, b"\0"), "<u4")[::-1]  # the highest first
            operations += [(at + 4 * k, int(word)) for k, word in enumerate(words)]
        operations += self.command(control.write_phase, _CAS | _WE | _CS | _WRITE)
        operations += self.command(control.read_phase, _CAS | _CS | _READ)
        operations += self.command(0, _RAS | _WE | _CS, address=_PRECHARGE_ALL)
        self.registers.write(operations)
        found = [
            self.registers.read(f"sdram_dfii_pi{phase}_rddata", self.words).to_bytes(self.size, "little")
            for phase in range(control.phases)
        ]
        differ = np.frombuffer(b"".join(data), np.uint8) != np.frombuffer(b"".join(found), np.uint8)
        return differ.reshape(-1, self.beat_bytes).any(axis=0)

    def right(self, byte: int, patterns: int) -> bool:
        """A byte of the pins is read right, every time."""
        return not any(self.wrong()[byte] for _ in range(patterns))

    def level(self, byte: int) -> Eye:
        """Finds the settings at which a byte is read right, and takes the middle."""
        control = self.control
        self.set_path(byte, "rst", "bitslip_rst")
        rows = []
        for bitslip in range(control.bitslips):
            if bitslip:
                self.set_path(byte, "rst", "bitslip")
            row = []
            for delay in range(control.delays):
                if delay:
                    self.set_path(byte, "inc")
                row.append(self.right(byte, _PATTERNS))
            rows.append(tuple(row))
        bitslip, delay = _middle(rows, byte)
        self.set_path(byte, "rst", "bitslip_rst", *["bitslip"] * bitslip, *["inc"] * delay)
        return Eye(byte=byte, bitslip=bitslip, delay=delay, right=tuple(rows))


def _middle(rows: list[tuple[bool, ...]], byte: int) -> tuple[int, int]:
    """Bitslip and delay in the middle of the widest run of settings that are right."""
    best = (0, 0, 0)
    for bitslip, row in enumerate(rows):
        begin = None
        for delay, right in enumerate([*row, False]):
            if right and begin is None:
                begin = delay
            elif not right and begin is not None:
                width = delay - begin
                if width > best[0]:
                    best = (width, bitslip, begin + (width - 1) // 2)
                begin = None
    if not best[0]:
        raise NomulError(
            f"memory: byte {byte} of its data pins is read wrong at all {len(rows)} bitslips and "
            f"{len(rows[0])} delays: the memory does not answer, or its clock is wrong"
        )
    return best[1], best[2]


def bring_up(
    board: Session,
    control: DramControl,
    *,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Eye]:
    """Starts a memory, sets its read path, and hands it to the controller.

    Parameters
    ----------
    board : Session
    control : DramControl
        Of the board's bitstream.
    rng : numpy.random.Generator
        Of the patterns.
    progress : callable
        Called with the steps done and those there are.

    Returns
    -------
    list of Eye
        What was found for each byte of the data pins; none where there is nothing to set.

    Raises
    ------
    NomulError
        If a byte is never read right, or not reliably at the setting that was chosen.
    """
    memory = _Memory(Registers(board, control.registers), control, rng)
    lanes = range(memory.beat_bytes)
    total = 2 + (len(lanes) if control.levelled else 0)
    memory.registers.write([(READY, 0)])
    memory.start()
    progress(1, total)
    eyes = []
    if control.levelled:
        for byte in lanes:
            eyes.append(memory.level(byte))
            progress(2 + byte, total)
    for _ in range(_LAST_PATTERNS):
        for byte in map(int, np.flatnonzero(memory.wrong())):
            raise NomulError(f"memory: byte {byte} of its data pins is not read reliably: {_chosen(eyes, byte)}")
    memory.registers.write([("sdram_dfii_control", _HARDWARE), (READY, 1)])
    progress(total, total)
    return eyes


def _chosen(eyes: list[Eye], byte: int) -> str:
    return str(eyes[byte]) if eyes else "there is nothing to set: check its clock"


