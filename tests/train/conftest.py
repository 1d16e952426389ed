# SPDX-License-Identifier: Apache-2.0
"""A small corpus. One thread: the tensors are tiny, and idle threads that spin slow the other test processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from nomul.train.data import Corpus, export_corpus

os.environ["OMP_NUM_THREADS"] = "1"  # for child processes

try:
    import torch
except ImportError:  # the tests that need it are skipped
    pass
else:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of arithmetic, with an é here and there."""
    rng = np.random.default_rng(5)

    def part(documents: int) -> np.ndarray:
        text = "".join("\0" + "".join(f"x{rng.integers(9)} = {rng.integers(99)}  # é\n" for _ in range(30))
                       for _ in range(documents))
        return np.frombuffer(text.encode(), dtype=np.uint8)

    folder = tmp_path_factory.mktemp("corpus")
    export_corpus(Corpus(library=part(40), tests=part(12), held_out=part(20), python="3.11.0"), folder)
    return folder
