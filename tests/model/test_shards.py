# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in several files: an index that disagrees with them, and shards that are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_checkpoint import NAME, TINY, edit_json, fails, join, split, tensors_of

from nomul.model.checkpoint import write_checkpoint
from nomul.model.random_checkpoint import random_checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    source = random_checkpoint(TINY, 1)
    write_checkpoint(tmp_path, source.config, tensors_of(source), shard_bytes=400)
    assert len(list(tmp_path.glob("model-*"))) > 2
    return tmp_path


def places_of(folder: Path) -> dict[str, str]:
    return json.loads((folder / INDEX).read_text())["weight_map"]


def test_shard_that_does_not_exist(sharded: Path):
    shard = sharded / places_of(sharded)[NAME]
    shard.unlink()
    fails(sharded, str(shard), "no such file")


def test_truncated_shard(sharded: Path):
    shard = sharded / places_of(sharded)[NAME]
    shard.write_bytes(shard.read_bytes()[:-1])
    fails(sharded, str(shard), "truncated")


def test_tensor_in_two_shards(sharded: Path):
    shards = sorted(set(places_of(sharded).values()))
    first, second = (sharded / name for name in shards[:2])
    tensor = next(name for name, shard in places_of(sharded).items() if shard == first.name)
    header, data = split(second)
    size = len(split(first)[1])
    entry = split(first)[0][tensor]
    width = entry["data_offsets"][1] - entry["data_offsets"][0]
    assert width <= size
    header[tensor] = entry | {"data_offsets": [len(data), len(data) + width]}
    join(second, header, data + bytes(width))
    fails(sharded, str(second), f"tensor {tensor} is also in {first.name}")


def test_index_names_another_shard(sharded: Path):
    places = places_of(sharded)
    other = next(shard for shard in places.values() if shard != places[NAME])
    edit_json(sharded / INDEX, weight_map=places | {NAME: other})
    fails(sharded, INDEX, NAME, f"in {other}, but {places[NAME]} has it")


def test_index_without_a_tensor_of_a_shard(sharded: Path):
    places = places_of(sharded)
    mates = [name for name, shard in places.items() if shard == places["lm_head.weight"]]
    assert len(mates) > 1
    del places[mates[0]]
    edit_json(sharded / INDEX, weight_map=places)
    fails(sharded, INDEX, mates[0], "in no shard")


def test_index_with_a_tensor_of_no_shard(sharded: Path):
    places = places_of(sharded)
    edit_json(sharded / INDEX, weight_map=places | {"more": places[NAME]})
    fails(sharded, INDEX, "tensor more", "but no shard has it")


@pytest.mark.parametrize(
    "shard", ["../x.safetensors", "/x.safetensors", "", "..", 3, None, "\0.safetensors"]
)
def test_index_with_a_path_for_a_file(sharded: Path, shard: Any):
    edit_json(sharded / INDEX, weight_map=places_of(sharded) | {NAME: shard})
    fails(sharded, INDEX, NAME, "no name of a safetensors file")


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_wrong_index(sharded: Path, text: str):
    (sharded / INDEX).write_text(text)
    fails(sharded, INDEX)


def test_weights_and_index(sharded: Path):
    (sharded / "model.safetensors").write_bytes(b"")
    fails(sharded, str(sharded), "both", "remove one")


def test_shard_that_is_too_long(sharded: Path):
    shard = sharded / places_of(sharded)[NAME]
    shard.write_bytes(shard.read_bytes() + b"more")
    fails(sharded, str(shard), "4 bytes too many")


def test_one_shard_under_two_names(sharded: Path):
    first, second = sorted(set(places_of(sharded).values()))[:2]
    shutil.copy(sharded / first, sharded / second)
    fails(sharded, str(sharded / second), f"is also in {first}")


def test_index_that_places_a_tensor_twice(sharded: Path):
    text = (sharded / INDEX).read_text()
    again = f'"weight_map":{{"{NAME}":"model-00001-of-00009.safetensors",'
    (sharded / INDEX).write_text(text.replace('"weight_map":{', again))
    fails(sharded, INDEX, NAME, "occurs twice")
