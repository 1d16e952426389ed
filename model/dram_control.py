# SPDX-License-Identifier: Apache-2.0
"""Region CONTROL of a board's bus, and what a host must know of a memory controller to bring its memory up.

Written are **operations** of 8 bytes at offset 0, and behind it as many as a request holds::

    register:3  word:4  ticket:1

``register`` is a byte address, a multiple of 4. The operation is done when its ticket comes and is one more, modulo
256, than that of the last one done; else it was done already, and is passed over: repeating a request does nothing
twice. Register :data:`READY` is the bridge's own: bit 0 of the word says that the memory is up.

Read are, at offset 0, the last ticket and whether the memory is up; and registers, at ``REGISTERS | register``, whole
words from their first byte on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from .errors import NomulError
from .protocol import MAX_DATA

__all__ = [
    "CONTROL_BYTES", "OPERATION_BYTES", "READY", "REGISTERS", "DramControl", "InitStep", "pack_operations",
]  # fmt: skip

CONTROL_BYTES = 1 << 24  #: size of the region
REGISTERS = 1 << 23  #: offset of the registers
READY = 0xFFFFFC  #: register of the bridge
OPERATION_BYTES = 8
MAX_OPERATIONS = MAX_DATA // OPERATION_BYTES  #: in a request


def pack_operations(operations: Iterable[tuple[int, int]], ticket: int) -> bytes:
    """Operations on the wire.

    Parameters
    ----------
    operations : iterable of (int, int)
        Register and word.
    ticket : int
        Of the last operation before these.
    """
    raw = b""
    for register, word in operations:
        ticket = ticket + 1 & 0xFF
        raw += register.to_bytes(3, "little") + struct.pack("<IB", word, ticket)
    return raw


@dataclass(frozen=True, kw_only=True)
class InitStep:
    """A step of the sequence that starts a memory, as LiteDRAM has it.

    Attributes
    ----------
    what : str
    address, bank : int
        On the memory's pins.
    command : int
        Of the register ``command`` of phase 0; or, with ``control``, the word of ``dfii_control``.
    control : bool
    cycles : int
        Of the system clock that it takes at least.
    """

    what: str
    address: int
    bank: int
    command: int
    control: bool
    cycles: int


@dataclass(frozen=True, kw_only=True)
class DramControl:
    """What a host needs of a controller.

    Attributes
    ----------
    name : str
        Of the memory part.
    clock_hz : int
        System clock.
    registers : dict of int
        By LiteX's names.
    init : tuple of InitStep
    phases, read_phase, write_phase : int
        Commands of a system cycle, and those that reads and writes take.
    data_bits, phase_bits : int
        Data pins; data of a phase, in all its beats.
    delays, bitslips : int
        Settings of the read path, for each byte of the pins; 1 where there is nothing to set.
    """

    name: str
    clock_hz: int
    registers: dict[str, int]
    init: tuple[InitStep, ...]
    phases: int
    read_phase: int
    write_phase: int
    data_bits: int
    phase_bits: int
    delays: int
    bitslips: int

    @property
    def levelled(self) -> bool:
        """The read path must be set."""
        return self.delays > 1 or self.bitslips > 1

    def as_dict(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> DramControl:
        """From a manifest.

        Raises
        ------
        NomulError
            If it is none.
        """
        try:
            init = tuple(InitStep(**step) for step in found["init"])
            return cls(**{**found, "init": init})
        except (KeyError, TypeError) as error:
            raise NomulError(f"manifest: memory is not as it should be ({error}); build the bitstream again") from None
