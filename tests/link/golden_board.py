# SPDX-License-Identifier: Apache-2.0
"""A board in Python with the golden model for a core: sessions, jobs and memory as docs/link.md says."""

from __future__ import annotations

import struct
import threading
import time
import zlib

import numpy as np

from nomul.host.deployment import Deployment
from nomul.host.protocol import FrameDecoder, slip
from nomul.host.transport import LostError
from nomul.model.core_config import CoreConfig
from nomul.model.counters import COUNTER_BYTES, Counter, counter_words
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.image import plane_bits
from nomul.model.isa import INSTRUCTION_BYTES, Base, decode
from nomul.model.memory_map import BLOCK
from nomul.model.program import Image, compile_model
from nomul.model.protocol import (
    EXTERNAL,
    HEADER_BYTES,
    REGION_SHIFT,
    REGIONS,
    RESPONSE,
    VERSION,
    Command,
    Identity,
    JobState,
    LaneToken,
    Region,
    Status,
    polled_steps,
    unpack_rows,
)
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.golden import Golden

__all__ = ["DESIGN", "GEOMETRY", "GoldenBoard", "Wire", "on_chip", "streamed", "tiny_model"]

GEOMETRY = Geometry(hidden=16, intermediate=8, layers=1, vocab=61)
DESIGN = b"GOLDEN__"
_MEMORY_BYTES = 1 << 16
_LOGITS_AT = 2 * INSTRUCTION_BYTES  # the instruction that says where logits begin


def tiny_model(number: int = 3) -> Model:
    """Number 3 falls into cycles of 22 tokens, longer than most do."""
    return fold(random_checkpoint(GEOMETRY, number))


def on_chip(number: int = 3) -> tuple[Image, Deployment]:
    """A tiny model whose state stays in the core."""
    config = CoreConfig()
    image = compile_model(
        tiny_model(number), bytes_per_beat=config.bytes_per_beat, tile_outputs=config.tile_outputs
    )
    return image, Deployment.of(image, config, design=DESIGN)


def streamed(number: int = 3) -> tuple[Image, Deployment]:
    """The same with everything in external memory, states too."""
    config = StreamedConfig.for_geometry(
        GEOMETRY, memory_bytes=_MEMORY_BYTES, slots=2, state="memory", logits="memory"
    )
    image = config.compile(tiny_model(number))
    return image, Deployment.of(image, config, design=DESIGN)


class GoldenBoard:
    """A job goes forward by ``pace`` steps at each POLL.

    Tokens are wrong if the image is not in memory, byte for byte.

    Attributes
    ----------
    fed : int
        Tokens that the core took.
    clock_hz : float
        At which its cycles count; 0 stands.
    """

    def __init__(
        self, image: Image, deployment: Deployment, *, lanes: int = 1, pace: int = 4, slots: int | None = None,
        design: bytes = DESIGN,
    ):  # fmt: skip
        sizes = [0] * REGIONS
        for address, data in deployment.parts.items():
            if not address & EXTERNAL:
                end = (address & (1 << REGION_SHIFT) - 1) + len(data)
                sizes[address >> REGION_SHIFT] = max(sizes[address >> REGION_SHIFT], end)
        sizes[Region.LOGITS] = 4 * deployment.results
        self.lanes, self.slots = lanes, slots or (2 if deployment.states else lanes)
        self.identity = Identity(
            design=design, bytes_per_beat=36, lanes=lanes, slots=self.slots, clock_hz=1,
            memory_bytes=_MEMORY_BYTES if deployment.states else 0, region_bytes=tuple(sizes),
        )  # fmt: skip
        self.deployment = deployment
        self.golden = Golden(image, lanes=lanes, slots=self.slots)
        self.pace = pace
        self.fed = 0
        self.stuck = False  # the core makes no tokens
        self.clock_hz = 0.0
        self.lock = threading.Lock()
        self.power_cycle()

    # What happens to boards

    def power_cycle(self) -> None:
        """Memory is lost too."""
        self.chip = {Region(n): bytearray(size) for n, size in enumerate(self.identity.region_bytes[:7])}
        self.chip[Region.LOGITS] = bytearray(self._logits_stride() * self.lanes)
        self.chip[Region.COUNTERS] = bytearray(COUNTER_BYTES * counter_words(self.lanes))
        self.memory = bytearray(self.identity.memory_bytes)
        self.reset()

    def reset(self) -> None:
        self.session = self.job = 0
        self.newest: int | None = None
        self.resumable: set[int] = set()
        self.last: dict[int, int] = {}
        self.state, self.results = JobState.FINISHED, list[list[int]]()
        self.rows, self.steps = list[list[LaneToken | None]](), 0

    def _logits_stride(self) -> int:
        return self.deployment.logits_stride or 4 << plane_bits(self.deployment.results)

    # The link

    def answer(self, raw: bytes) -> bytes:
        """The response to a frame, if it is answered."""
        if len(raw) < HEADER_BYTES + 4 or raw[0] & RESPONSE:
            return b""
        if zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
            return b""
        assert raw[0] >> 4 == VERSION
        command, arguments = Command(raw[0] & 15), raw[HEADER_BYTES:-4]
        sequence, session = struct.unpack_from("<HH", raw, 1)
        if session == self.session and self.newest is not None and (
            self.newest - sequence & 0xFFFF) - 1 < 0x8000 and self.newest != sequence:  # fmt: skip
            return b""  # stale
        status, results = Status.OK, b""
        if command is Command.OPEN:
            if session != self.session:
                self.reset()
                self.session = session
            results = self.identity.pack()
        elif session != self.session:
            status = Status.SESSION
        else:
            status, results = self.act(command, arguments)
        if session == self.session:
            self.newest = sequence
        head = bytes([RESPONSE | VERSION << 4 | command]) + raw[1:3]
        answer = head + self.session.to_bytes(2, "little") + results + bytes([status])
        return slip(answer + zlib.crc32(answer).to_bytes(4, "little"))

    def act(self, command: Command, arguments: bytes) -> tuple[Status, bytes]:
        if command is Command.ABORT:
            if self.state is JobState.RUNNING:
                self.state = JobState.ABORTED
                self.resumable.clear()
            return Status.OK, b""
        if command is Command.STATUS:
            cycles = int(time.monotonic() * self.clock_hz) % (1 << 32)
            return Status.OK, struct.pack("<5HBxI", 0, 0, 0, 0, 0, 0, cycles)
        if command is Command.JOB:
            return self.begin(*struct.unpack_from("<HH", arguments), arguments[4:]), b""
        if command is Command.POLL:
            job, since = struct.unpack("<HH", arguments)
            if job != self.job:
                return Status.JOB, b""
            self.work()
            steps = self.results[since : since + polled_steps(self.lanes)]
            part = [token for step in steps for token in step]
            head = struct.pack("<BBH", self.state, 0, len(self.results))
            return Status.OK, head + struct.pack(f"<{len(part)}H", *part)
        address = int.from_bytes(arguments[:4], "little")
        if self.state is JobState.RUNNING and not address & EXTERNAL:
            return Status.BUSY, b""
        if address & EXTERNAL:
            place, at = self.memory, address - EXTERNAL
        else:
            place, at = self.chip[Region(address >> REGION_SHIFT)], address & (1 << REGION_SHIFT) - 1
        if command is Command.WRITE:
            assert at + len(arguments) - 4 <= len(place)
            place[at : at + len(arguments) - 4] = arguments[4:]
            return Status.OK, b""
        count = int.from_bytes(arguments[4:6], "little")
        if at + count > len(place):
            return Status.BUS, b""
        data = bytes(place[at : at + count])
        return Status.OK, zlib.crc32(data).to_bytes(4, "little") if command is Command.CHECKSUM else data

    def begin(self, job: int, steps: int, raw: bytes) -> Status:
        if job == self.job:
            return Status.OK
        if self.state is JobState.RUNNING:
            return Status.BUSY
        self.rows = unpack_rows(raw, self.lanes)
        used = set(self.resumable)
        for entry in filter(None, (entry for row in self.rows for entry in row)):
            if not entry.fresh and entry.slot not in used:
                return Status.STATE
            used.add(entry.slot)
        self.job, self.steps, self.resumable = job, steps, used
        self.state, self.results = JobState.RUNNING, []
        return Status.OK

    def work(self) -> None:
        """Goes forward in the job that runs."""
        if self.state is not JobState.RUNNING or self.stuck:
            return
        whole = self.holds_the_image()
        for _ in range(min(self.pace, self.steps - len(self.results))):
            row = self.rows[min(len(self.results), len(self.rows) - 1)]
            tokens = [0] * self.lanes
            for slot in {entry.slot for entry in row if entry is not None}:
                self.load_state(slot)
            for lane, entry in enumerate(row):
                if entry is not None:
                    tokens[lane] = self.last[entry.slot] if entry.token is None else entry.token
                    if entry.fresh:
                        self.golden.reset(entry.slot)
            self.load_residuals()
            found = self.golden.step(
                tokens, slots=[entry.slot if entry else 0 for entry in row],
                active=[entry is not None for entry in row],
            )  # fmt: skip
            if not whole and self.deployment.gives:
                self.golden.vectors.logits = self.golden.logits + 1
            elif not whole:
                found = (found + 1) % self.golden.image.geometry.vocab
            self.last = {}
            for lane, entry in enumerate(row):
                if entry is not None:
                    self.last[entry.slot] = int(found[lane])
                    self.fed += 1
                    self.keep_state(entry.slot)
            self.results.append([int(token) for token in found])
        if len(self.results) == self.steps:
            self.state = JobState.FINISHED
            self.keep_logits()

    def holds_the_image(self) -> bool:
        for address, whole in self.deployment.parts.items():
            data = bytes(whole)
            if address == EXTERNAL and self.deployment.gives is not None:  # the host changes a word of the program
                word = bytes(self.memory[_LOGITS_AT : _LOGITS_AT + INSTRUCTION_BYTES])
                data = data[:_LOGITS_AT] + word + data[_LOGITS_AT + INSTRUCTION_BYTES :]
            place = self.memory if address & EXTERNAL else self.chip[Region(address >> REGION_SHIFT)]
            at = address & ((EXTERNAL if address & EXTERNAL else 1 << REGION_SHIFT) - 1)
            if place[at : at + len(data)] != data:
                return False
        return True

    def load_residuals(self) -> None:
        """What the host wrote for a section of a model."""
        takes = self.deployment.takes
        if takes is not None:
            for row in range(len(self.golden.residuals)):
                at = takes.base - EXTERNAL + row * takes.stride
                self.golden.residuals[row] = np.frombuffer(bytes(self.memory[at : at + takes.size]), "<i4")

    def _state(self, slot: int) -> slice:
        states = self.deployment.states
        assert states is not None
        at = states.base - EXTERNAL + slot * states.stride
        return slice(at, at + states.size)

    def load_state(self, slot: int) -> None:
        if self.deployment.states:
            raw = np.frombuffer(bytes(self.memory[self._state(slot)]), "<i4")
            self.golden.vectors.state[slot] = raw[: self.golden.vectors.state.shape[1]]

    def keep_state(self, slot: int) -> None:
        if self.deployment.states:
            values = self.golden.vectors.state[slot].astype("<i4")
            raw = np.zeros(self.deployment.states.size // 4, "<i4")
            raw[: len(values)] = values
            self.memory[self._state(slot)] = raw.tobytes()

    def keep_logits(self) -> None:
        base = self.deployment.logits_base
        if self.deployment.gives is not None:
            word = self.memory[_LOGITS_AT : _LOGITS_AT + INSTRUCTION_BYTES]
            instruction = decode(int.from_bytes(word, "little"))
            assert isinstance(instruction, Base)
            base = EXTERNAL | instruction.block * BLOCK
        place = self.memory if base & EXTERNAL else self.chip[Region.LOGITS]
        at = base - EXTERNAL if base & EXTERNAL else 0
        for lane in range(self.lanes):
            raw = self.golden.logits[lane].astype("<i4").tobytes()
            here = at + lane * self._logits_stride()
            place[here : here + len(raw)] = raw
            mantissa, exponent = np.frexp(self.golden.logit_scale[lane])
            word = COUNTER_BYTES * (Counter.LOGIT_SCALE + 2 * lane)
            scale = struct.pack("<Ii", int(mantissa * (1 << 31)), int(exponent) - 31)
            self.chip[Region.COUNTERS][word : word + 8] = scale


class Wire:
    """The byte stream to such a board; answers at once."""

    def __init__(self, board: GoldenBoard):
        self.board = board
        self.decoder = FrameDecoder()
        self.out = b""
        self.cut = False

    def _check(self) -> None:
        if self.cut:
            raise LostError("wire: the board is gone (cut); attach or start it again")

    def write(self, data: bytes) -> None:
        self._check()
        with self.board.lock:
            for raw in self.decoder.feed(data):
                self.out += self.board.answer(raw)

    def read(self, timeout_s: float) -> bytes:
        self._check()
        if not self.out:
            time.sleep(min(timeout_s, 0.002))
        out, self.out = self.out, b""
        return out

    def flush(self) -> None:
        self._check()
        self.out = b""

    def close(self) -> None:
        self.cut = True
