# SPDX-License-Identifier: Apache-2.0
"""A board in Python that speaks the protocol, in front of the stand-in's definition."""

from __future__ import annotations

import struct
import zlib

from standin import FAILS, MEMORY_BYTES, StandInModel, standin_identity

from nomul.host.protocol import FrameDecoder, slip
from nomul.model.protocol import (
    EXTERNAL,
    HEADER_BYTES,
    LANE_BYTES,
    RESPONSE,
    VERSION,
    Command,
    Fault,
    JobState,
    Status,
    max_rows,
    max_steps,
    polled_steps,
    unpack_rows,
)

__all__ = ["BoardModel"]


class BoardModel:
    """A transport with such a board at its end; jobs are done at once.

    Attributes
    ----------
    jobs : list of (int, int)
        Rows and steps of every job taken.
    memory : bytearray
        External memory.
    """

    def __init__(self, *, lanes: int, slots: int):
        self.lanes = lanes
        self.identity = standin_identity(lanes, slots)
        self.model = StandInModel(slots)
        self.jobs: list[tuple[int, int]] = []
        self.memory = bytearray(MEMORY_BYTES)
        self.writes: list[int] = []
        self._resumable: set[int] = set()
        self._decoder = FrameDecoder()
        self._out = b""
        self._job, self._state, self._fault = 0, JobState.FINISHED, Fault.NONE
        self._results: list[list[int]] = []

    def flush(self) -> None:
        self._out = b""

    def close(self) -> None:
        pass

    def read(self, timeout_s: float) -> bytes:
        out, self._out = self._out, b""
        return out

    def write(self, data: bytes) -> None:
        for raw in self._decoder.feed(data):
            assert zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little")
            command = Command(raw[0] & 15)
            status, results = self.act(command, raw[HEADER_BYTES:-4])
            answer = bytes([RESPONSE | VERSION << 4 | command]) + raw[1:HEADER_BYTES]
            answer += results + bytes([status])
            self._out += slip(answer + zlib.crc32(answer).to_bytes(4, "little"))

    def act(self, command: Command, arguments: bytes) -> tuple[Status, bytes]:
        if command is Command.OPEN:
            return Status.OK, self.identity.pack()
        if command is Command.ABORT:
            return Status.OK, b""
        if command is Command.JOB:
            return self.begin(*struct.unpack_from("<HH", arguments), arguments[4:]), b""
        if command is Command.POLL:
            _, since = struct.unpack("<HH", arguments)
            part = self._results[since : since + polled_steps(self.lanes)]
            flat = [token for step in part for token in step]
            head = struct.pack("<BBH", self._state, self._fault, len(self._results))
            return Status.OK, head + struct.pack(f"<{len(flat)}H", *flat)
        address = int.from_bytes(arguments[:4], "little")
        assert address & EXTERNAL
        at = address - EXTERNAL
        if command is Command.WRITE:
            self.writes.append(address)
            self.memory[at : at + len(arguments) - 4] = arguments[4:]
            return Status.OK, b""
        count = int.from_bytes(arguments[4:6], "little")
        data = bytes(self.memory[at : at + count])
        if command is Command.CHECKSUM:
            data = zlib.crc32(data).to_bytes(4, "little")
        return Status.OK, data

    def begin(self, job: int, steps: int, raw: bytes) -> Status:
        lanes = self.lanes
        assert job
        assert len(raw) % (LANE_BYTES * lanes) == 0
        rows = unpack_rows(raw, lanes)
        assert 1 <= len(rows) <= min(steps, max_rows(lanes))
        assert steps <= max_steps(lanes)
        self.jobs.append((len(rows), steps))
        self._job, self._state, self._fault = job, JobState.FINISHED, Fault.NONE
        self._results = []
        last: dict[int, int] = {}
        for step in range(steps):
            found, now = [], dict[int, int]()
            for entry in rows[min(step, len(rows) - 1)]:
                if entry is None:
                    found.append(0xDEAD)  # means nothing
                    continue
                if not entry.fresh and entry.slot not in self._resumable:
                    return Status.STATE
                self._resumable.add(entry.slot)
                token = last[entry.slot] if entry.token is None else entry.token
                if token > FAILS:
                    self._state, self._fault = JobState.FAILED, Fault(token - FAILS)
                    self._resumable.clear()
                    return Status.OK
                now[entry.slot] = self.model.step(token, slot=entry.slot, fresh=entry.fresh)
                found.append(now[entry.slot])
            last = now
            self._results.append(found)
        return Status.OK
