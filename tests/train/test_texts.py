# SPDX-License-Identifier: Apache-2.0
"""Corpora of packages, tokens of texts, windows of them, and how they are judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.file_tokenizer import FileTokenizer  # noqa: E402
from nomul.model.geometry import Geometry  # noqa: E402
from nomul.model.tokenizer import ByteTokenizer  # noqa: E402
from nomul.sim.evaluate import SEGMENT, text_pieces, text_segments  # noqa: E402
from nomul.train.data import Corpus  # noqa: E402
from nomul.train.model import MatMulFreeLM  # noqa: E402
from nomul.train.packages import (  # noqa: E402
    LIMIT,
    SHARED,
    Resemblance,
    export_packages,
    load_parts,
    read_packages,
)
from nomul.train.recipe import bits_per_byte  # noqa: E402
from nomul.train.tokens import Windows, encode_text, judged_bits, train_tokenizer  # noqa: E402

CPU = torch.device("cpu")
CODE = ["def f(x):\n    return x + 10\n", "class A:\n    def g(self):\n        return self.é\n"] * 9


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> FileTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CODE, 300, folder / "tokenizer.json")
    return FileTokenizer(folder, vocab=300)


def _held(number: int) -> bytes:
    return b"".join(b"held_out_line_%d_%d = %d\n" % (number, k, k * k) for k in range(120))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Two packages as pip leaves them."""
    files = {
        "one": {"one/a.py": b"alpha = 1\n", "one/copy.py": b"beta = 2\n", "one/nul.py": b"a\0b", "one/empty.py": b"",
                "one/latin.py": b"# caf\xe9\n", "one/large.py": b"x = 1\n" * (LIMIT // 6 + 1),
                "one/marker.py": b"t = '</s>'\n", "one/note.txt": b"no\n"},
        "two": {"two/copy.py": b"beta = 2\n", "two/vendored.py": b"# changed\n" + _held(0),
                "two/own.py": b"gamma_is_a_longer_name = 3\n" * 30},
    }  # fmt: skip
    root = tmp_path / "site"
    for name, sources in files.items():
        info = root / f"{name}-1.5.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\nLicense: MIT\n")
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in sources))
        for path, source in sources.items():
            (root / path).parent.mkdir(exist_ok=True)
            (root / path).write_bytes(source)
    (tmp_path / "list.txt").write_text("# a comment\none==1.5\ntwo==1.5\n")
    return root


def test_packages_without_copies_and_held_out_text(installed: Path, tmp_path: Path):
    packages, left_out, _ = read_packages(tmp_path / "list.txt", [installed], [_held(0), _held(1)])
    assert [(p.name, p.version, p.licence, p.sources) for p in packages] == [
        ("one", "1.5", "MIT", (b"alpha = 1\n", b"beta = 2\n")),
        ("two", "1.5", "MIT", (b"gamma_is_a_longer_name = 3\n" * 30,))]
    assert left_out == {"copies": 1, "like held-out": 1}


def test_what_is_like_a_held_out_document():
    lines = _held(3).splitlines(keepends=True)
    alike = Resemblance([_held(3), _held(4)], {lines[0].strip()})
    own = [b"quite_another_line_%d = 0\n" % k for k in range(400)]
    assert alike(b"".join(lines))
    assert alike(b"".join(b"\t" + line.strip() + b"  \n" for line in lines))  # blanks do not matter
    assert alike(b"".join(own + lines[1 : 1 + SHARED]))
    assert not alike(b"".join(own + lines[1:SHARED]))  # fewer, in a long file and a long document
    assert not alike(b"".join(own[:20] + lines[:3]))  # one of the three is common
    assert alike(b"".join(own[:4] + lines[1:10]))  # most of a short file


def test_a_corpus_of_packages_is_as_its_manifest_says(installed: Path, tmp_path: Path):
    def part(*documents: bytes) -> np.ndarray:
        return np.frombuffer(b"".join(b"\0" + d for d in documents), np.uint8)

    corpus = Corpus(library=part(b"import os\n", _held(1)), tests=part(b"assert True\n"),
                    held_out=part(_held(0), _held(1)), python="3.11.0")  # fmt: skip
    manifest = export_packages(corpus, tmp_path / "list.txt", [installed], tmp_path / "out")
    texts, read = load_parts(tmp_path / "out")
    assert read == json.loads(json.dumps(manifest))
    assert texts["library"] == b"\0import os\n"  # the other is held out
    assert texts["held_out"] == corpus.held_out.tobytes()
    assert texts["packages"].count(b"\0") == manifest["parts"]["packages"]["documents"] == 3
    assert manifest["files_left_out"]["like held-out, standard library"] == 1
    assert [p["files"] for p in manifest["packages"]] == [2, 1]
    (tmp_path / "out" / "tests-00.bin.xz").write_bytes((tmp_path / "out" / "library-00.bin.xz").read_bytes())
    with pytest.raises(NomulError, match=r"part 'tests' does not match manifest\.json; make the corpus again"):
        load_parts(tmp_path / "out")


@pytest.mark.parametrize(("text", "message"), [
    ("three==1", r"three==1 is not installed \(nothing is\); pip install --no-deps"), ("", "names no package"),
    ("one==2", r"one==2 is not installed \(1\.5 is\)"), ("one", "'one' must be name==version"),
])  # fmt: skip
def test_lists_that_do_not_do(installed: Path, tmp_path: Path, text: str, message: str):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(NomulError, match=message):
        read_packages(tmp_path / "list.txt", [installed], [])
    with pytest.raises(NomulError, match="No such file"):
        read_packages(tmp_path / "no.txt", [installed], [])
    (tmp_path / "list.txt").write_bytes(b"one\xff==1.5\n")
    with pytest.raises(NomulError, match=r"list\.txt: is no text"):
        read_packages(tmp_path / "list.txt", [installed], [])


@given(documents=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_tokens_are_the_text(pairs: FileTokenizer, documents: list[str]):
    text = "\0".join(documents)
    tokens = encode_text(text.encode(), pairs).astype(np.int64)
    shown = [pairs.decode(part) for part in _documents(tokens, pairs)]
    assert shown == documents
    assert list(encode_text(text.encode(), ByteTokenizer())) == list(text.encode())


def _documents(tokens: np.ndarray, coder: FileTokenizer) -> list[np.ndarray]:
    """The tokens between an end and a begin."""
    ends = np.flatnonzero(tokens == coder.end)
    assert (tokens[ends + 1] == coder.begin).all()
    return [part[part != coder.begin] for part in np.split(tokens[tokens != coder.end], ends - np.arange(len(ends)))]


def test_indentation_is_one_token(pairs: FileTokenizer):
    ids = pairs.encode("):\n        x")
    assert len(ids) < len("):\n        x") - 6


def test_segments_end_at_whole_characters(pairs: FileTokenizer):
    text = ("a" + "é" * SEGMENT).encode() + b"\0b"
    pieces = text_pieces(text, pairs)
    assert b"".join(pieces) == text
    assert [len(piece) for piece in pieces] == [SEGMENT - 1, SEGMENT, 4]
    assert [len(piece) for piece in text_pieces(text, ByteTokenizer())] == [SEGMENT, SEGMENT, 3]
    assert text_segments(text, pairs)[-1].tolist()[-3:-1] == [pairs.end, pairs.begin]
    with pytest.raises(NomulError, match="no UTF-8 at byte 1"):
        text_segments(b"a\xff", pairs)


def test_too_small_a_vocabulary(tmp_path: Path):
    with pytest.raises(NomulError, match="vocab is 257; it must be at least 258"):
        train_tokenizer(CODE, 257, tmp_path / "tokenizer.json")


def test_windows_come_once_an_epoch_whatever_the_process():
    parts = {"a": np.arange(1, 401, dtype=np.uint16), "b": np.arange(1000, 1200, dtype=np.uint16)}
    shares = {"a": 0.75, "b": 0.25}

    def rows(windows: Windows, step: int, mine: slice = slice(None)) -> torch.Tensor:
        inputs, targets = windows.draw(step, 8, shares, mine)
        assert (inputs[:, 0] == 7).all()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert torch.equal(targets[:, 1:], targets[:, :-1] + 1)  # as the tokens lie
        return targets

    one, left, right = (Windows(parts, 10, 7, 3, CPU) for _ in range(3))
    for step in range(12):
        whole = rows(one, step)
        halves = rows(left, step, slice(0, 4)), rows(right, step, slice(4, 8))
        assert torch.equal(whole, torch.cat(halves))
    assert one.drawn["a"] + one.drawn["b"] == 12 * 8
    assert one.drawn["a"] > one.drawn["b"]
    later = Windows(parts, 10, 7, 3, CPU)
    later.drawn = dict(one.drawn)
    assert torch.equal(rows(later, 12), rows(one, 12))
    other = Windows(parts, 10, 7, 3, CPU)
    starts = [int(w) for step in range(4) for w in other.draw(step, 9, {"a": 1, "b": 0}, slice(None))[1][:, 0]]
    assert len(set(starts)) == 36  # of 39 in an epoch


def test_bytes_are_judged_as_the_recipe_judges_them(pairs: FileTokenizer):
    torch.manual_seed(int(np.random.default_rng(1).integers(99)))
    model = MatMulFreeLM(Geometry(hidden=12, intermediate=20, layers=2, vocab=256)).eval()
    text = np.frombuffer("".join(CODE).encode() * 12, np.uint8)
    assert len(text) > SEGMENT
    bits = judged_bits(model, text_segments(text.tobytes(), ByteTokenizer()), 0, rows=1, window=100)
    assert bits / len(text) == pytest.approx(bits_per_byte(model, text), rel=1e-6)


def test_segments_of_any_length_are_judged_token_by_token():
    model = MatMulFreeLM(Geometry(hidden=12, intermediate=20, layers=2, vocab=23)).eval()
    segments = [np.array([1, 2, 3, 4, 5]), np.array([6]), np.arange(11)]
    expected = 0.0
    for segment in segments:
        with torch.no_grad():
            logits, _ = model(torch.tensor([[9, *segment[:-1]]]))
        picked = logits[0].log_softmax(-1)[torch.arange(len(segment)), torch.from_numpy(segment)]
        expected -= float(picked.sum()) / math.log(2)
    assert judged_bits(model, segments, 9, rows=2, window=3) == pytest.approx(expected, rel=1e-5)
