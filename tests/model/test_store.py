# SPDX-License-Identifier: Apache-2.0
"""A folded model in a model file: the same integers come back, and only a whole model does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomul.model import modelfile, store
from nomul.model.errors import NomulError
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint

ODD = Geometry(hidden=13, intermediate=7, layers=2, vocab=11)


@pytest.fixture(scope="module")
def model() -> Model:
    return fold(random_checkpoint(ODD, 1))


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    file = tmp_path / "odd.nomul"
    store.save(model, file, {"name": "odd", "tokenizer": "bytes"})
    return file


def same(a: Any, b: Any) -> bool:
    if is_dataclass(a):
        return type(a) is type(b) and all(
            same(getattr(a, field.name), getattr(b, field.name)) for field in fields(a)
        )
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def test_saved_is_loaded(model: Model, path: Path):
    loaded, header = store.load(path)
    assert same(loaded, model)
    assert header["name"] == "odd"
    assert header["geometry"] == {"hidden": 13, "intermediate": 7, "layers": 2, "vocab": 11}


def test_same_is_able_to_differ(model: Model):
    assert not same(model, fold(random_checkpoint(ODD, 2)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda h, s: s.pop("head"), "section head is missing"),
        (lambda h, s: s.pop("layers.1.lower_bound"), "section layers.1.lower_bound is missing"),
        (lambda h, s: s.update(head=s["head"][:-1]), "uint8 [10, 3], expected uint8 [11, 3]"),
        (lambda h, s: s.update(head_norm=s["head_norm"].astype(np.int32)), "norm is int32 [13]"),
        (lambda h, s: s.update(head=s["head"] | 0x7F), "no five trits"),
        (lambda h, s: h.update(numbers_version=99), "version 99 of the number contract"),
        (lambda h, s: h.pop("numbers_version"), "version None of the number contract"),
        (lambda h, s: h.pop("geometry"), "lacks geometry, numbers or eps"),
        (lambda h, s: h["geometry"].pop("vocab"), "lacks geometry, numbers or eps"),
        (lambda h, s: h["geometry"].update(vocab=0), "vocab is 0"),
        (lambda h, s: h["geometry"].update(vocab=12), "expected int8 [12, 13]"),
        (lambda h, s: h.update(eps=None), "lacks geometry, numbers or eps"),
        (lambda h, s: h["numbers"].pop("head"), "lacks scale of head"),
        (lambda h, s: h["numbers"]["head"].pop("scale"), "lacks scale of head"),
        (lambda h, s: h["numbers"]["head_norm"].update(exponent="3"), "lacks exponent of"),
    ],
)  # fmt: skip
def test_what_is_no_model(path: Path, change: Callable[[dict, dict], object], reason: str):
    file = modelfile.read(path)
    header, sections = file.header, dict(file.sections)
    change(header, sections)
    modelfile.write(path, header, sections)
    with pytest.raises(NomulError) as caught:
        store.load(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damage_is_found_before_the_model_is_used(path: Path, rng: np.random.Generator):
    raw = bytearray(path.read_bytes())
    ends = [section.offset + section.size for section in modelfile.read(path).table.values()]
    for at in [*rng.integers(0, len(raw), 100).tolist(), *(end - 1 for end in ends)]:
        raw[at] ^= 0x10
        path.write_bytes(raw)
        with pytest.raises(NomulError):
            store.load(path)
        raw[at] ^= 0x10


def test_trit_shares(model: Model):
    shares = store.trit_shares(model)
    assert set(shares) == {"head"} | {
        f"layers.{number}.{name}"
        for number in range(2)
        for name in ("i_proj", "f_proj", "g_proj", "o_proj", "gate_up", "down_proj")
    }
    trits = model.head.trits()
    assert shares["head"] == pytest.approx([(trits == t).mean() for t in (-1, 0, 1)])
