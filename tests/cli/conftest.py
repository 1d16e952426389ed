# SPDX-License-Identifier: Apache-2.0
"""What the command line's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomul.model.checkpoint import write_checkpoint
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint


def _checkpoint(folder: Path, layers: int) -> Path:
    source = random_checkpoint(Geometry(hidden=24, intermediate=20, layers=layers, vocab=256), 9)
    write_checkpoint(folder, source.config, source._tensors)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a random byte model that fits the released core."""
    return _checkpoint(tmp_path_factory.mktemp("tiny"), 1)


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a layer for each of two boards."""
    return _checkpoint(tmp_path_factory.mktemp("two-layers"), 2)
