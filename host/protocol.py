# SPDX-License-Identifier: Apache-2.0
"""Frames of the host protocol as bytes. The numbers are in :mod:`nomul.model.protocol`."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from nomul.model.protocol import (
    HEADER_BYTES,
    RESPONSE,
    SLIP_END,
    SLIP_ESC,
    SLIP_ESC_END,
    SLIP_ESC_ESC,
    VERSION,
)

__all__ = ["FrameDecoder", "Response", "decode_response", "encode_request", "slip", "unslip"]

_END = bytes([SLIP_END])
_ESCAPES = {SLIP_END: bytes([SLIP_ESC, SLIP_ESC_END]), SLIP_ESC: bytes([SLIP_ESC, SLIP_ESC_ESC])}


def slip(raw: bytes) -> bytes:
    """A frame for the line, with an END before and after."""
    body = raw.replace(bytes([SLIP_ESC]), _ESCAPES[SLIP_ESC]).replace(_END, _ESCAPES[SLIP_END])
    return _END + body + _END


def unslip(body: bytes) -> bytes | None:
    """What is between two ENDs, without escapes; ``None`` if an escape is none."""
    head, *rest = body.split(bytes([SLIP_ESC]))
    out = bytearray(head)
    for part in rest:
        if part[:1] == bytes([SLIP_ESC_END]):
            out.append(SLIP_END)
        elif part[:1] == bytes([SLIP_ESC_ESC]):
            out.append(SLIP_ESC)
        else:
            return None
        out += part[1:]
    return bytes(out)


def encode_request(
    command: int, sequence: int, session: int, arguments: bytes = b"", *, version: int = VERSION
) -> bytes:
    """A request as it goes over the line."""
    raw = (
        bytes([version << 4 | command])
        + sequence.to_bytes(2, "little")
        + session.to_bytes(2, "little")
        + arguments
    )
    return slip(raw + zlib.crc32(raw).to_bytes(4, "little"))


@dataclass(frozen=True, kw_only=True)
class Response:
    """A response whose CRC is right.

    Parameters
    ----------
    version, command, sequence, session : int
        From the header.
    results : bytes
    status : int
        See :class:`nomul.model.protocol.Status`.
    """

    version: int
    command: int
    sequence: int
    session: int
    results: bytes
    status: int


def decode_response(raw: bytes) -> Response | None:
    """The response in a frame; ``None`` if it is damaged or no response."""
    if len(raw) < HEADER_BYTES + 1 + 4 or not raw[0] & RESPONSE:
        return None
    if zlib.crc32(raw[:-4]) != int.from_bytes(raw[-4:], "little"):
        return None
    return Response(
        version=raw[0] >> 4 & 7,
        command=raw[0] & 15,
        sequence=int.from_bytes(raw[1:3], "little"),
        session=int.from_bytes(raw[3:5], "little"),
        results=raw[HEADER_BYTES:-5],
        status=raw[-5],
    )


class FrameDecoder:
    """Finds frames in bytes as they come.

    Parameters
    ----------
    limit : int
        Bytes without an END after which a frame is given up: a babbling line must not fill the
        memory.
    """

    def __init__(self, *, limit: int = 4096):
        self._limit = limit
        self._partial = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Takes bytes; returns the frames that they complete, without damaged and empty ones."""
        *bodies, self._partial = (self._partial + chunk).split(_END)
        if len(self._partial) > self._limit:
            self._partial = self._partial[: self._limit]  # its CRC will not be right
        return [raw for raw in map(unslip, bodies) if raw]

    def clear(self) -> None:
        """Forgets a frame that has begun."""
        self._partial = b""
