# SPDX-License-Identifier: Apache-2.0
"""The host protocol's numbers: gateware and driver derive from them. The prose is docs/link.md.

A request and its response are one SLIP frame each::

    request   kind  sequence:2  session:2  arguments…             CRC-32:4
    response  kind  sequence:2  session:2  results…     status:1  CRC-32:4

Everything is little endian. ``kind`` is ``response << 7 | VERSION << 4 | command``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from .errors import NomulError

__all__ = [
    "ADDRESS_BITS",
    "CRC_POLYNOMIAL",
    "CRC_RESIDUE",
    "HEADER_BYTES",
    "MAX_DATA",
    "MAX_FRAME",
    "MAX_POLL",
    "MAX_PROMPT",
    "MAX_STEPS",
    "REGIONS",
    "REGION_SHIFT",
    "RESPONSE",
    "SLIP_END",
    "SLIP_ESC",
    "SLIP_ESC_END",
    "SLIP_ESC_ESC",
    "SLOT_BITS",
    "TOKEN_BITS",
    "VERSION",
    "Command",
    "Fault",
    "Identity",
    "JobState",
    "Region",
    "Statistics",
    "Status",
]

VERSION = 1  #: protocol version, 3 bits of ``kind``
RESPONSE = 0x80  #: bit of ``kind`` that tells a response from a request (and from its echo)

SLIP_END, SLIP_ESC, SLIP_ESC_END, SLIP_ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD  #: RFC 1055

CRC_POLYNOMIAL = 0xEDB88320  #: IEEE 802.3, reflected: what zlib.crc32 computes
CRC_RESIDUE = 0xDEBB20E3  #: register after a frame with its right CRC, before the last inversion

TOKEN_BITS = 16
SLOT_BITS = 8  #: of the number of a recurrent state
ADDRESS_BITS = 32
REGION_SHIFT = 24
REGIONS = 8  #: sizes in an identity

MAX_DATA = 512  #: bytes in one WRITE or READ
MAX_PROMPT = 128  #: prompt tokens in one JOB
MAX_STEPS = 512  #: tokens processed by one JOB, fed back ones included
MAX_POLL = 128  #: tokens in one response to POLL

HEADER_BYTES = 5
MAX_FRAME = HEADER_BYTES + 4 + MAX_DATA + 4  #: the largest request, before SLIP


class Command(IntEnum):
    """Requests (arguments → results). Doing one twice in a row is the same as doing it once.

    ``OPEN`` () → identity. Begins the session named in the header: a new one forgets jobs and state
    of the last.
    ``STATUS`` () → :class:`Statistics`.
    ``WRITE`` (address:4, 1 … 512 bytes) → ().
    ``READ`` (address:4, count:2) → count bytes; fewer if an address does not answer.
    ``CHECKSUM`` (address:4, count:2) → CRC-32:4 of what the board reads there.
    ``JOB`` (job:2, flags:1, 0:1, steps:2, prompt tokens:2 each) → (). Processes ``steps`` tokens:
    the prompt, then each time the arg-max of the token before. Flag bit 0: clear the recurrent
    state first.
    ``POLL`` (job:2, from:2) → state:1, done:2, arg-max:2 of tokens ``from`` … ``done``, at most
    128.
    ``ABORT`` (job:2) → (). Job 0 means any.
    """

    OPEN = 0
    STATUS = 1
    WRITE = 2
    READ = 3
    CHECKSUM = 4
    JOB = 5
    POLL = 6
    ABORT = 7


class Status(IntEnum):
    """Last byte of every response."""

    OK = 0
    VERSION = 1  #: the board speaks another version: the one in ``kind``
    SESSION = 2  #: not the session that is open: the board was reset, or another host opened it
    COMMAND = 3  #: no such command
    LENGTH = 4  #: arguments of the wrong length
    ARGUMENT = 5  #: an argument out of range
    BUSY = 6  #: a job runs
    STATE = 7  #: the job goes on from a state that is gone: begin with the reset flag
    JOB = 8  #: this job is not the board's last one
    BUS = 9  #: nothing answers at this address


class JobState(IntEnum):
    """State of a job in a response to POLL."""

    RUNNING = 1
    FINISHED = 2
    ABORTED = 3


class Fault(IntEnum):
    """Why a token has no result."""

    NONE = 0
    PROGRAM = 1  #: its program holds what is no instruction
    MEMORY = 2  #: memory gave a word with an error
    SILENCE = 3  #: memory does not answer


class Region(IntEnum):
    """Bits 27:24 of an address."""

    PROGRAM = 0
    WEIGHTS = 1
    NORMS = 2
    EMBEDDINGS = 3
    LOGITS = 4
    STATE = 5
    COUNTERS = 6

    @property
    def base(self) -> int:
        """First address of the region."""
        return self << REGION_SHIFT


_IDENTITY = struct.Struct(f"<8sHBBI{REGIONS}I")
_STATISTICS = struct.Struct("<5H")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a board says about itself.

    Parameters
    ----------
    design : bytes
        8 bytes: a hash of the design in it.
    bytes_per_beat : int
        Weight bytes a cycle, ``G``.
    lanes : int
        Activation vectors that share a weight byte, ``L``.
    clock_hz : int
        The core's clock.
    region_bytes : tuple of 8 int
        Size of each memory region.
    """

    design: bytes
    bytes_per_beat: int
    lanes: int
    clock_hz: int
    region_bytes: tuple[int, ...]

    SIZE = _IDENTITY.size

    def __post_init__(self) -> None:
        if len(self.design) != 8:
            raise ValueError(f"identity: design is {len(self.design)} bytes; it must be 8")
        for name, bits in (("bytes_per_beat", 16), ("lanes", 8), ("clock_hz", 32)):
            if not 0 < getattr(self, name) < 1 << bits:
                raise ValueError(
                    f"identity: {name} is {getattr(self, name)}; it must be 1 to {(1 << bits) - 1}"
                )
        if len(self.region_bytes) != REGIONS:
            raise ValueError(f"identity: {len(self.region_bytes)} regions; they must be {REGIONS}")
        for region, size in enumerate(self.region_bytes):
            if not 0 <= size <= 1 << REGION_SHIFT:
                raise ValueError(
                    f"identity: region {region} has {size} bytes; "
                    f"they must be 0 to {1 << REGION_SHIFT}"
                )

    def pack(self) -> bytes:
        """The bytes on the wire."""
        return _IDENTITY.pack(
            self.design, self.bytes_per_beat, self.lanes, 0, self.clock_hz, *self.region_bytes
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Identity:
        """Inverse of :meth:`pack`."""
        if len(raw) != cls.SIZE:
            raise NomulError(
                f"board identity: {len(raw)} bytes, expected {cls.SIZE}: update host or bitstream"
            )
        design, beat, lanes, _, clock, *regions = _IDENTITY.unpack(raw)
        try:
            return cls(
                design=design,
                bytes_per_beat=beat,
                lanes=lanes,
                clock_hz=clock,
                region_bytes=tuple(regions),
            )
        except ValueError as error:
            raise NomulError(f"board {error}") from error


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Frames that the board has seen since its reset, each counter modulo 65536.

    Parameters
    ----------
    ok : int
        Taken: answered with whatever status.
    crc : int
        Dropped: wrong CRC.
    length : int
        Dropped: too short or too long.
    framing : int
        Dropped: an escape that is none, or a response where a request belongs.
    stale : int
        Dropped: older than a request already taken in this session.
    """

    ok: int
    crc: int
    length: int
    framing: int
    stale: int

    SIZE = _STATISTICS.size

    @classmethod
    def unpack(cls, raw: bytes) -> Statistics:
        """From the bytes on the wire."""
        ok, crc, length, framing, stale = _STATISTICS.unpack(raw)
        return cls(ok=ok, crc=crc, length=length, framing=framing, stale=stale)
