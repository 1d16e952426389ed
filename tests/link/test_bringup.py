# SPDX-License-Identifier: Apache-2.0
"""Bringing a memory up, against a controller's registers in Python: a part that wants its sequence, pins with eyes."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.host import bringup
from nomul.host.bringup import bring_up, is_up
from nomul.model.dram_control import READY, REGISTERS, DramControl, InitStep
from nomul.model.errors import NomulError
from nomul.model.protocol import Region

NAMES = {name: 4 * k for k, name in enumerate(
    f"phy_{name}" for name in ("dly_sel", "rdly_dq_rst", "rdly_dq_inc", "rdly_dq_bitslip_rst", "rdly_dq_bitslip"))}
NAMES["sdram_dfii_control"] = 0x800
for phase in range(2):
    for k, name in enumerate(("command", "command_issue", "address", "baddress")):
        NAMES[f"sdram_dfii_pi{phase}_{name}"] = 0x804 + 0x20 * phase + 4 * k
    NAMES[f"sdram_dfii_pi{phase}_wrdata"] = 0x814 + 0x20 * phase
    NAMES[f"sdram_dfii_pi{phase}_rddata"] = 0x81C + 0x20 * phase
INIT = (
    InitStep(what="reset", address=0, bank=0, command=12, control=True, cycles=5),
    InitStep(what="cke", address=0, bank=0, command=14, control=True, cycles=5),
    InitStep(what="mr0", address=0x320, bank=0, command=15, control=False, cycles=2),
    InitStep(what="zq", address=0x400, bank=0, command=3, control=False, cycles=2),
)
CONTROL = DramControl(
    name="part", clock_hz=75_000_000, registers=NAMES, init=INIT, phases=2, read_phase=0, write_phase=1, data_bits=16,
    phase_bits=64, delays=8, bitslips=4,
)  # fmt: skip


class Board:
    """A link with a bridge, a DFI injector, a PHY whose bytes are read right in an eye, and a memory.

    Parameters
    ----------
    eyes : list
        For each byte: bitslip, first and last delay.
    """

    def __init__(self, eyes: list[tuple[int, int, int]], *, noise: float = 0.0, seed: int = 0):
        self.eyes, self.noise, self.rng = eyes, noise, np.random.default_rng(seed)
        self.words: dict[int, int] = {}
        self.operation, self.ticket, self.ready = bytearray(8), 0, False
        self.started: list[tuple[int, int, int]] = []
        self.path = [[0, 0] for _ in eyes]
        self.row, self.cell = False, bytes(16)
        self.lost = 0

    def write(self, address: int, data: bytes) -> None:
        assert address == Region.CONTROL.base
        for _ in range(1 + bool(self.lost)):  # an answer was lost, the request is repeated
            for k, byte in enumerate(data):
                self.operation[k % 8] = byte
                if k % 8 == 7 and byte == self.ticket + 1 & 0xFF:
                    self.ticket = byte
                    register, word = int.from_bytes(self.operation[:3], "little"), *struct.unpack_from(
                        "<I", self.operation, 3)  # fmt: skip
                    self.act(register, word)

    def read(self, address: int, count: int) -> bytes:
        at = address - Region.CONTROL.base
        if at < REGISTERS:
            return bytes([self.ticket, self.ready])[at : at + count]
        return struct.pack(f"<{count // 4}I", *(self.words.get(at - REGISTERS + 4 * k, 0) for k in range(count // 4)))

    def act(self, register: int, word: int) -> None:
        if register == READY:
            self.ready = bool(word)
            return
        self.words[register] = word
        (name, *_) = [name for name, at in NAMES.items() if at == register] or [""]
        selected = [k for k in range(len(self.eyes)) if self.words.get(0, 0) >> k & 1]
        for byte in selected:
            path = self.path[byte]
            if name == "phy_rdly_dq_rst":
                path[1] = 0
            elif name == "phy_rdly_dq_inc":
                path[1] = (path[1] + 1) % 8
            elif name == "phy_rdly_dq_bitslip_rst":
                path[0] = 0
            elif name == "phy_rdly_dq_bitslip":
                path[0] = (path[0] + 1) % 4
        if name == "sdram_dfii_control":
            self.started.append((-1, 0, word))
        elif name.endswith("command_issue"):
            phase = int(name[13])
            self.pins(phase, *(self.words[NAMES[f"sdram_dfii_pi{phase}_{part}"]] for part in
                               ("command", "address", "baddress")))  # fmt: skip

    def pins(self, phase: int, command: int, address: int, bank: int) -> None:
        if len(self.started) < 5:
            assert phase == 0
            self.started.append((address, bank, command))
            return
        assert self.words.get(0, 0) == 0, "a byte is selected: its strobe stands still"
        if command == 9:
            self.row = True
        elif command == 11:
            assert address == 0x400
            self.row = False
        elif command == 0b10111:  # a write
            assert self.row
            assert phase == CONTROL.write_phase
            words = [self.words[NAMES[f"sdram_dfii_pi{p}_wrdata"] + 4 * k] for p in range(2) for k in (1, 0)]
            self.cell = struct.pack("<4I", *words)
        elif command == 0b100101:  # a read
            assert self.row
            assert phase == CONTROL.read_phase
            found = np.frombuffer(self.cell, np.uint8).reshape(-1, 2).copy()
            for byte, (bitslip, first, last) in enumerate(self.eyes):
                inside = self.path[byte][0] == bitslip and first <= self.path[byte][1] <= last
                if not inside or self.rng.random() < self.noise:
                    found[:, byte] = np.roll(found[:, byte], 1) ^ 1
            for p in range(2):
                low, high = struct.unpack("<2I", found.tobytes()[8 * p : 8 * p + 8])
                at = NAMES[f"sdram_dfii_pi{p}_rddata"]
                self.words[at], self.words[at + 4] = high, low


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 7)).map(
        lambda eye: (eye[0], min(eye[1:]), max(eye[1:]))), min_size=2, max_size=2),
    st.integers(0, 1), st.integers(0, 255),
)  # fmt: skip
def test_the_middle_of_each_eye_is_found(eyes: list[tuple[int, int, int]], lost: int, seed: int):
    board = Board(eyes)
    board.lost, board.ticket = lost, seed
    seen: list[tuple[int, int]] = []
    found = bring_up(board, CONTROL, rng=np.random.default_rng(seed), progress=lambda *at: seen.append(at))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for eye, (bitslip, first, last), path in zip(found, eyes, board.path, strict=True):
        assert (eye.bitslip, eye.delay) == (bitslip, first + (last - first) // 2) == tuple(path)
        assert str(eye) == f"byte {eye.byte}: bitslip {bitslip}, delay {eye.delay} of {first} to {last}"
    assert board.ready
    assert is_up(board)
    assert board.words[0x800] == 1  # the controller has the pins
    # First reset, then LiteDRAM's steps in order.
    assert board.started[:5] == [(-1, 0, 0), (-1, 0, 12), (-1, 0, 14), (0x320, 0, 15), (0x400, 0, 3)]


def test_a_byte_that_is_never_right():
    board = Board([(1, 2, 5), (9, 0, 7)])
    with pytest.raises(NomulError, match=r"^memory: byte 1 of its data pins is read wrong at all 4 bitslips and 8 "):
        bring_up(board, CONTROL, rng=np.random.default_rng(1))
    assert not is_up(board)


def test_a_byte_that_is_right_now_and_then():
    board = Board([(1, 0, 7), (1, 0, 7)], noise=0.08)
    with pytest.raises(NomulError, match=r"^memory: byte [01] of its data pins is not read reliably: byte [01]: bit"):
        bring_up(board, CONTROL, rng=np.random.default_rng(1))
    assert not is_up(board)


def test_nothing_to_set():
    control = replace(CONTROL, delays=1, bitslips=1)
    board = Board([(0, 0, 0), (0, 0, 0)])
    assert bring_up(board, control, rng=np.random.default_rng(1)) == []
    assert is_up(board)
    with pytest.raises(NomulError, match=r"not read reliably: there is nothing to set: check its clock$"):
        bring_up(Board([(1, 0, 0), (0, 0, 0)]), control, rng=np.random.default_rng(1))


def test_another_host_in_between(monkeypatch: pytest.MonkeyPatch):
    board = Board([(0, 0, 7), (0, 0, 7)])
    registers = bringup.Registers(board, NAMES)
    board.ticket = 77
    with pytest.raises(NomulError, match=r"^memory: the controller took operations up to 77, sent were those up to 1"):
        registers.write([("phy_dly_sel", 0)])


def test_a_manifest_holds_it_all():
    assert DramControl.from_dict(CONTROL.as_dict()) == CONTROL
    broken = CONTROL.as_dict()
    del broken["init"]
    with pytest.raises(NomulError, match=r"^manifest: memory is not as it should be \('init'\)"):
        DramControl.from_dict(broken)
