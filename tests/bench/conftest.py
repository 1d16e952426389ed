# SPDX-License-Identifier: Apache-2.0
"""What tests of a bench share: a tiny model, and a bench of this machine's CPU with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bench_cases import cpu_bench, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def document(model: Path) -> dict[str, Any]:
    return cpu_bench(model)
