# SPDX-License-Identifier: Apache-2.0
"""Sizes of a streamed core: refusals name the value and the mend; what fits is accepted."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from nomul.model.errors import NomulError
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.placement import streamed_norm_words
from nomul.model.program import compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig

SMALL = Geometry(hidden=37, intermediate=50, layers=2, vocab=19)


@pytest.fixture(scope="module")
def model() -> Model:
    return fold(random_checkpoint(SMALL, 3))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"lanes": 0}, "core: lanes is 0; it must be a positive integer"),
        ({"hidden": 1.5}, "core: hidden is 1.5; it must be a positive integer"),
        ({"slots": True}, "core: slots is True; it must be a positive integer"),
        ({"bytes_per_beat": 4}, "core: bytes_per_beat is 4; it must be a power of two from 8 to 128"),
        ({"bytes_per_beat": 24}, "core: bytes_per_beat is 24; it must be a power of two from 8 to 128"),
        ({"bytes_per_beat": 256}, "core: bytes_per_beat is 256; it must be a power of two from 8 to 128"),
        ({"word_bytes": 2}, "core: word_bytes is 2; it must be a power of two from 4 to 64"),
        ({"word_bytes": 128}, "core: word_bytes is 128; it must be a power of two from 4 to 64"),
        ({"tile_outputs": 255}, "core: tile_outputs is 255; it must be even"),
        ({"lanes": 4, "slots": 3}, "core: slots is 3; from the number of lanes, 4, to 256"),
        ({"slots": 257}, "core: slots is 257; from the number of lanes, 1, to 256"),
        ({"lanes": 17, "slots": 17}, "core: lanes is 17; at most 16"),
        ({"hidden": 1 << 14}, "core: hidden is 16384; it must be below 16384"),
        ({"intermediate": 1 << 14}, "core: intermediate is 16384; it must be below 16384"),
        ({"vocab": 1 << 16}, "core: vocab is 65536; it must be below 65536"),
        ({"memory_bytes": (1 << 31) + 1}, "core: memory_bytes is 2,147,483,649; at most 2,147,483,648"),
        ({"state": "disk"}, "core: state is 'disk'; one of chip, memory"),
        ({"logits": "nowhere"}, "core: logits is 'nowhere'; one of chip, memory"),
        ({"word_bytes": 64}, "logits go to memories of at most 32 bytes a word, not 64; keep them on the chip"),
    ],
)
def test_refuses(parameters: dict[str, object], message: str):
    with pytest.raises(NomulError, match=re.escape(message)):
        StreamedConfig(**parameters)


def test_accepts_the_limits():
    StreamedConfig(lanes=16, slots=256, bytes_per_beat=128, word_bytes=32, hidden=(1 << 14) - 1,
                   vocab=(1 << 16) - 1, memory_bytes=1 << 31, state="memory")  # fmt: skip
    StreamedConfig(word_bytes=64, logits="chip", state="memory", bytes_per_beat=8, tile_outputs=16)


@pytest.mark.parametrize("options", [{}, {"lanes": 3, "bytes_per_beat": 32}, {"state": "memory", "slots": 5}])
def test_a_core_for_a_geometry_runs_its_models(model: Model, options: dict[str, object]):
    config = StreamedConfig.for_geometry(SMALL, **options)
    assert config.longest_row == 50
    assert config.trits_per_cycle == 5 * config.bytes_per_beat
    assert config.norm_words == streamed_norm_words(SMALL, config.bytes_per_beat)
    image = config.compile(model)
    assert image.map is not None
    assert image.map.size <= config.memory_bytes
    assert bool(image.map.state_stride) == (config.state == "memory")
    assert StreamedConfig(**json.loads(config.to_json())) == config


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("hidden", "elements"),
        ("intermediate", "elements"),
        ("vocab", "tokens"),
        ("norm_words", "words of 8 bytes"),
        ("state_elements", "elements of recurrent state"),
    ],
)
def test_says_what_is_too_large_and_by_how_much(model: Model, name: str, unit: str):
    fits = StreamedConfig.for_geometry(SMALL)
    needed = getattr(fits, name)
    fits.compile(model)
    with pytest.raises(NomulError) as caught:
        replace(fits, **{name: needed - 3}).compile(model)
    message = str(caught.value)
    assert f"needs {needed} {unit} ({name}), the core has {needed - 3}: 3 too many" in message
    assert f"generate a core with {name} of at least {needed}" in message


def test_recurrent_state_in_memory_needs_none_on_the_chip(model: Model):
    StreamedConfig.for_geometry(SMALL, state="memory", state_elements=1).compile(model)


def test_says_by_how_much_memory_is_too_small(model: Model):
    size = StreamedConfig.for_geometry(SMALL).compile(model).map.size
    StreamedConfig.for_geometry(SMALL, memory_bytes=size).compile(model)
    with pytest.raises(NomulError) as caught:
        StreamedConfig.for_geometry(SMALL, memory_bytes=size - 1000).compile(model)
    message = str(caught.value)
    assert f"needs {size:,} bytes of memory, the board has {size - 1000:,}: 1,000 too many" in message
    assert re.search(r"a model of about [\d,]+ ternary weights would fit", message)


def test_more_slots_need_more_memory(model: Model):
    size = StreamedConfig.for_geometry(SMALL, state="memory").compile(model).map.size
    with pytest.raises(NomulError, match="too many"):
        StreamedConfig.for_geometry(SMALL, state="memory", slots=9, memory_bytes=size).compile(model)


def test_images_for_other_cores_are_refused(model: Model):
    config = StreamedConfig.for_geometry(SMALL)
    on_chip = compile_model(model, bytes_per_beat=8, tile_outputs=config.tile_outputs)
    with pytest.raises(NomulError, match="compiled for 8 bytes a beat, on the chip; the core streams 8"):
        config.check(on_chip)
    other = StreamedConfig.for_geometry(SMALL, bytes_per_beat=16).compile(model)
    with pytest.raises(NomulError, match="compiled for 16 bytes a beat; the core streams 8: compile it again"):
        config.check(other)
