# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from nomul.model.errors import NomulError
from nomul.model.tokenizer import BEGIN, ByteTokenizer, TextDecoder, check_ids, tokenizer


@given(data=st.binary(min_size=1))
def test_bytes_round_trip(data: bytes):
    ids = ByteTokenizer().encode(data)
    assert ids.dtype == np.int64
    assert ids.tolist() == list(data)
    assert ByteTokenizer().decode_bytes(ids) == data
    assert ByteTokenizer().decode(ids.tolist()) == data.decode("utf-8", "replace")


@given(text=st.text(min_size=1))
def test_text_round_trip(text: str):
    assert ByteTokenizer().decode(ByteTokenizer().encode(text)) == text


@given(data=st.binary())
def test_incremental_decoder_gives_the_same_text(data: bytes):
    decoder = TextDecoder()
    for _ in range(2):  # the second time shows that finish() forgets
        text = "".join(decoder.feed(byte) for byte in data) + decoder.finish()
        assert text == data.decode("utf-8", "replace")


def test_incremental_decoder_gives_a_character_with_its_last_byte():
    decoder = ByteTokenizer().decoder()
    assert [decoder.feed(byte) for byte in "aé€😀".encode()] == [
        *("a", "", "é", "", "", "€"), *("", "", "", "😀")
    ]  # fmt: skip
    assert decoder.feed(0xC3) == ""
    assert decoder.finish() == "\ufffd"
    assert decoder.finish() == ""


def test_command_line_arguments_that_are_no_utf8():
    assert ByteTokenizer().encode(b"a\xff".decode("utf-8", "surrogateescape")).tolist() == [97, 255]
    with pytest.raises(NomulError, match="lone surrogate at position 1; give valid Unicode"):
        ByteTokenizer().encode("a\ud800")


@pytest.mark.parametrize("prompt", ["", b""])
def test_empty_prompt(prompt: str | bytes):
    with pytest.raises(NomulError, match="the prompt is empty; give at least one character"):
        ByteTokenizer().encode(prompt)
    with pytest.raises(NomulError, match="the prompt is empty"):
        check_ids([], 256)
    assert ByteTokenizer().decode([]) == ""


@pytest.mark.parametrize(
    ("ids", "line"),
    [
        ([1, 256], "token 256 at position 1 lies outside the vocabulary: ids are 0 to 255"),
        ([-1, 300], "token -1 at position 0 lies outside"),
        (np.array([3, 5, 1 << 63], np.uint64), "token 9223372036854775808 at position 2"),
        ([1.0], "token ids are float64; they must be integers"),
        ([10**30], "token ids are object; they must be integers"),
        ([[1], [2]], r"token ids have shape \[2, 1\]; they must be one list"),
    ],
)
def test_wrong_ids(ids, line: str):
    with pytest.raises(NomulError, match=line):
        check_ids(ids, 256)
    with pytest.raises(NomulError, match=line):
        ByteTokenizer().decode(ids)


def test_ids_of_another_vocabulary():
    assert check_ids(range(5), 5).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(NomulError, match=r"token 5 at position 0 .* ids are 0 to 4"):
        check_ids([5], 5)


def test_tokenizer_of_a_model_file():
    assert tokenizer("bytes", vocab=256).vocab == 256
    with pytest.raises(NomulError, match="needs a vocabulary of 256, the model has 32000"):
        tokenizer("bytes", vocab=32000)
    with pytest.raises(NomulError, match="tokenizer 'sentencepiece' is unknown"):
        tokenizer("sentencepiece", vocab=32000)


def test_begin_is_a_token():
    assert ByteTokenizer().decode_bytes([BEGIN]) == b"\0"
