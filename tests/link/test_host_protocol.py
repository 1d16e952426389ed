# SPDX-License-Identifier: Apache-2.0
"""Frames on the host's side."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import IDENTITY

from nomul.host.driver import Board
from nomul.host.protocol import FrameDecoder, decode_response, encode_request, slip, unslip
from nomul.model.errors import NomulError
from nomul.model.protocol import (
    CRC_RESIDUE,
    HEADER_BYTES,
    RESPONSE,
    SLIP_END,
    VERSION,
    Command,
    Identity,
)

CRC_OF_WHOLE = CRC_RESIDUE ^ 0xFFFFFFFF  # zlib's of anything that its right CRC follows

special = st.binary(max_size=60) | st.lists(
    st.sampled_from([0xC0, 0xDB, 0xDC, 0xDD, 0]), max_size=60
).map(bytes)


@given(special)
def test_unslip_undoes_slip(raw: bytes):
    framed = slip(raw)
    assert framed.count(bytes([SLIP_END])) == 2
    assert framed[:1] == framed[-1:] == bytes([SLIP_END])
    assert unslip(framed[1:-1]) == raw


@given(st.lists(special.filter(bool), max_size=5), st.data())
def test_decoder_takes_any_cut(raws: list[bytes], data: st.DataObject):
    line = b"".join(map(slip, raws))
    decoder, found = FrameDecoder(), []
    while line:
        cut = data.draw(st.integers(1, len(line)))
        found += decoder.feed(line[:cut])
        line = line[cut:]
    assert found == raws


@given(st.binary(max_size=300))
def test_decoder_takes_anything_and_then_a_frame(noise: bytes):
    decoder = FrameDecoder(limit=100)
    decoder.feed(noise)
    assert decoder.feed(slip(b"good"))[-1] == b"good"


def test_a_babbling_line_does_not_fill_the_memory():
    decoder = FrameDecoder(limit=100)
    for _ in range(100):
        assert decoder.feed(bytes(1000)) == []
    assert len(decoder._partial) <= 1100
    assert decoder.feed(slip(b"good"))[-1] == b"good"


def cut(line: bytes, data: st.DataObject) -> list[bytes]:
    """A line in pieces, empty ones too."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(line)), max_size=8)))
    return [line[a:b] for a, b in zip([0, *ends], [*ends, len(line)], strict=True)]


def response(results: bytes, sequence: int) -> bytes:
    raw = bytes([RESPONSE | VERSION << 4 | Command.READ]) + sequence.to_bytes(2, "little")
    raw += bytes.fromhex("dbc0") + results + bytes([0])
    return raw + zlib.crc32(raw).to_bytes(4, "little")


#: Noise, whole responses, and those with a byte changed, lost or added.
lines = st.lists(
    st.binary(max_size=40)
    | special
    | st.builds(lambda results, sequence: slip(response(results, sequence)), special, st.integers(0, 0xFFFF))
    | st.builds(
        lambda results, at, new: (
            lambda frame: frame[: at % len(frame)] + new + frame[at % len(frame) + 1 :]
        )(slip(response(results, 7))),
        special, st.integers(0, 200), st.binary(max_size=2),
    ),
    max_size=8,
).map(b"".join)  # fmt: skip


@settings(max_examples=400)
@given(lines, st.data())
def test_whatever_comes_what_is_taken_is_right(line: bytes, data: st.DataObject):
    """However it is cut: nothing raised, no frame with a wrong CRC, and the next good one is found."""
    decoder, found = FrameDecoder(), []
    for piece in cut(line + slip(response(b"good", 0x1234)), data):
        found += decoder.feed(piece)
    assert found == FrameDecoder().feed(line + slip(response(b"good", 0x1234)))
    taken = [(raw, decode_response(raw)) for raw in found]
    for raw, it in taken:
        right = len(raw) > 9 and raw[0] & RESPONSE and zlib.crc32(raw) == CRC_OF_WHOLE
        assert (it is not None) == bool(right)
    last = taken[-1][1]
    assert last is not None
    assert (last.results, last.sequence) == (b"good", 0x1234)


class Scripted:
    """A transport that answers requests with whatever it is given."""

    def __init__(self, answer: Callable[[bytes], bytes]):
        self.answer, self.out, self.decoder = answer, b"", FrameDecoder()

    def write(self, data: bytes) -> None:
        for raw in self.decoder.feed(data):
            self.out += self.answer(raw)

    def read(self, timeout_s: float) -> bytes:
        out, self.out = self.out, b""
        return out

    def flush(self) -> None: ...

    def close(self) -> None: ...


@settings(max_examples=100)
@given(st.lists(lines, min_size=1, max_size=4), st.binary(max_size=70), st.integers(0, 255))
def test_a_board_that_talks_nonsense_is_an_error(noise: list[bytes], results: bytes, status: int):
    """Also with the right CRC, sequence and session: an error of ours or an answer, nothing else."""
    told = iter(noise * 1000)

    def answer(raw: bytes) -> bytes:
        command, body = raw[0] & 15, results + bytes([status])
        if command == Command.OPEN:
            body = IDENTITY.pack() + bytes([0])
        whole = bytes([raw[0] | RESPONSE]) + raw[1:HEADER_BYTES] + body
        return next(told) + slip(whole + zlib.crc32(whole).to_bytes(4, "little"))

    with Board(Scripted(answer), tries=2, wait_s=0.05, stall_s=0.02) as board:
        for work in (
            board.statistics, lambda: board.read(0, 5), lambda: board.checksum(0, 5),
            lambda: board.write(0, b"x"), board.abort, lambda: list(board.generate([1], 2)),
        ):  # fmt: skip
            with contextlib.suppress(NomulError):
                work()


def test_a_request_is_as_the_document_says():
    """docs/link.md has this frame."""
    frame = encode_request(Command.POLL, 0x0102, 0xC0DB, bytes([1, 0, 0, 0]))
    raw = bytes.fromhex("26 0201 dbc0 01000000")
    assert (
        frame
        == bytes.fromhex("c0 26 0201 dbdd dbdc 01000000")
        + slip(zlib.crc32(raw).to_bytes(4, "little"))[1:]
    )


def test_a_response_with_any_bit_flipped_is_none():
    raw = bytes([RESPONSE | VERSION << 4 | Command.POLL]) + bytes.fromhex("0201 dbc0 0102 00")
    raw += zlib.crc32(raw).to_bytes(4, "little")
    response = decode_response(raw)
    assert response is not None
    assert (response.command, response.sequence, response.session) == (Command.POLL, 0x0102, 0xC0DB)
    assert (response.results, response.status) == (b"\x01\x02", 0)
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_response(bytes(flipped)) is None
    for length in range(len(raw)):
        assert decode_response(raw[:length]) is None
    request = bytes([VERSION << 4 | Command.POLL]) + raw[1:-4]
    assert decode_response(request + zlib.crc32(request).to_bytes(4, "little")) is None


def test_identity_round_trip():
    assert Identity.unpack(IDENTITY.pack()) == IDENTITY
    largest = replace(IDENTITY, lanes=32, slots=256, memory_bytes=1 << 31)
    assert Identity.unpack(largest.pack()) == largest
    assert len(IDENTITY.pack()) == Identity.SIZE
    with pytest.raises(NomulError, match=r"board identity: 3 bytes, expected 56"):
        Identity.unpack(b"abc")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("design", b"short", "identity: design is 5 bytes; it must be 8"),
        ("lanes", 0, "identity: lanes is 0; it must be 1 to 32"),
        ("lanes", 33, "identity: lanes is 33; it must be 1 to 32"),
        ("slots", 0, "identity: slots is 0; it must be 1 to 256"),
        ("slots", 257, "identity: slots is 257; it must be 1 to 256"),
        ("memory_bytes", -1, "identity: memory_bytes is -1; it must be 0 to 2147483648"),
        (
            "memory_bytes",
            (1 << 31) + 1,
            "identity: memory_bytes is 2147483649; it must be 0 to 2147483648",
        ),
        ("clock_hz", 1 << 32, "identity: clock_hz is 4294967296; it must be 1 to 4294967295"),
        ("region_bytes", (1, 2), "identity: 2 regions; they must be 8"),
        (
            "region_bytes",
            (1 << 25,) * 8,
            "identity: region 0 has 33554432 bytes; they must be 0 to 16777216",
        ),
    ],
)
def test_identity_refuses(field: str, value: object, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Identity(**{**vars(IDENTITY), field: value})
