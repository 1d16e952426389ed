# SPDX-License-Identifier: Apache-2.0
"""Norms in the weight stream: where they lie when they are read, and that nobody reads what is overwritten."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.model import isa
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.isa import Mode
from nomul.model.placement import NORM_WORD_BYTES, StreamedNorms, load_beats, streamed_norm_words
from nomul.model.program import Image, Streaming, compile_model
from nomul.model.random_checkpoint import random_checkpoint

sizes = st.builds(
    Geometry, hidden=st.integers(1, 70), intermediate=st.integers(1, 130), layers=st.integers(1, 3),
    vocab=st.integers(2, 40),
)  # fmt: skip


def images(geometry: Geometry, bytes_per_beat: int) -> tuple[Image, Image]:
    """On the chip and streamed."""
    model = fold(random_checkpoint(geometry, 3))
    chip = compile_model(model, bytes_per_beat=bytes_per_beat, tile_outputs=16)
    return chip, compile_model(
        model, bytes_per_beat=bytes_per_beat, tile_outputs=16, streaming=Streaming()
    )


def reads(image: Image) -> list[tuple[int, int]]:
    """First word and words of the norms that each Quant, Pass and Embed reads, in order."""
    def words(n: int) -> int:
        return -(-n // 4)

    found = []
    for i in image.program:
        if isinstance(i, isa.Quant):
            found.append((i.norm, words(i.elements)))
        elif isinstance(i, isa.Embed):
            found.append((i.norm, (i.vectors + i.square) * words(i.elements)))
        elif isinstance(i, isa.Pass) and i.mode is Mode.FORGET:
            found.append((i.address, words(i.outputs)))
        elif isinstance(i, isa.Pass) and i.mode is Mode.GATED:
            found.append((i.address, i.vectors * words(i.outputs // 2)))
        elif isinstance(i, isa.Pass) and i.mode in (Mode.OUTPUT, Mode.RESIDUAL):
            found.append((i.address, (i.vectors + i.square) * words(i.outputs)))
    return found


@given(sizes, st.sampled_from([8, 16, 32, 64]))
@settings(max_examples=40)
def test_who_reads_finds_the_same_norms(geometry: Geometry, bytes_per_beat: int):
    """As on the chip, though they were loaded at the latest moment and over others."""
    chip, streamed = images(geometry, bytes_per_beat)
    wanted = [chip.norms[at : at + n] for at, n in reads(chip)]
    held = np.full_like(streamed.norms, 0xBAD)
    assert len(held) == streamed_norm_words(geometry, bytes_per_beat)
    found, at, pending = [], 0, iter(reads(streamed))
    for i in streamed.program:
        if isinstance(i, isa.Tile):
            at += i.outputs * i.chunks
        elif isinstance(i, isa.Load):
            beats = load_beats(i.words, bytes_per_beat)
            made = streamed.weights[at : at + beats].reshape(-1)[: i.words * NORM_WORD_BYTES].copy().view("<u2")
            at += beats
            assert i.address % (bytes_per_beat // NORM_WORD_BYTES) == 0  # a beat is a row of norm memory
            assert i.address + i.words <= len(held)
            held[i.address : i.address + i.words] = made.reshape(-1, 4)
            rest = beats * bytes_per_beat // NORM_WORD_BYTES - i.words
            held[i.address + i.words : i.address + i.words + rest] = 0  # a row is written whole
        elif isinstance(i, isa.Quant | isa.Embed) or (
            isinstance(i, isa.Pass) and i.mode not in (Mode.INPUT, Mode.LOGITS)
        ):
            first, n = next(pending)
            found.append(held[first : first + n].copy())
    assert at == len(streamed.weights)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_instructions_but_loads_are_those_of_the_chip():
    geometry = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)
    chip, streamed = images(geometry, 8)
    kinds = [type(i) for i in streamed.program if not isinstance(i, isa.Load | isa.Stream | isa.Base)]
    assert kinds == [type(i) for i in chip.program]


@pytest.mark.parametrize(("words", "bytes_per_beat", "beats"), [(1, 8, 1), (1, 32, 1), (4, 32, 1), (5, 32, 2)])
def test_beats_of_a_load(words: int, bytes_per_beat: int, beats: int):
    assert load_beats(words, bytes_per_beat) == beats


@pytest.mark.parametrize("hidden", [8, 16, 24, 64])
def test_a_vector_comes_ahead_only_where_beats_allow(hidden: int):
    geometry = Geometry(hidden=hidden, intermediate=64, layers=1, vocab=8)
    emitted: list[isa.Instruction] = []
    norms = StreamedNorms(geometry, 32, emitted.append, lambda made: None)
    last = np.arange(hidden, dtype=np.int16)
    norms.ahead(last, 3)
    place = 3 * hidden // 4
    assert emitted == ([isa.Load(address=place, words=hidden // 4)] if place % 4 == 0 else [])
    emitted.clear()
    norms.store(0, *[last] * 4)
    assert emitted == [isa.Load(address=0, words=(3 if place % 4 == 0 else 4) * hidden // 4)]


def test_refuses_beats_that_are_no_norm_words():
    model = fold(random_checkpoint(Geometry(hidden=8, intermediate=8, layers=1, vocab=8), 3))
    with pytest.raises(ValueError, match="bytes_per_beat is 12; of a streamed model it is a multiple of 8"):
        compile_model(model, bytes_per_beat=12, tile_outputs=16, streaming=Streaming())
