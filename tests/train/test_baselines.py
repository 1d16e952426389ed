# SPDX-License-Identifier: Apache-2.0
"""The baselines are probability models, and good ones."""

from __future__ import annotations

import lzma
import math
import random

import numpy as np
import pytest

from nomul.model.errors import NomulError
from nomul.train.baselines import Ngram, xz_bits_per_byte


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    rng = random.Random(7)
    words = ["return ", "self", ".", "value", "\n    ", "if ", "not ", "None", ":\n", "def "]
    return np.frombuffer("".join(rng.choices(words, k=6000)).encode(), dtype=np.uint8)


@pytest.mark.parametrize("order", [1, 2, 5, 8])
def test_distributions_sum_to_one(text: np.ndarray, order: int):
    model = Ngram(text, order=order)
    for context in (b"", b"r", b"return self", b"zzzzzzzz", b"selz"):
        p = model.distribution(context)
        assert p.min() > 0
        assert p.sum() == pytest.approx(1, abs=1e-12)


def test_beats_a_unigram_and_uniform(text: np.ndarray):
    head, tail = text[:-4000], text[-4000:]
    counts = np.bincount(head, minlength=256) + 1
    unigram = -np.log2(counts[tail] / counts.sum()).mean()
    five = Ngram(head).bits_per_byte(tail)
    assert five < Ngram(head, order=1).bits_per_byte(tail) < 8
    assert five < 0.6 * unigram


def test_equals_a_naive_bigram():
    """Interpolated Kneser–Ney by the book, on a text small enough to count by hand."""
    text = b"abracadabra abracadabra"
    pairs: dict[tuple[int, int], int] = {}
    for left, right in zip(b"\0" + text, text, strict=False):
        pairs[left, right] = pairs.get((left, right), 0) + 1

    def discount(counts: list[int]) -> float:
        return counts.count(1) / (counts.count(1) + 2 * counts.count(2))

    fans = {w: len({u for u, v in pairs if v == w}) for _, w in pairs}
    low, high = discount(list(fans.values())), discount(list(pairs.values()))

    def p(left: int, right: int) -> float:
        total = sum(fans.values())
        base = (max(fans.get(right, 0) - low, 0) + low * len(fans) / 256) / total
        row = {w: n for (u, w), n in pairs.items() if u == left}
        if not row:
            return base
        return (max(row.get(right, 0) - high, 0) + high * len(row) * base) / sum(row.values())

    model = Ngram(np.frombuffer(text, dtype=np.uint8), order=2)
    for left in b"abz":
        expected = [p(left, right) for right in range(256)]
        np.testing.assert_allclose(model.distribution(bytes([left])), expected, rtol=1e-12)
    bits = -sum(math.log2(p(u, v)) for u, v in zip(b"\0abz", b"abzq", strict=True)) / 4
    read = np.frombuffer(b"abzq", dtype=np.uint8)
    assert model.bits_per_byte(read) == pytest.approx(bits)


def test_xz_counts_the_whole_container(text: np.ndarray):
    assert xz_bits_per_byte(text) == len(lzma.compress(text.tobytes(), preset=9)) * 8 / len(text)


@pytest.mark.parametrize("order", [0, 9])
def test_refuses_an_order(text: np.ndarray, order: int):
    with pytest.raises(NomulError, match=f"order is {order}"):
        Ngram(text, order=order)


def test_refuses_an_empty_text():
    with pytest.raises(NomulError, match="empty"):
        Ngram(np.zeros(0, dtype=np.uint8))
