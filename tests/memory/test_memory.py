# SPDX-License-Identifier: Apache-2.0
"""pytest side of the memories: validation, simulation, block RAM."""

from __future__ import annotations

import re

import pytest

from nomul.hw import memory
from nomul.hw.build.synth import synthesise
from nomul.hw.embedding import EmbeddingMemory
from nomul.model.protocol import Region
from nomul.sim.harness import run

REGIONS = [region.name for region in Region if region is not Region.STATE]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: memory.WeightMemory(bytes_per_beat=0, depth=8),
            "bytes_per_beat is 0; it must be at least 1",
        ),
        (
            lambda: memory.WeightMemory(bytes_per_beat=4, depth=1 << 23),
            "4 planes of 2^23 bytes; a region holds 2^24",
        ),
        (lambda: memory.NormMemory(words=0), "words is 0; it must be at least 1"),
        (lambda: memory.LogitsMemory(vocab=5, bits=33), "bits is 33; it must be at most 32"),
        (lambda: EmbeddingMemory(size=1 << 25), "size is 33554432; a region holds 2^24"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("kind", "make", "options"),
    [
        ("weights", memory.WeightMemory, {"bytes_per_beat": 4, "depth": 37}),
        ("norms", memory.NormMemory, {"words": 24}),
        ("program", memory.ProgramMemory, {"words": 32}),
        ("logits", memory.LogitsMemory, {"vocab": 30, "bits": 18, "lanes": 1}),
        ("logits", memory.LogitsMemory, {"vocab": 9, "bits": 20, "lanes": 3}),
        ("counters", memory.CounterMemory, {"words": 11}),
        ("embeddings", EmbeddingMemory, {"size": 5000, "lanes": 1}),
        ("embeddings", EmbeddingMemory, {"size": 5000, "lanes": 3}),
    ],
)
def test_memory(kind, make, options):
    run(make(**options), "memory_tb", parameters={"kind": kind, "options": options})


def test_decoder():
    decoder = memory.BusDecoder(regions=[Region[name] for name in REGIONS])
    run(decoder, "memory_tb", parameters={"kind": "decoder", "options": {"regions": REGIONS}})


@pytest.mark.parametrize(
    ("make", "options", "blocks"),
    [
        (memory.WeightMemory, {"bytes_per_beat": 4, "depth": 8192}, 4 * 4),
        (memory.NormMemory, {"words": 2048}, 8),
        (memory.ProgramMemory, {"words": 512}, 2),
        (memory.LogitsMemory, {"vocab": 256, "bits": 18}, 1),
        (EmbeddingMemory, {"size": 3 * 2048}, 3),
    ],
)
def test_takes_no_more_block_ram_than_it_must(make, options, blocks):
    assert synthesise(make(**options), name=make.__name__.lower(), seeds=()).bram == blocks
