# SPDX-License-Identifier: Apache-2.0
"""The host protocol's numbers: gateware and driver derive from them. The prose is docs/link.md.

A request and its response are one SLIP frame each::

    request   kind  sequence:2  session:2  arguments…             CRC-32:4
    response  kind  sequence:2  session:2  results…     status:1  CRC-32:4

Everything is little endian. ``kind`` is ``response << 7 | VERSION << 4 | command``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from .errors import NomulError

__all__ = [
    "ADDRESS_BITS",
    "CRC_POLYNOMIAL",
    "CRC_RESIDUE",
    "EXTERNAL",
    "FEED_BACK",
    "HEADER_BYTES",
    "LANE_BYTES",
    "LOGIT_BYTES",
    "MAX_DATA",
    "MAX_ENTRIES",
    "MAX_FRAME",
    "MAX_LANES",
    "MAX_MEMORY",
    "MAX_POLL",
    "MAX_RESULTS",
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
    "LaneFlag",
    "LaneToken",
    "Region",
    "Statistics",
    "Status",
    "max_rows",
    "max_steps",
    "pack_rows",
    "polled_steps",
    "unpack_rows",
]

VERSION = 2  #: protocol version, 3 bits of ``kind``
RESPONSE = 0x80  #: bit of ``kind`` that tells a response from a request (and from its echo)

SLIP_END, SLIP_ESC, SLIP_ESC_END, SLIP_ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD  #: RFC 1055

CRC_POLYNOMIAL = 0xEDB88320  #: IEEE 802.3, reflected: what zlib.crc32 computes
CRC_RESIDUE = 0xDEBB20E3  #: register after a frame with its right CRC, before the last inversion

TOKEN_BITS = 16
SLOT_BITS = 8  #: of the number of a recurrent state
FEED_BACK = (1 << TOKEN_BITS) - 1  #: instead of a token: the arg-max of the step before
ADDRESS_BITS = 32
EXTERNAL = 1 << 31  #: bit of an address: the others are a byte's place in external memory
MAX_MEMORY = EXTERNAL  #: bytes of external memory
REGION_SHIFT = 24
REGIONS = 8  #: sizes in an identity

MAX_DATA = 512  #: bytes in one WRITE or READ, and of rows in one JOB
LANE_BYTES = 4  #: of a lane in a row
LOGIT_BYTES = 4
MAX_ENTRIES = MAX_DATA // LANE_BYTES  #: lanes in all rows of one JOB
MAX_RESULTS = 512  #: arg-maxes of one job
MAX_POLL = 128  #: arg-maxes in one response to POLL
MAX_LANES = 32  #: of a core behind a link

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
    ``JOB`` (job:2, steps:2, rows: for each lane token:2, slot:1, :class:`LaneFlag`:1) → (). Does
    ``steps`` steps of a token in each lane: the rows in order, then the last one again and again.
    ``POLL`` (job:2, from:2) → state:1, :class:`Fault`:1, done:2, arg-max:2 of each lane of steps
    ``from`` … ``done``, as many whole steps as ``MAX_POLL`` holds.
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
    STATE = 7  #: the job goes on from a state that is gone: begin with the fresh flag
    JOB = 8  #: this job is not the board's last one
    BUS = 9  #: nothing answers at this address


class JobState(IntEnum):
    """State of a job in a response to POLL."""

    RUNNING = 1
    FINISHED = 2
    ABORTED = 3
    FAILED = 4  #: the core told a :class:`Fault`


class Fault(IntEnum):
    """Why a core gave a step up."""

    NONE = 0
    PROGRAM = 1  #: the program holds something that is no instruction
    MEMORY = 2  #: external memory gave wrong data
    SILENCE = 3  #: external memory does not answer


class LaneFlag(IntFlag):
    """Last byte of a lane in a row."""

    ACTIVE = 1  #: the token counts
    FRESH = 2  #: the slot's recurrent state counts as zero before it
    LOGITS = 4  #: its logits are wanted


class Region(IntEnum):
    """Bits 27:24 of an address on chip."""

    PROGRAM = 0
    WEIGHTS = 1
    NORMS = 2
    EMBEDDINGS = 3
    LOGITS = 4
    STATE = 5
    COUNTERS = 6
    CONTROL = 7  #: registers of a memory controller, see :mod:`nomul.model.dram_control`

    @property
    def base(self) -> int:
        """First address of the region."""
        return self << REGION_SHIFT


_LANE = struct.Struct("<HBB")


@dataclass(frozen=True, kw_only=True)
class LaneToken:
    """What an active lane does in a row of a job.

    Parameters
    ----------
    token : int or None
        0 to 65534; ``None`` feeds the arg-max back that the last active lane of this slot gave in
        the step before.
    slot : int
        Number of the recurrent state. Lanes of the same slot are successive tokens of one text.
    fresh : bool
        That state counts as zero before the token.
    logits : bool
        The token's logits are wanted.
    """

    token: int | None
    slot: int = 0
    fresh: bool = False
    logits: bool = False

    def __post_init__(self) -> None:
        if self.token is not None and not 0 <= self.token < FEED_BACK:
            raise NomulError(f"row: token {self.token}; it must be 0 to {FEED_BACK - 1}")
        if not 0 <= self.slot < 1 << SLOT_BITS:
            raise NomulError(f"row: slot {self.slot}; it must be 0 to {(1 << SLOT_BITS) - 1}")


def max_rows(lanes: int) -> int:
    """Rows in one JOB."""
    return MAX_ENTRIES // lanes


def max_steps(lanes: int) -> int:
    """Steps of one job."""
    return MAX_RESULTS // lanes


def polled_steps(lanes: int) -> int:
    """Steps in one response to POLL."""
    return MAX_POLL // lanes


def pack_rows(rows: Sequence[Sequence[LaneToken | None]], lanes: int) -> bytes:
    """Rows on the wire; ``None`` is a lane that is not active, as are those that a row leaves out."""
    raw = b""
    for row in rows:
        for lane in range(lanes):
            entry = row[lane] if lane < len(row) else None
            if entry is None:
                raw += bytes(LANE_BYTES)
                continue
            flags = LaneFlag.ACTIVE | entry.fresh * LaneFlag.FRESH | entry.logits * LaneFlag.LOGITS
            token = FEED_BACK if entry.token is None else entry.token
            raw += _LANE.pack(token, entry.slot, flags)
    return raw


def unpack_rows(raw: bytes, lanes: int) -> list[list[LaneToken | None]]:
    """Inverse of :func:`pack_rows`."""
    found: list[LaneToken | None] = []
    for token, slot, flags in _LANE.iter_unpack(raw):
        entry = LaneToken(
            token=None if token == FEED_BACK else token, slot=slot,
            fresh=bool(flags & LaneFlag.FRESH), logits=bool(flags & LaneFlag.LOGITS),
        )  # fmt: skip
        found.append(entry if flags & LaneFlag.ACTIVE else None)
    return [found[k : k + lanes] for k in range(0, len(found), lanes)]


_IDENTITY = struct.Struct(f"<8sHBxHxxII{REGIONS}I")
_STATISTICS = struct.Struct("<5HBxI")


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
    slots : int
        Recurrent states.
    clock_hz : int
        The core's clock.
    memory_bytes : int
        External memory; 0 is none.
    region_bytes : tuple of 8 int
        Size of each memory region; of logits, that of one lane.
    """

    design: bytes
    bytes_per_beat: int
    lanes: int
    slots: int
    clock_hz: int
    memory_bytes: int
    region_bytes: tuple[int, ...]

    SIZE = _IDENTITY.size

    def __post_init__(self) -> None:
        if len(self.design) != 8:
            raise ValueError(f"identity: design is {len(self.design)} bytes; it must be 8")
        for name, least, most in (
            ("bytes_per_beat", 1, (1 << 16) - 1),
            ("lanes", 1, MAX_LANES),
            ("slots", 1, 1 << SLOT_BITS),
            ("clock_hz", 1, (1 << 32) - 1),
            ("memory_bytes", 0, MAX_MEMORY),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"identity: {name} is {getattr(self, name)}; it must be {least} to {most}"
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
            self.design, self.bytes_per_beat, self.lanes, self.slots, self.clock_hz,
            self.memory_bytes, *self.region_bytes,
        )  # fmt: skip

    @classmethod
    def unpack(cls, raw: bytes) -> Identity:
        """Inverse of :meth:`pack`."""
        if len(raw) != cls.SIZE:
            raise NomulError(
                f"board identity: {len(raw)} bytes, expected {cls.SIZE}: update host or bitstream"
            )
        design, beat, lanes, slots, clock, memory, *regions = _IDENTITY.unpack(raw)
        try:
            return cls(
                design=design,
                bytes_per_beat=beat,
                lanes=lanes,
                slots=slots,
                clock_hz=clock,
                memory_bytes=memory,
                region_bytes=tuple(regions),
            )
        except ValueError as error:
            raise NomulError(f"board {error}") from error


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What the board counted since its reset: frames modulo 65536, cycles modulo 2³²; and its last fault.

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
    fault : int
        The :class:`Fault` of the last job.
    cycles : int
        Of the board's clock, when the request was acted on.
    """

    ok: int
    crc: int
    length: int
    framing: int
    stale: int
    fault: int
    cycles: int

    SIZE = _STATISTICS.size
    COUNTERS = ("ok", "crc", "length", "framing", "stale")

    @classmethod
    def unpack(cls, raw: bytes) -> Statistics:
        """From the bytes on the wire."""
        ok, crc, length, framing, stale, fault, cycles = _STATISTICS.unpack(raw)
        return cls(
            ok=ok, crc=crc, length=length, framing=framing, stale=stale, fault=fault, cycles=cycles
        )
