# SPDX-License-Identifier: Apache-2.0
"""pytest side of what writes: the writer of runs, and the writer of logits."""

from __future__ import annotations

import re

import pytest

from nomul.hw.streamed.logits import LogitWriter
from nomul.hw.streamed.writer import Writer
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Writer(word_bytes=2), "word_bytes is 2; it must be a power of two, at least 4"),
        (lambda: Writer(word_bytes=24), "word_bytes is 24; it must be a power of two"),
        (lambda: LogitWriter(lanes=1, bits=20, word_bytes=64), "word_bytes is 64; logits go to memories of 4 to 32"),
        (lambda: LogitWriter(lanes=1, bits=20, word_bytes=2), "word_bytes is 2; logits go to memories of 4 to 32"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("word_bytes", [4, 16])
def test_writer(word_bytes):
    options = {"word_bytes": word_bytes}
    run(Writer(**options), "writer_tb", parameters={"kind": "writer", "options": options})


@pytest.mark.parametrize(
    ("lanes", "word_bytes", "vocab"), [(1, 16, 61), (3, 8, 53), (2, 32, 64), (4, 4, 9)]
)
def test_logit_writer(lanes, word_bytes, vocab):
    options = {"lanes": lanes, "bits": 21, "word_bytes": word_bytes}
    run(LogitWriter(**options), "writer_tb", parameters={"kind": "logits", "options": options, "vocab": vocab})
