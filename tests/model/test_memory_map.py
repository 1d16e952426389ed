# SPDX-License-Identifier: Apache-2.0
"""The map of a streamed model's memory: parts never overlap, all begin at blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.model import isa
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.isa import INSTRUCTION_BYTES, Part, pack_program, unpack_program
from nomul.model.memory_map import BLOCK, LOGIT_BYTES, STATE_BYTES, MemoryMap, state_place
from nomul.model.program import Image, Streaming, compile_model
from nomul.model.random_checkpoint import random_checkpoint

ODD = Geometry(hidden=37, intermediate=50, layers=3, vocab=19)


@given(
    hidden=st.integers(1, 3000), layers=st.integers(1, 40), vocab=st.integers(2, 70000),
    instructions=st.integers(1, 20000), stream_bytes=st.integers(0, 1 << 31),
    embedding_bytes=st.integers(0, 1 << 28), results=st.integers(1, 70000),
    lanes=st.integers(1, 16), slots=st.integers(0, 40),
)  # fmt: skip
def test_parts_never_overlap(
    hidden: int, layers: int, vocab: int, instructions: int, stream_bytes: int, embedding_bytes: int,
    results: int, lanes: int, slots: int,
):  # fmt: skip
    geometry = Geometry(hidden=hidden, intermediate=2 * hidden, layers=layers, vocab=vocab)
    found = MemoryMap.of(
        geometry, instructions=instructions, stream_bytes=stream_bytes,
        embedding_bytes=embedding_bytes, results=results, lanes=lanes, slots=slots,
    )  # fmt: skip
    # What is there, as (first block, bytes), in the order of memory; each begins at a block by construction.
    parts = [
        (0, instructions * INSTRUCTION_BYTES),
        (found.stream, stream_bytes),
        (found.embeddings, embedding_bytes),
        *(
            (found.state + k * found.state_stride + state_place(geometry, layer) * STATE_BYTES // BLOCK,
             hidden * STATE_BYTES)
            for k in range(slots) for layer in range(layers)
        ),
        *((found.logits + k * found.logits_stride, results * LOGIT_BYTES) for k in range(lanes)),
        (found.end, 0),
    ]
    for (first, size), (following, _) in pairwise(parts):
        assert 0 <= following * BLOCK - (first * BLOCK + size) < BLOCK  # behind it, less than a block lost
    assert found.size == found.end * BLOCK
    assert found.image_bytes == found.state * BLOCK
    assert bool(slots) == bool(found.state_stride)


@pytest.mark.parametrize("slots", [0, 3])
@pytest.mark.parametrize("bytes_per_beat", [8, 32])
def test_the_program_says_where_parts_lie(slots: int, bytes_per_beat: int):
    image = compile_model(
        fold(random_checkpoint(ODD, 3)), bytes_per_beat=bytes_per_beat, tile_outputs=16,
        streaming=Streaming(lanes=2, slots=slots),
    )  # fmt: skip
    where = image.map
    assert where is not None
    stream, *rest = image.program[: 3 + bool(slots)]
    assert stream == isa.Stream(block=where.stream, beats=len(image.weights))
    assert rest == [
        isa.Base(part=Part.EMBEDDINGS, block=where.embeddings, stride=0),
        isa.Base(part=Part.LOGITS, block=where.logits, stride=where.logits_stride),
        *([isa.Base(part=Part.STATE, block=where.state, stride=where.state_stride)] if slots else []),
    ]
    assert not any(isinstance(i, isa.Stream | isa.Base) for i in image.program[3 + bool(slots) :])
    moves = [i for i in image.program if isinstance(i, isa.Recall | isa.Keep)]
    assert len(moves) == (2 * ODD.layers if slots else 0)
    for i in moves:
        assert i.address * STATE_BYTES % BLOCK == 0
        assert (i.address + i.elements) * STATE_BYTES <= where.state_stride * BLOCK
    assert [i.address for i in moves] == [
        state_place(ODD, layer) for layer in range(ODD.layers if slots else 0) for _ in range(2)
    ]


def written(image: Image) -> np.ndarray:
    """Memory before the first token."""
    assert image.map is not None
    memory = np.full(image.map.image_bytes, 0xEE, dtype=np.uint8)
    for name, address, part in image.map.parts(pack_program(image.program), image.weights, image.embeddings):
        assert address % BLOCK == 0
        assert part.dtype == np.uint8
        assert address + len(part) <= len(memory), name
        memory[address : address + len(part)] = part
    return memory


def test_memory_holds_the_image():
    image = compile_model(
        fold(random_checkpoint(ODD, 3)), bytes_per_beat=16, tile_outputs=16, streaming=Streaming()
    )
    memory, where = written(image), image.map
    assert where is not None
    words = memory[: len(image.program) * INSTRUCTION_BYTES].view("<u8")
    assert tuple(unpack_program(words)) == image.program
    weights = memory[where.stream * BLOCK :][: image.weights.size]
    np.testing.assert_array_equal(weights.reshape(image.weights.shape), image.weights)
    stride = image.embeddings.shape[1]
    assert stride % BLOCK == 0
    rows = memory[where.embeddings * BLOCK :][: ODD.vocab * stride].reshape(-1, stride)
    np.testing.assert_array_equal(rows, image.embeddings)
