# SPDX-License-Identifier: Apache-2.0
"""Frames on the host's side."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standin import IDENTITY

from nomul.host.protocol import FrameDecoder, decode_response, encode_request, slip, unslip
from nomul.model.errors import NomulError
from nomul.model.protocol import RESPONSE, SLIP_END, VERSION, Command, Identity

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
