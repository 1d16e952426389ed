# SPDX-License-Identifier: Apache-2.0
"""Requests to a board, repeated until they are answered; and its memory. The protocol is docs/link.md."""

from __future__ import annotations

import contextlib
import random
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from nomul.model.errors import NomulError
from nomul.model.protocol import MAX_DATA, VERSION, Command, Identity, Statistics, Status

from .protocol import FrameDecoder, Response, decode_response, encode_request
from .transport import LostError, Transport

__all__ = ["OTHER_VERSION", "BoardError", "Session"]

_PACE_S = 0.02  # a request is not repeated sooner
_ROUND_S = 0.1  # what an answer takes as long as nothing is known
_RELINK_S = 0.05  # between attempts to open a stream again
_LEAST_PIECE = 32  # bytes in a frame on a bad line

#: What is wrong when a board answers what this host does not know.
OTHER_VERSION = "its bitstream and this host are of different versions"
_MEANINGS = {
    Status.VERSION: f"it speaks another version of the protocol: {OTHER_VERSION}",
    Status.SESSION: "it was reset, or another host opened it, so its state is lost: begin again",
    Status.COMMAND: f"it does not know this request: {OTHER_VERSION}",
    Status.LENGTH: f"the request has the wrong length: {OTHER_VERSION}",
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


class _TooLong(Exception):
    """The line damages frames of this length."""


class Session:
    """What :class:`~nomul.host.driver.Board` is made of, without its tokens; see there.

    Every request is repeated until it is answered, and repeating one is never harmful; a board that
    was reset or opened by another host is noticed at the next request.

    Attributes
    ----------
    relink : callable, optional
        Opens another stream when the one there is has ended; the request that was under way is
        repeated there, in the same session.
    away_s : float
        How long after a request began that is tried.
    until : float
        No request goes on after this time.
    asked : float
        When the last request began.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        design: bytes | None,
        tries: int,
        wait_s: float,
        rng: random.Random | None,
    ):
        self._rng = rng or random.SystemRandom()
        self._transport = transport
        self._design = design
        self._tries, self._wait_s = tries, wait_s
        self._decoder = FrameDecoder()
        self._sequence = self._rng.randrange(1 << 16)
        self._round_s = dict.fromkeys(Command, min(_ROUND_S, wait_s / 4))  # what an answer takes
        self._piece = MAX_DATA  # bytes in a frame: long ones on a good line, short ones where many are damaged
        self.retries = 0
        self.relink: Callable[[], Transport] | None = None
        self.away_s = self.asked = self._heard = 0.0
        self.until = float("inf")
        try:
            transport.flush()
            self._open()
        except BaseException:
            transport.close()
            raise

    def __enter__(self) -> Self:
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

    def _open(self) -> None:
        """Begins a session."""
        self._session = self._rng.randrange(1, 1 << 16)
        self.identity = Identity.unpack(self._request(Command.OPEN))
        if self._design is not None and self._design != self.identity.design:
            raise NomulError(
                f"board: its design is {self.identity.design.hex()}, expected "
                f"{self._design.hex()}: load the bitstream that belongs to this model"
            )

    def reopen(self, transport: Transport) -> bool:
        """Goes on over another stream: in the same session if the board still has it, else in a new one.

        A job that ran is over, and states count as lost.

        Parameters
        ----------
        transport : Transport
            Closed with the board, or if this fails.

        Returns
        -------
        bool
            Whether the session is the same: then the board was not reset, and its memory is as it was.

        Raises
        ------
        NomulError
            As when a board is opened first.
        """
        self._transport.close()
        self._transport = transport
        self._decoder.clear()
        try:
            transport.flush()
            try:
                self.abort()
            except BoardError as error:
                if error.status is not Status.SESSION:
                    raise
                self._open()
                return False
            return True
        except BaseException:
            transport.close()
            raise

    def _request(
        self,
        command: Command,
        arguments: bytes = b"",
        *,
        size: int | None = None,
        piece: int = 0,
        since: float | None = None,
    ) -> bytes:
        """The results of a request, ``size`` bytes; asks again until there is an answer.

        A request that can be made of smaller pieces tells the bytes in this one, and since when it is
        tried; if the line is too bad for it, that is :class:`_TooLong`.
        """
        self._sequence = self._sequence + 1 & 0xFFFF
        frame = encode_request(command, self._sequence, self._session, arguments)
        self.asked = self._heard = since or time.monotonic()
        limit = self._tries * self._wait_s
        pace = max(_PACE_S, 4 * self._round_s[command])
        if command is Command.CHECKSUM:
            pace = self._wait_s  # it is long work: a slow board must not get it twice
        sent, lost = 0, False
        latest = self.asked + 2 * limit  # however much comes that is late
        while (now := time.monotonic()) < min(self._heard + limit, latest, self.until):
            try:
                if lost:
                    self._link_again()
                    lost = False
                self.retries += sent > 0
                sent += 1
                self._transport.write(frame)
                response = self._answer(command, min(pace, self._wait_s))
            except LostError:
                if self.relink is None or now > self.asked + self.away_s:
                    raise
                time.sleep(_RELINK_S)
                self._heard = time.monotonic()
                lost, latest = True, self.asked + self.away_s + limit
                continue
            if response is not None:
                took = time.monotonic() - now
                self._round_s[command] = max(took, (self._round_s[command] + took) / 2)
                if sent == 1 and max(len(frame), len(response.results)) >= self._piece:
                    self._piece = min(MAX_DATA, self._piece + self._piece // 4)
                return self._results(command, response, size)
            pace *= 1.25
            if sent > 1:
                self._piece = max(_LEAST_PIECE, self._piece // 2)
                if piece > self._piece:
                    raise _TooLong
        raise LostError(
            f"board: no answer to {command.name} within {limit:.2g} s: "
            f"check that it is powered, configured and attached"
        )

    def _link_again(self) -> None:
        """Another stream to the same board; if that was reset, its answer will say so."""
        assert self.relink is not None
        self._transport.close()
        self._transport = self.relink()
        self._transport.flush()
        self._decoder.clear()

    def _answer(self, command: Command, pace: float) -> Response | None:
        """What answers this very request; the rest is late, or a repetition.

        As long as such comes, the board is still at work on what was sent too often: that is waited
        for, and from now on repeated less soon.
        """
        end = time.monotonic() + pace
        while (left := end - time.monotonic()) > 0:
            for raw in self._decoder.feed(self._transport.read(left)):
                response = decode_response(raw)
                if response is None:
                    continue
                if (response.command, response.sequence) == (command, self._sequence) and (
                    command is not Command.OPEN
                    or response.session == self._session
                    or response.version != VERSION
                ):
                    return response
                self._heard = time.monotonic()
                if self._heard < self.asked + self._tries * self._wait_s:
                    end = self._heard + pace
                if response.command in self._round_s:
                    before = max(self._round_s[Command(response.command)], _PACE_S / 4)
                    self._round_s[Command(response.command)] = min(self._wait_s, 2 * before)
        return None

    def _results(self, command: Command, response: Response, size: int | None) -> bytes:
        if response.version != VERSION:
            raise NomulError(
                f"board: speaks protocol version {response.version}, this host "
                f"{VERSION}: install the host that belongs to its bitstream"
            )
        if response.session != self._session:
            raise BoardError(f"board: {_MEANINGS[Status.SESSION]}", Status.SESSION)
        if response.status == Status.OK:
            if size is not None and len(response.results) != size:
                raise NomulError(
                    f"board: answers {command.name} with {len(response.results)} bytes, "
                    f"expected {size}: {OTHER_VERSION}"
                )
            return response.results
        if response.status not in [*Status]:
            raise NomulError(f"board: refused {command.name}: status {response.status}: {OTHER_VERSION}")
        status = Status(response.status)
        raise BoardError(f"board: refused {command.name}: {_MEANINGS[status]}", status)

    def statistics(self) -> Statistics:
        """Frames that the board took and dropped since its reset."""
        return Statistics.unpack(self._request(Command.STATUS, size=Statistics.SIZE))

    def write(self, address: int, data: bytes) -> None:
        """Writes memory."""
        at, since = 0, time.monotonic()
        while at < len(data):
            part = bytes(data[at : at + self._piece])
            place = struct.pack("<I", address + at)
            with contextlib.suppress(_TooLong):
                self._request(Command.WRITE, place + part, piece=len(part), since=since)
                at, since = at + len(part), time.monotonic()

    def read(self, address: int, count: int) -> bytes:
        """Reads memory."""
        found, since = b"", time.monotonic()
        while len(found) < count:
            size = min(self._piece, count - len(found))
            place = struct.pack("<IH", address + len(found), size)
            with contextlib.suppress(_TooLong):
                found += self._request(Command.READ, place, size=size, piece=size, since=since)
                since = time.monotonic()
        return found

    def checksum(self, address: int, count: int) -> int:
        """``zlib.crc32`` of 1 to 65535 bytes of memory, as the board reads them."""
        return int.from_bytes(
            self._request(Command.CHECKSUM, struct.pack("<IH", address, count), size=4), "little"
        )

    def abort(self) -> None:
        """Stops the job that runs, if one does; recurrent state is lost."""
        self._request(Command.ABORT, struct.pack("<H", 0))
