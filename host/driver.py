# SPDX-License-Identifier: Apache-2.0
"""Drives a board, simulated or not: identify, load, generate. The protocol is docs/link.md."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.image import plane_bits
from nomul.model.protocol import (
    EXTERNAL,
    FEED_BACK,
    LOGIT_BYTES,
    MAX_DATA,
    REGION_SHIFT,
    VERSION,
    Command,
    Fault,
    Identity,
    JobState,
    LaneToken,
    Region,
    Statistics,
    Status,
    max_rows,
    max_steps,
    pack_rows,
)

from .protocol import FrameDecoder, decode_response, encode_request
from .transport import SerialTransport, Transport

__all__ = ["Board", "BoardError", "Row", "checked_prompt"]

#: A token for each lane; ``None`` for lanes that are not active, as are those left out at the end.
Row = Sequence[LaneToken | None]

_CHUNK = 1 << 12  # bytes under one checksum: a slow simulation still answers in good time
_OTHER = "its bitstream and this host are of different versions"
_MEANINGS = {
    Status.SESSION: "it was reset, or another host opened it, so its state is lost: begin again",
    Status.COMMAND: f"it does not know this request: {_OTHER}",
    Status.LENGTH: f"the request has the wrong length: {_OTHER}",
    Status.ARGUMENT: "an argument is out of range",
    Status.BUSY: "a job runs: wait for it or abort it",
    Status.STATE: "its state is gone: begin with a reset",
    Status.JOB: "another job was begun meanwhile",
    Status.BUS: "it has no memory at this address",
}
_FAULTS = {
    Fault.PROGRAM: "its program holds something that is no instruction: load the model again",
    Fault.MEMORY: "its external memory gave wrong data: load the model again; if that does not "
    "help, the memory or its clock is at fault",
    Fault.SILENCE: "its external memory does not answer: reset the board",
}


class BoardError(NomulError):
    """A board refused a request.

    Attributes
    ----------
    status : Status
        Why.
    """

    def __init__(self, message: str, status: Status):
        super().__init__(message)
        self.status = status


class Board:
    """A session with a board. Use it as a context manager, or :meth:`close` it.

    Every request is repeated until it is answered, and repeating one is never harmful; a board that
    was reset or opened by another host is noticed at the next request. So a token is right or there
    is an error.

    Parameters
    ----------
    transport : Transport
        Byte stream to the board; closed with the board.
    design : bytes, optional
        The 8 bytes of the design that is expected; another one is an error.
    tries : int
        How often a request is sent before the board counts as dead.
    wait_s : float
        How long an answer is waited for each time.
    stall_s : float
        How long a job may make no progress.
    rng : random.Random, optional
        Source of the session's number.

    Attributes
    ----------
    identity : Identity
        What the board said about itself.
    retries : int
        Requests that had to be repeated so far.
    logits_lane : int
        The last lane that was active: it has the logits of the last token.
    logits_place : tuple of int
        Address of lane 0's logits, and bytes from one lane's to the next: on the chip, unless who loads a model
        says where they lie instead.
    vocab : int
        Tokens are below it: the vocabulary of the model, which whoever loads one sets; at first all that
        the protocol can say.

    Raises
    ------
    NomulError
        If there is no board, or one that is not understood.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        design: bytes | None = None,
        tries: int = 8,
        wait_s: float = 0.5,
        stall_s: float = 60.0,
        rng: random.Random | None = None,
    ):
        rng = rng or random.SystemRandom()
        self._transport = transport
        self._tries, self._wait_s, self._stall_s = tries, wait_s, stall_s
        self._decoder = FrameDecoder()
        self._session = rng.randrange(1, 1 << 16)
        self._sequence = rng.randrange(1 << 16)
        self._job = 0
        self.logits_lane = 0
        self.retries = 0
        self.vocab = FEED_BACK
        try:
            transport.flush()
            self.identity = Identity.unpack(self._request(Command.OPEN))
            if design is not None and design != self.identity.design:
                raise NomulError(
                    f"board: its design is {self.identity.design.hex()}, expected {design.hex()}: "
                    f"load the bitstream that belongs to this model"
                )
            values = self.identity.region_bytes[Region.LOGITS] // LOGIT_BYTES
            self.logits_place = Region.LOGITS.base, LOGIT_BYTES << plane_bits(values)
        except BaseException:
            transport.close()
            raise

    @classmethod
    def open(cls, port: str, *, baud: int = 3_000_000, design: bytes | None = None) -> Board:
        """The board at a serial port or pseudo-terminal."""
        return cls(SerialTransport(port, baud=baud), design=design)

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session."""
        self._transport.close()

    # Requests

    def _request(self, command: Command, arguments: bytes = b"") -> bytes:
        """The results of a request; asks again until there is an answer."""
        self._sequence = self._sequence + 1 & 0xFFFF
        frame = encode_request(command, self._sequence, self._session, arguments)
        for attempt in range(self._tries):
            self.retries += attempt > 0
            self._transport.write(frame)
            end = time.monotonic() + self._wait_s
            while (left := end - time.monotonic()) > 0:
                for raw in self._decoder.feed(self._transport.read(left)):
                    response = decode_response(raw)
                    # What does not answer this very request is late or a repetition.
                    if (
                        response is None
                        or response.command != command
                        or response.sequence != self._sequence
                    ):
                        continue
                    if response.version != VERSION:
                        raise NomulError(
                            f"board: speaks protocol version {response.version}, this host "
                            f"{VERSION}: install the host that belongs to its bitstream"
                        )
                    if response.session != self._session and command is not Command.OPEN:
                        raise BoardError(f"board: {_MEANINGS[Status.SESSION]}", Status.SESSION)
                    if response.session != self._session:
                        continue
                    if response.status != Status.OK:
                        status = Status(response.status)
                        raise BoardError(
                            f"board: refused {command.name}: {_MEANINGS[status]}", status
                        )
                    return response.results
        raise NomulError(
            f"board: no answer to {command.name} after {self._tries} tries of {self._wait_s:g} s: "
            f"check that it is powered, configured and attached"
        )

    def statistics(self) -> Statistics:
        """Frames that the board took and dropped since its reset."""
        return Statistics.unpack(self._request(Command.STATUS))

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Writes memory."""
        for k in range(0, len(data), MAX_DATA):
            part = bytes(data[k : k + MAX_DATA])
            self._request(Command.WRITE, struct.pack("<I", address + k) + part)

    def read(self, address: int, count: int) -> bytes:
        """Reads memory."""
        return b"".join(
            self._request(Command.READ, struct.pack("<IH", address + k, min(MAX_DATA, count - k)))
            for k in range(0, count, MAX_DATA)
        )

    def checksum(self, address: int, count: int) -> int:
        """``zlib.crc32`` of 1 to 65535 bytes of memory, as the board reads them."""
        return int.from_bytes(
            self._request(Command.CHECKSUM, struct.pack("<IH", address, count)), "little"
        )

    # Memory image

    def load(
        self,
        image: Mapping[int, bytes | memoryview],
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Brings memory to the wanted contents, and makes sure of it before it returns.

        What is there already is not sent again: in external memory, in pieces of 4 KB; on chip, up to
        the first difference in each region. If anything was sent, all is compared once more at the
        end.

        Parameters
        ----------
        image : mapping
            Bytes by address.
        progress : callable
            Called with the bytes that were compared or sent and those there are.

        Returns
        -------
        int
            Bytes that had to be sent.

        Raises
        ------
        NomulError
            If a region, or external memory, is too small, before anything is written; or if memory
            does not keep what is written.
        """
        self._fits(image)
        total, done, sent = sum(map(len, image.values())), 0, 0
        differs = ""  # region in which something did: the rest of it will too
        for address, part in _pieces(image):
            region = _region(address)
            if region == differs or self.checksum(address, len(part)) != zlib.crc32(part):
                if not address & EXTERNAL:
                    differs = region
                self.write(address, part)
                sent += len(part)
            done += len(part)
            progress(done, total)
        if sent:
            self.verify(image)
        return sent

    def verify(self, image: Mapping[int, bytes | memoryview]) -> None:
        """Compares memory with what it should hold.

        Parameters
        ----------
        image : mapping
            Bytes by address.

        Raises
        ------
        NomulError
            Naming the region and the place of the first 4 KB that differ.
        """
        for address, part in _pieces(image):
            if self.checksum(address, len(part)) != zlib.crc32(part):
                raise NomulError(
                    f"board: {_region(address)} memory does not keep what is written: of the "
                    f"{len(part)} bytes at {address:#x} some are wrong; load it again"
                )

    def _fits(self, image: Mapping[int, bytes | memoryview]) -> None:
        for address, data in image.items():
            number, size = address >> REGION_SHIFT, 0
            offset = address & (1 << REGION_SHIFT) - 1
            if address & EXTERNAL:
                offset, size = address - EXTERNAL, self.identity.memory_bytes
            elif number < len(self.identity.region_bytes):
                size = self.identity.region_bytes[number]
            if offset + len(data) > size:
                raise NomulError(
                    f"board: the model needs {offset + len(data)} bytes of {_region(address)}"
                    f"{' memory' * bool(address & EXTERNAL)}, the board has "
                    f"{size}: {offset + len(data) - size} too few; use a smaller model "
                    f"or another board"
                )

    # Tokens

    def generate(self, prompt: Sequence[int], count: int, *, reset: bool = True) -> Iterator[int]:
        """Feeds a prompt, then generates greedily; tokens come as the board makes them.

        The last token generated is not fed: to go on, begin the next prompt with it and
        ``reset=False``. Leaving the iterator early stops the board, whose state is then lost.

        Parameters
        ----------
        prompt : sequence of int
            Tokens, at least one, as many as you like.
        count : int
            Tokens to generate; with 0, the prompt is only taken in.
        reset : bool
            Forget what came before.
        """
        tokens = checked_prompt(prompt, self.vocab)
        if count < 0:
            raise NomulError(f"board: {count} tokens to generate; it must be 0 or more")
        return self._generate(tokens, count, reset)

    def _generate(self, prompt: list[int], count: int, reset: bool) -> Iterator[int]:
        rows = self._prompt_rows(prompt, reset)
        steps, first = len(rows) + max(count - 1, 0), len(rows) - 1
        lane = len(rows[-1]) - 1
        if count > 1:
            rows.append([LaneToken(token=None, logits=True)])
        for k, found in enumerate(self._run(rows, steps)):
            if k >= first and count:
                token = found[lane if k == first else 0]
                assert token is not None
                yield token

    def force(self, tokens: Sequence[int], *, reset: bool = True) -> Iterator[int]:
        """Feeds given tokens; yields the arg-max after each of them."""
        return self._force(checked_prompt(tokens, self.vocab), reset)

    def _force(self, tokens: list[int], reset: bool) -> Iterator[int]:
        rows = self._prompt_rows(tokens, reset)
        for found in self._run(rows, len(rows)):
            yield from (token for token in found if token is not None)

    def _prompt_rows(self, tokens: list[int], reset: bool) -> list[Row]:
        """One user's tokens, so many a row as there are lanes; logits of the last, which alone can be read."""
        lanes, last = self.identity.lanes, len(tokens) - 1
        entries = [
            LaneToken(token=token, fresh=reset and k == 0, logits=k == last)
            for k, token in enumerate(tokens)
        ]
        return [entries[k : k + lanes] for k in range(0, len(entries), lanes)]

    def step(self, token: int, *, reset: bool = False) -> int:
        """Feeds one token; the arg-max after it. Its logits are then there to be read."""
        (result,) = self._force(checked_prompt([token], self.vocab), reset)
        return result

    def logits(self, vocab: int, *, lane: int | None = None) -> np.ndarray:
        """Logits of a lane in the last step.

        Parameters
        ----------
        vocab : int
        lane : int, optional
            By default the last one that was active.

        Returns
        -------
        ndarray of int32, shape ``[vocab]``
            As the core keeps them, without scale.
        """
        lane = self.logits_lane if lane is None else lane
        if not 0 <= lane < self.identity.lanes:
            raise NomulError(f"board: lane {lane}; it must be 0 to {self.identity.lanes - 1}")
        base, stride = self.logits_place
        return np.frombuffer(self.read(base + lane * stride, LOGIT_BYTES * vocab), dtype="<i4")

    # Lanes

    def run(self, rows: Sequence[Row], steps: int | None = None) -> Iterator[list[int | None]]:
        """Processes rows in order, then the last one again and again; as many jobs as it takes.

        Leaving the iterator early stops the board, whose recurrent states are then all lost.

        Parameters
        ----------
        rows : sequence of rows
            At least one. A lane that feeds back wants its slot active in the row before.
        steps : int, optional
            By default as many as there are rows; not fewer.

        Yields
        ------
        list of int or None, one a lane
            The arg-max of each active lane in a step.

        Raises
        ------
        NomulError
            At once, if the rows do not fit the board, or mean nothing; later, if the board fails.
        """
        lanes, slots = self.identity.lanes, self.identity.slots
        count = len(rows) if steps is None else steps
        if not 1 <= len(rows) <= count:
            raise NomulError(
                f"board: {len(rows)} rows and {count} steps; there must be at least one row, and "
                f"a step for each"
            )
        before: set[int] = set()
        for number, row in enumerate(rows):
            if len(row) > lanes:
                raise NomulError(f"board: row {number} has {len(row)} lanes, the board {lanes}")
            for lane, entry in enumerate(row):
                if entry is None:
                    continue
                if entry.token is not None and entry.token >= self.vocab:
                    raise NomulError(
                        f"board: row {number} has token {entry.token} in lane {lane}; {_range(self.vocab)}"
                    )
                if entry.slot >= slots:
                    raise NomulError(
                        f"board: row {number} has slot {entry.slot}; it must be 0 to {slots - 1}"
                    )
                if entry.token is None and (entry.fresh or entry.slot not in before):
                    raise NomulError(
                        f"board: row {number} feeds back to slot {entry.slot}, "
                        f"which is {'fresh' if entry.fresh else 'not active in the row before'}"
                    )
            before = {entry.slot for entry in row if entry is not None}
        return self._run(rows, count)

    def _run(self, rows: Sequence[Row], steps: int) -> Iterator[list[int | None]]:
        lanes, last = self.identity.lanes, dict[int, int]()  # arg-max of each slot just before
        done = 0
        while done < steps:
            part = list(rows[done : done + max_rows(lanes)]) or [rows[-1]]
            ends = done + len(part) >= len(rows)
            known = [
                replace(entry, token=last[entry.slot]) if entry and entry.token is None else entry
                for entry in part[0]
            ]
            if ends and len(part) == 1 and steps - done > 1 and known != [*part[0]]:
                part.append(part[0])  # what is given now is fed back from the next step on
            part[0] = known
            count = min(steps - done, max_steps(lanes)) if ends else len(part)
            for k, found in enumerate(self._run_job(part, count)):
                row = part[min(k, len(part) - 1)]
                last = {}
                result: list[int | None] = [None] * lanes
                for lane, entry in enumerate(row):
                    if entry is not None:
                        result[lane] = last[entry.slot] = found[lane]
                        self.logits_lane = lane
                yield result
            done += count

    def _run_job(self, rows: Sequence[Row], steps: int) -> Iterator[list[int]]:
        """One job; yields the arg-maxes of all lanes after each of ``steps`` steps."""
        lanes = self.identity.lanes
        self._job = job = self._job % 0xFFFF + 1
        self._begin(struct.pack("<HH", job, steps) + pack_rows(rows, lanes))
        done, state = 0, JobState.RUNNING
        moved, pause = time.monotonic(), 0.0
        try:
            while state == JobState.RUNNING or done < steps:
                results = self._request(Command.POLL, struct.pack("<HH", job, done))
                state, fault, _, *fresh = struct.unpack(f"<BBH{(len(results) - 4) // 2}H", results)
                if fresh:
                    moved, pause = time.monotonic(), 0.0
                elif state == JobState.FAILED:
                    meaning = _FAULTS.get(fault, f"fault {fault}: {_OTHER}")
                    raise NomulError(f"board: step {done + 1} of {steps} failed: {meaning}")
                elif state == JobState.ABORTED or (state == JobState.FINISHED and done < steps):
                    raise NomulError(
                        f"board: the job ended after {done} of {steps} steps: "
                        f"begin again with a reset"
                    )
                elif time.monotonic() - moved > self._stall_s:
                    raise NomulError(f"board: no token within {self._stall_s:g} s: reset it")
                elif state == JobState.RUNNING:
                    pause = min(0.02, pause * 1.5 + 0.0005)
                    time.sleep(pause)
                for k in range(0, len(fresh), lanes):
                    done += 1
                    yield fresh[k : k + lanes]
        except GeneratorExit:
            if state == JobState.RUNNING:
                self.abort()
            raise

    def _begin(self, arguments: bytes) -> None:
        """Sends a job; an aborted one before it may need a moment to end."""
        end = time.monotonic() + 2.0
        while True:
            try:
                self._request(Command.JOB, arguments)
                return
            except BoardError as error:
                if error.status is not Status.BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.005)

    def abort(self) -> None:
        """Stops the job that runs, if one does; recurrent state is lost."""
        self._request(Command.ABORT, struct.pack("<H", 0))


def _region(address: int) -> str:
    """Name of the region of an address."""
    number = address >> REGION_SHIFT
    if address & EXTERNAL:
        return "external"
    return Region(number).name.lower() if number in [*Region] else f"region {number}"


def _pieces(image: Mapping[int, bytes | memoryview]) -> Iterator[tuple[int, bytes | memoryview]]:
    """What is under one checksum each, with its address."""
    for address, data in image.items():
        for k in range(0, len(data), _CHUNK):
            yield address + k, data[k : k + _CHUNK]


def checked_prompt(prompt: Sequence[int], vocab: int, *, where: str = "board") -> list[int]:
    """The tokens of a prompt.

    Raises
    ------
    NomulError
        If there are none, or one is not below ``vocab``; it begins with ``where``.
    """
    tokens = [int(token) for token in prompt]
    if not tokens:
        raise NomulError(f"{where}: the prompt is empty; it must have at least one token")
    for k, token in enumerate(tokens):
        if not 0 <= token < vocab:
            raise NomulError(f"{where}: token {k} of the prompt is {token}; {_range(vocab)}")
    return tokens


def _range(vocab: int) -> str:
    """What a token must be."""
    whose = ", the vocabulary of the model" if vocab < FEED_BACK else ""
    return f"it must be 0 to {vocab - 1}{whose}"
