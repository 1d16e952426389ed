# SPDX-License-Identifier: Apache-2.0
"""What several boards would reach: bytes are those of compiled sections, and the slowest part sets the pace."""

from __future__ import annotations

import pytest

from nomul.host.bench.several import Link, model_boards, stream_bytes
from nomul.host.bench.traffic import step_traffic
from nomul.host.cli.bench_boards import main
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


def test_what_the_driver_can_fill():
    """It has 128 lanes under way: with eight a board 16 groups, which 32 boards wait for."""
    shape = Geometry(hidden=64, intermediate=176, layers=64, vocab=8)
    rack = {n: model_boards(shape, n, lanes=8, link=FAST, **MEMORY) for n in (1, 4, 8, 16, 32)}
    assert {n: found.groups for n, found in rack.items()} == {1: 2, 4: 8, 8: 16, 16: 16, 32: 16}
    for n in (1, 4, 8):
        assert rack[n].driver_tokens_per_second == rack[n].tokens_per_second
    wide = rack[32]
    assert wide.driver_tokens_per_second == pytest.approx(128 * wide.single_tokens_per_second)
    assert wide.driver_tokens_per_second < 0.6 * wide.tokens_per_second


@pytest.mark.parametrize(("arguments", "line"), [
    (["--lanes", "0"], "bench_boards: --lanes 0; it must be 1 to 32"),
    (["--boards", "1", "0"], "bench_boards: --boards 0; it must be 1 to 256"),
    (["--boards", "2", "33", "--sizes", "2.7B"], "boards: 33 for 32 layers; each holds at least one: take 1 to 32"),
    (["--layers", "0"], "bench_boards: --layers 0; it must be 1 to 1024"),
])  # fmt: skip
def test_bad_counts_end_in_one_line(monkeypatch: pytest.MonkeyPatch, arguments: list[str], line: str):
    monkeypatch.setattr("sys.argv", ["bench_boards", "model", *arguments])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == line
