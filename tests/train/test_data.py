# SPDX-License-Identifier: Apache-2.0
"""The corpus: a split that depends on nothing but path and size."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from nomul.model.errors import NomulError
from nomul.train.data import (
    BEGIN,
    HELD_OUT,
    HELD_OUT_LIMIT,
    export_corpus,
    load_corpus,
    part_of,
    standard_library,
)


def _path(fraction_below: bool) -> str:
    """A path outside tests whose hash falls below the held-out share, or not."""
    for k in range(10_000):
        path = f"package/module{k}.py"
        digest = hashlib.sha256(path.encode()).digest()
        if (int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64) == fraction_below:
            return path
    raise AssertionError("unreachable")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    root = tmp_path / "lib"
    files = {_path(True): b"held = 1\n", _path(False): b"kept = 2\n", "test/test_x.py": b"t\n",
             "pkg/idle_test/a.py": b"u\n", "pkg/tests/b.py": b"v\n", "empty.py": b"",
             "nul.py": b"a\0b", "site-packages/other.py": b"no\n", "note.txt": b"no\n"}
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(source)
    return root


def test_split_follows_path_and_size():
    held = _path(True)
    assert part_of(held, 100) == "held_out"
    assert part_of(held, HELD_OUT_LIMIT) == "held_out"
    assert part_of(held, HELD_OUT_LIMIT + 1) == "library"
    assert part_of(_path(False), 100) == "library"
    assert part_of(f"test/{held}", 100) == "tests"
    assert part_of("latest.py", 100) != "tests"
    assert part_of("sched.py", 100) == "held_out"  # pins the hash: found by an earlier run


def test_reads_documents_behind_begin_markers(library: Path):
    corpus = standard_library(library)
    assert corpus.held_out.tobytes() == b"\0held = 1\n"
    assert corpus.library.tobytes() == b"\0kept = 2\n"
    assert [d.tobytes() for d in corpus.documents("tests")] == [b"\0u\n", b"\0v\n", b"\0t\n"]
    assert corpus.train.tobytes() == corpus.library.tobytes() + corpus.tests.tobytes()
    assert all(d[0] == BEGIN for d in corpus.documents("tests"))


def test_export_and_load_round_trip(library: Path, tmp_path: Path):
    corpus = standard_library(library)
    export_corpus(corpus, tmp_path / "out")
    loaded = load_corpus(tmp_path / "out")
    assert loaded.manifest() == corpus.manifest()
    np.testing.assert_array_equal(loaded.tests, corpus.tests)


def test_refuses_what_is_not_the_exported_corpus(library: Path, tmp_path: Path):
    with pytest.raises(NomulError, match="not an exported corpus"):
        load_corpus(tmp_path / "nowhere")
    export_corpus(standard_library(library), tmp_path / "out")
    for name in ("tests", "held_out"):
        other = (tmp_path / "out" / f"{name}.bin.xz")
        other.write_bytes((tmp_path / "out" / "library.bin.xz").read_bytes())
        with pytest.raises(NomulError, match="do not match manifest"):
            load_corpus(tmp_path / "out")


def test_a_library_without_tests_is_refused(library: Path):
    for path in ("test/test_x.py", "pkg/idle_test/a.py", "pkg/tests/b.py"):
        (library / path).unlink()
    with pytest.raises(NomulError, match=r"no \*\.py files for the part 'tests'"):
        standard_library(library)
