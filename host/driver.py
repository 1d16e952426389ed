# SPDX-License-Identifier: Apache-2.0
"""Drives a board, simulated or not: identify, load, generate. The protocol is docs/link.md."""

from __future__ import annotations

import random
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import (
    MAX_DATA,
    MAX_PROMPT,
    MAX_STEPS,
    REGION_SHIFT,
    TOKEN_BITS,
    VERSION,
    Command,
    Identity,
    JobState,
    Region,
    Statistics,
    Status,
)

from .protocol import FrameDecoder, decode_response, encode_request
from .transport import SerialTransport, Transport

__all__ = ["Board", "BoardError"]

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
        self.retries = 0
        try:
            transport.flush()
            self.identity = Identity.unpack(self._request(Command.OPEN))
            if design is not None and design != self.identity.design:
                raise NomulError(
                    f"board: its design is {self.identity.design.hex()}, expected {design.hex()}: "
                    f"load the bitstream that belongs to this model"
                )
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

    def write(self, address: int, data: bytes) -> None:
        """Writes memory."""
        for k in range(0, len(data), MAX_DATA):
            self._request(Command.WRITE, struct.pack("<I", address + k) + data[k : k + MAX_DATA])

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
        image: Mapping[int, bytes],
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Brings memory to the wanted contents, and makes sure of it.

        What is there already is not sent again, up to the first difference in each region.

        Parameters
        ----------
        image : mapping
            Bytes by address.
        progress : callable
            Called with the bytes that are known to be right and those there are.

        Returns
        -------
        int
            Bytes that had to be sent.

        Raises
        ------
        NomulError
            If a region is too small, before anything is written; or if memory does not keep what is
            written.
        """
        for address, data in image.items():
            region, offset = address >> REGION_SHIFT, address & (1 << REGION_SHIFT) - 1
            size = (
                self.identity.region_bytes[region]
                if region < len(self.identity.region_bytes)
                else 0
            )
            if offset + len(data) > size:
                name = Region(region).name.lower() if region in [*Region] else f"region {region}"
                raise NomulError(
                    f"board: the model needs {offset + len(data)} bytes of {name}, the board has "
                    f"{size}: {offset + len(data) - size} too few; use a smaller model "
                    f"or another board"
                )
        total, done, sent = sum(map(len, image.values())), 0, 0
        differs = -1  # region in which something did: the rest of it will too
        for address, data in image.items():
            for k in range(0, len(data), _CHUNK):
                part = data[k : k + _CHUNK]
                wanted, region = zlib.crc32(part), address + k >> REGION_SHIFT
                if region == differs or self.checksum(address + k, len(part)) != wanted:
                    differs = region
                    self.write(address + k, part)
                    sent += len(part)
                    if self.checksum(address + k, len(part)) != wanted:
                        raise NomulError(
                            f"board: memory at {address + k:#x} does not keep what is written"
                        )
                done += len(part)
                progress(done, total)
        return sent

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
        tokens = _checked(prompt)
        if count < 0:
            raise NomulError(f"board: {count} tokens to generate; it must be 0 or more")
        return self._generate(tokens, count, reset)

    def _generate(self, prompt: list[int], count: int, reset: bool) -> Iterator[int]:
        while len(prompt) > MAX_PROMPT:
            head, prompt = prompt[:MAX_PROMPT], prompt[MAX_PROMPT:]
            for _ in self._run(head, len(head), reset):
                pass
            reset = False
        while True:
            steps = min(len(prompt) + max(count, 1) - 1, MAX_STEPS)
            token = 0
            for k, token in enumerate(self._run(prompt, steps, reset)):
                if k >= len(prompt) - 1 and count:
                    yield token
                    count -= 1
            if not count:
                return
            prompt, reset = [token], False

    def force(self, tokens: Sequence[int], *, reset: bool = True) -> Iterator[int]:
        """Feeds given tokens; yields the arg-max after each of them."""
        return self._force(_checked(tokens), reset)

    def _force(self, tokens: list[int], reset: bool) -> Iterator[int]:
        for k in range(0, len(tokens), MAX_PROMPT):
            part = tokens[k : k + MAX_PROMPT]
            yield from self._run(part, len(part), reset and k == 0)

    def step(self, token: int, *, reset: bool = False) -> int:
        """Feeds one token; the arg-max after it. Its logits are then there to be read."""
        (result,) = self._run(_checked([token]), 1, reset)
        return result

    def logits(self, vocab: int) -> np.ndarray:
        """Logits after the last token of the last job.

        Returns
        -------
        ndarray of int32, shape ``[vocab]``
            As the core keeps them, without scale.
        """
        return np.frombuffer(self.read(Region.LOGITS.base, 4 * vocab), dtype="<i4")

    def _run(self, prompt: list[int], steps: int, reset: bool) -> Iterator[int]:
        """One job; yields the arg-max after each of ``steps`` tokens."""
        self._job = job = self._job % 0xFFFF + 1
        arguments = struct.pack(f"<HBBH{len(prompt)}H", job, reset, 0, steps, *prompt)
        self._begin(arguments)
        done, state = 0, JobState.RUNNING
        moved, pause = time.monotonic(), 0.0
        try:
            while state == JobState.RUNNING or done < steps:
                results = self._request(Command.POLL, struct.pack("<HH", job, done))
                state, _, *fresh = struct.unpack(f"<BH{(len(results) - 3) // 2}H", results)
                if fresh:
                    moved, pause = time.monotonic(), 0.0
                elif state == JobState.ABORTED or (state == JobState.FINISHED and done < steps):
                    raise NomulError(
                        f"board: the job ended after {done} of {steps} tokens: "
                        f"begin again with a reset"
                    )
                elif time.monotonic() - moved > self._stall_s:
                    raise NomulError(f"board: no token within {self._stall_s:g} s: reset it")
                elif state == JobState.RUNNING:
                    pause = min(0.02, pause * 1.5 + 0.0005)
                    time.sleep(pause)
                for token in fresh:
                    done += 1
                    yield token
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


def _checked(tokens: Sequence[int]) -> list[int]:
    checked = [int(token) for token in tokens]
    if not checked:
        raise NomulError("board: the prompt is empty; it must have at least one token")
    for k, token in enumerate(checked):
        if not 0 <= token < 1 << TOKEN_BITS:
            raise NomulError(
                f"board: token {k} of the prompt is {token}; "
                f"it must be 0 to {(1 << TOKEN_BITS) - 1}"
            )
    return checked
