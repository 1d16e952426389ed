# SPDX-License-Identifier: Apache-2.0
"""Random checkpoints that are written tensor by tensor."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from nomul.model.checkpoint import read_checkpoint
from nomul.model.fold import fold, fold_parts
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.random_checkpoint import random_checkpoint, write_random_checkpoint
from nomul.model.store import save_parts
from nomul.model.ternary import ternarise

TINY = Geometry(hidden=4, intermediate=6, layers=2, vocab=5)
MANY = Geometry(hidden=128, intermediate=256, layers=40, vocab=64)  # 13 MB in bfloat16


@pytest.mark.parametrize("shards", [None, 1, 2, 3, 20, 35])
def test_the_same_as_in_memory(tmp_path: Path, shards: int | None):
    write_random_checkpoint(tmp_path, TINY, seed=3, shards=shards)
    assert len(list(tmp_path.glob("*.safetensors"))) == (shards or 1)
    loaded, wanted = read_checkpoint(tmp_path), random_checkpoint(TINY, 3)
    assert loaded.geometry == TINY
    for name in wanted.names:
        np.testing.assert_array_equal(loaded.tensor(name), wanted.tensor(name))


def test_shards_are_of_about_equal_size(tmp_path: Path):
    write_random_checkpoint(tmp_path, MANY, seed=1, shards=3)
    sizes = [file.stat().st_size for file in tmp_path.glob("*.safetensors")]
    assert max(sizes) < 1.1 * min(sizes)


@pytest.mark.parametrize("shards", [0, -1, 36])
def test_wrong_number_of_shards(tmp_path: Path, shards: int):
    with pytest.raises(ValueError, match=f"shards are 1 to 35, one tensor each, not {shards}"):
        write_random_checkpoint(tmp_path / "x", TINY, seed=1, shards=shards)
    assert not list(tmp_path.iterdir())


def test_trits_are_as_dense_as_trained_ones(tmp_path: Path):
    write_random_checkpoint(tmp_path, MANY, seed=1)
    found = ternarise(read_checkpoint(tmp_path).tensor("model.layers.3.mlp.gate_proj.weight"))
    assert (found.trits == 0).mean() == pytest.approx(0.31, abs=0.01)
    assert found.scale == pytest.approx(0.04, rel=0.02)


def test_published_parameters():
    assert {name: g.parameters for name, g in PUBLISHED.items()} == {
        "370M": 374_108_160, "1.3B": 1_364_779_008, "2.7B": 2_702_357_504,
    }  # fmt: skip


def test_command_without_a_place(tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "nomul.model.random_checkpoint", "370M", tmp_path / "file/x"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        f"nomul: {tmp_path}/file/x: not a directory; check the path and its permissions\n"
    )


def test_neither_writing_nor_importing_holds_the_checkpoint(tmp_path: Path):
    tracemalloc.start()
    try:
        write_random_checkpoint(tmp_path, MANY, seed=1)
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        source = read_checkpoint(tmp_path)
        save_parts(
            fold_parts(source), tmp_path / "a.nomul",
            geometry=MANY, eps=source.eps, description=dict,
        )  # fmt: skip
        imported = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    whole = 2 * MANY.parameters
    assert written < whole / 2
    assert imported < whole / 2
    assert fold(source).geometry == MANY
