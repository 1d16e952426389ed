# SPDX-License-Identifier: Apache-2.0
"""What several boards would reach: bytes are those of compiled sections, and the slowest part sets the pace."""

from __future__ import annotations

import pytest

from nomul.host.bench.several import Link, model_boards, stream_bytes
from nomul.host.bench.traffic import step_traffic
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.memory_map import BLOCK
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.sections import compile_sections
from nomul.model.streamed_config import StreamedConfig

GEOMETRY = Geometry(hidden=64, intermediate=176, layers=5, vocab=300)
LANES = 4
FAST, SLOW = Link(name="fast", bytes_per_second=1e12), Link(name="slow", bytes_per_second=1e3)
MEMORY = {"clock_hz": 75e6, "bytes_per_cycle": 8.0, "share_of_peak": 0.9}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_bytes_are_those_of_the_sections(count: int):
    config = StreamedConfig.for_geometry(
        GEOMETRY, lanes=LANES, slots=LANES * (2 * count if count > 1 else 1), state="memory", memory_bytes=1 << 22
    )
    images = compile_sections(fold(random_checkpoint(GEOMETRY, 1)), config, count)
    found = model_boards(GEOMETRY, count, lanes=LANES, link=FAST, **MEMORY)
    for number, (image, section) in enumerate(zip(images, found.sections, strict=True)):
        assert section.layers == image.geometry.layers
        assert image.weights.size == stream_bytes(GEOMETRY, section.layers, head=number == count - 1, beat=8)
        assert image.map is not None
        program = image.map.stream * BLOCK  # left out, as are ends of blocks
        assert 0 <= image.map.size - program - section.memory_bytes < 64 * 8 * LANES
        read = step_traffic(image, config, texts=LANES, logits=0).read
        assert 0 <= read - section.step_bytes <= program + 16 * 8 * LANES


def test_the_slowest_part_sets_the_pace():
    one = model_boards(GEOMETRY, 1, lanes=LANES, link=FAST, **MEMORY)
    four = model_boards(GEOMETRY, 4, lanes=LANES, link=FAST, **MEMORY)
    assert 2 < four.tokens_per_second / one.tokens_per_second < 4
    assert four.single_tokens_per_second < four.tokens_per_second
    slow = model_boards(GEOMETRY, 4, lanes=LANES, link=SLOW, **MEMORY)
    busiest = max(slow.sections, key=lambda s: s.link_s)
    assert busiest in slow.sections[1:-1]  # takes and gives
    assert slow.tokens_per_second == pytest.approx(LANES / busiest.link_s)
    width = 4 * GEOMETRY.hidden * LANES
    frames = 2 * 2 * (2 * (2 + 5 + 4) + 4 + 1) + 2 * 2  # a lane's stream is half a frame: two frames each way
    assert SLOW.read_s(width) + SLOW.write_s(width) == pytest.approx((2 * width + frames) / 1e3)
    given = model_boards(GEOMETRY, 2, lanes=LANES, link=FAST, steps_s=[3.0, 1.0], **MEMORY)
    assert given.tokens_per_second == pytest.approx(LANES / 3.0)
    with pytest.raises(NomulError, match=r"^boards: 33 for 32 layers"):
        model_boards(PUBLISHED["2.7B"], 33, lanes=1, link=FAST, **MEMORY)
