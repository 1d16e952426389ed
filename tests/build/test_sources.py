# SPDX-License-Identifier: Apache-2.0
"""What a design is made of: every module that it imports, and no others."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nomul.hw.build.design import design_hash
from nomul.hw.build.sources import hash_sources, sources
from nomul.model.core_config import CoreConfig
from nomul.model.streamed_config import StreamedConfig


def test_a_core_is_made_of_its_units():
    found = sources("nomul.hw.core")
    assert {"nomul.hw.engine.select", "nomul.hw.vector.unit", "nomul.model.isa", "nomul.hw.engine"} <= found.keys()
    assert not [name for name in found if name.startswith(("nomul.hw.streamed", "nomul.hw.boards", "nomul.hw.build"))]
    assert all(path.is_file() for path in found.values())


@pytest.mark.parametrize("module", ["nomul.hw.core", "nomul.hw.streamed.core", "nomul.hw.boards.memory"])
def test_all_that_python_loads_is_found(module: str):
    """Imports are read from the text; what was loaded for them must be among them."""
    __import__(module)
    found, waiting = sources(module), [module]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith("nomul.hw.build"):
            continue
        seen.add(name)
        for value in vars(sys.modules[name]).values():
            home = getattr(value, "__module__", None)
            if isinstance(home, str) and home.startswith(("nomul.hw.", "nomul.model.")):
                waiting.append(home)
    assert seen <= found.keys()


@pytest.mark.parametrize(
    ("module", "onchip", "streamed"),
    [
        ("nomul.hw.vector.unit", True, True),
        ("nomul.hw.link.link", True, True),
        ("nomul.model.numbers", True, True),
        ("nomul.hw.streamed.reader", False, True),
        ("nomul.hw.dram.native", False, True),
        ("nomul.hw.axi", False, False),
        ("nomul.hw.boards.pll", False, False),
        ("nomul.hw.build.synth", False, False),
    ],
)
def test_a_hash_changes_with_its_own_sources(
    monkeypatch: pytest.MonkeyPatch, module: str, onchip: bool, streamed: bool
):
    configs = CoreConfig(), StreamedConfig()
    before = [design_hash(config) for config in configs]
    __import__(module)
    changed, read = Path(sys.modules[module].__file__), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == changed))
    after = [design_hash(config) for config in configs]
    assert [a != b for a, b in zip(before, after, strict=True)] == [onchip, streamed]


def test_a_salt_counts():
    assert hash_sources("nomul.hw.core") != hash_sources("nomul.hw.core", salt="x")
    assert design_hash(CoreConfig()) != design_hash(CoreConfig(hidden=90))
