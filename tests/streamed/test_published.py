# SPDX-License-Identifier: Apache-2.0
"""Every published shape behind every port can be generated, or is refused in one line."""

from __future__ import annotations

import gc

import pytest

from nomul.host.cli.common import streamed_config
from nomul.hw.streamed import StreamedCore
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig


@pytest.mark.parametrize("size", list(PUBLISHED))
@pytest.mark.parametrize(("port", "beats"), [("native", (8, 16)), ("axi", (8, 32, 64))])
def test_can_be_generated(size: str, port: str, beats: tuple[int, ...]):
    for beat in beats:
        for lanes in (1, 2, 8, 16):
            config = streamed_config(PUBLISHED[size], port=port, bytes_per_beat=beat, lanes=lanes)
            assert StreamedCore(config=config).units
    gc.collect()  # what was made is not used further


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 64, "lanes": 2}, "core: 64 slots of 24576 elements of state; the chip holds at most 1048576"),
        ({"tile_outputs": 14}, "core: tile_outputs is 14; it must be even, from 16 to 131070"),
        ({"intermediate": 16383}, "core: a row of 16383 inputs; 8 bytes a beat take rows of up to 10200"),
    ],
)
def test_refuses_in_one_line(options: dict[str, int], message: str):
    with pytest.raises(NomulError) as caught:
        StreamedConfig(**options)
    assert str(caught.value).startswith(message)


def test_an_image_for_another_core():
    geometry = Geometry(hidden=20, intermediate=28, layers=1, vocab=9)
    model = fold(random_checkpoint(geometry, 1))
    small = {"memory_bytes": 1 << 20, "tile_outputs": 16}
    core = StreamedConfig.for_geometry(geometry, lanes=2, state="memory", **small)
    core.check(core.compile(model))
    for other in ({"lanes": 1}, {"lanes": 2}, {"lanes": 2, "state": "memory", "tile_outputs": 32}):
        image = StreamedConfig.for_geometry(geometry, **{**small, **other}).compile(model)
        with pytest.raises(NomulError, match=r"^image: compiled for tiles of .*: compile it again"):
            core.check(image)
