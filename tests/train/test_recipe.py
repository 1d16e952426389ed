# SPDX-License-Identifier: Apache-2.0
"""The recipe on a toy corpus: it learns, judges as defined, and writes what it says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nomul.model.errors import NomulError
from nomul.train.command import main_train
from nomul.train.data import Corpus, export_corpus, load_corpus

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from nomul.train.card import PROMPTS, trit_statistics, write_card  # noqa: E402
from nomul.train.model import import_checkpoint  # noqa: E402
from nomul.train.recipe import Recipe, bits_per_byte, generate, train  # noqa: E402
from nomul.train.recipe import _Windows as Windows  # noqa: E402

TINY = ["hidden=16", "intermediate=24", "layers=2", "batch=8", "window=32", "evaluations=2",
        "ema=0", "lr=0.02", "steps=40"]


def _documents(count: int, first: int) -> np.ndarray:
    text = "".join(f"\0def f{k}(a, b):\n    return a + b * {k}\n"
                   for k in range(first, first + count))
    return np.frombuffer(text.encode(), dtype=np.uint8)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus(library=_documents(60, 100), tests=_documents(40, 200),
                  held_out=_documents(20, 300), python="0.0.0")


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and a finished tiny run."""
    root = tmp_path_factory.mktemp("train")
    export_corpus(corpus, root / "corpus")
    main_train(root / "run", settings=TINY, device="cpu", corpus=root / "corpus", card="A toy",
               say=lambda line: None)
    return root


def test_training_reduces_the_loss(run: Path):
    record = json.loads((run / "run" / "run.json").read_text())
    first, *_, last = record["history"]
    assert last["held_out_bpb"] < 0.6 * first["held_out_bpb"]
    assert last["train_bpb"] < first["train_bpb"]
    assert record["steps"] == 40
    assert record["bytes"] == 40 * 8 * 32


def test_the_figure_is_the_written_checkpoint_s(run: Path):
    record = json.loads((run / "run" / "run.json").read_text())
    model = import_checkpoint(run / "run")
    assert bits_per_byte(model, load_corpus(run / "corpus").held_out) == record["held_out_bpb"]
    assert record["held_out_bpb"] == min(e["held_out_bpb"] for e in record["history"])


def test_the_same_steps_give_the_same_model(run: Path, corpus: Corpus, tmp_path: Path):
    train(Recipe().with_settings(TINY), corpus, tmp_path, device="cpu", say=lambda line: None)
    again, first = import_checkpoint(tmp_path), import_checkpoint(run / "run")
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_regularisers_run_and_a_clock_ends_the_run(corpus: Corpus, tmp_path: Path):
    recipe = Recipe().with_settings([*TINY, "steps=0", "seconds=0.5", "dropout=0.1", "noise=0.05",
                                     "smoothing=0.1", "tests=0.5", "ema=0.9", "regular_until=0.5"])
    record = train(recipe, corpus, tmp_path, device="cpu", say=lambda line: None)
    assert record["history"][-1]["progress"] == 1
    assert record["steps"] > 1
    assert 0.5 <= record["seconds"] < 60


def test_a_loss_that_is_no_number_ends_the_run(corpus: Corpus, tmp_path: Path):
    recipe = Recipe().with_settings([*TINY, "evaluations=20"])
    train(replace(recipe, steps=2), corpus, tmp_path, device="cpu", say=lambda line: None)
    with pytest.raises(NomulError, match=r"the loss is nan at step \d+; lower lr"):
        train(replace(recipe, lr_vector=1e30), corpus, tmp_path, device="cpu", say=lambda line: None)
    assert all(bool(p.isfinite().all()) for p in import_checkpoint(tmp_path).parameters())


def test_bits_per_byte_is_as_defined(run: Path, corpus: Corpus):
    model, text = import_checkpoint(run / "run"), corpus.held_out[:101]
    nats = 0.0
    for start in range(0, len(text), 40):
        segment = torch.from_numpy(text[start : start + 40].copy()).long()
        with torch.no_grad():
            logits, _ = model(torch.cat([torch.zeros(1, dtype=torch.long), segment[:-1]])[None])
        nats -= float(logits[0].log_softmax(-1)[torch.arange(len(segment)), segment].sum())
    expected = nats / math.log(2) / len(text)
    for window in (7, 40, 512):
        ours = bits_per_byte(model, text, segment=40, window=window)
        assert ours == pytest.approx(expected, rel=1e-5)


def test_windows_stream_the_shuffled_documents(corpus: Corpus):
    recipe = Recipe().with_settings([*TINY, "restart=0"])
    windows = Windows(recipe, corpus, torch.device("cpu"))
    per_epoch = len(corpus.train) // (8 * 32)
    stream = iter(windows)
    epoch = [next(stream) for _ in range(per_epoch)]
    assert windows.epochs == 1
    rows = torch.cat([targets for _, targets, _ in epoch], 1)
    joined = bytes(rows.flatten().to(torch.uint8).numpy())
    assert joined.count(b"\0") == pytest.approx(100, abs=20)  # the cut loses less than a unit
    documents = {d.tobytes() for part in ("library", "tests") for d in corpus.documents(part)}
    assert {b"\0" + piece for piece in joined.split(b"\0")[1:-1]} <= documents
    for (inputs, targets, fresh), before in zip(epoch, [None, *epoch], strict=False):
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        if before is None:
            assert fresh.all()
            assert (inputs[:, 0] == 0).all()
        else:
            assert not fresh.any()
            assert torch.equal(inputs[:, 0], before[1][:, -1])
    next(stream)
    assert windows.epochs == 2


def test_a_restarted_row_begins_as_a_judged_segment(corpus: Corpus):
    recipe = Recipe().with_settings([*TINY, "restart=0.5"])
    stream = iter(Windows(recipe, corpus, torch.device("cpu")))
    next(stream)
    inputs, _, fresh = next(stream)
    assert 0 < int(fresh.sum()) < len(fresh)
    assert (inputs[fresh[:, 0], 0] == 0).all()
    assert (inputs[~fresh[:, 0], 0] != 0).any()


def test_samples_depend_on_prompt_and_seed_only(run: Path):
    model = import_checkpoint(run / "run")
    assert generate(model, b"def ", 20, seed=3) == generate(model, b"def ", 20, seed=3)
    assert generate(model, b"def ", 20, seed=3) != generate(model, b"def ", 20, seed=4)
    assert generate(model, b"", 5, temperature=0) == generate(model, b"", 5, temperature=0, seed=9)


def test_the_card_says_it_all(run: Path, corpus: Corpus):
    card = (run / "run" / "README.md").read_text()
    record = json.loads((run / "run" / "run.json").read_text())
    for part in corpus.manifest()["parts"].values():  # type: ignore[attr-defined]
        assert part["sha256"] in card
    assert f"{record['held_out_bpb']:.4f}" in card
    for word in ("5-gram", "xz -9", "lr = 0.02", "seed 1", "40 steps", "lm_head | 256 × 16"):
        assert word in card
    assert card.count("Prompt `") == len(PROMPTS)
    for *_, minus, zero, plus in trit_statistics(run / "run"):
        assert minus + zero + plus == pytest.approx(1)
    write_card(run / "run", corpus, title="Again",
               sampler=lambda prompt, seed: b"<sampled %d>" % seed,
               sampler_name="the integer model", more={"integer golden model": 1.2345})
    again = (run / "run" / "README.md").read_text()
    assert "<sampled 5>" in again
    assert "| integer golden model | 1.2345 |" in again


def test_the_card_refuses_another_corpus(run: Path, corpus: Corpus):
    other = replace(corpus, library=corpus.tests, tests=corpus.library)
    with pytest.raises(NomulError, match="another corpus"):
        write_card(run / "run", other, title="x")


def test_the_module_runs_from_the_command_line(run: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "nomul.train.sweep", "--corpus", run / "corpus", "--out", tmp_path,
         "--device", "cpu", "--set", *TINY, "steps=2", "--", "a:", "b:lr=0.01,seed=2"],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    table = json.loads((tmp_path / "sweep.json").read_text())
    assert sorted(row["name"] for row in table) == ["a", "b"]
    for row in table:
        assert row["held_out_bpb"] > 0
        assert (tmp_path / row["name"] / "model.safetensors").exists()


@pytest.mark.parametrize(("settings", "message"), [
    (["depth=3"], "no setting 'depth'"), (["lr=fast"], "lr takes float, not 'fast'"),
    (["batch=0"], "batch is 0"), (["dropout=1.5"], "dropout is 1.5"),
    (["seconds=0"], "give a length"),
    (["batch=100000"], "the training text only"),
])
def test_refuses_settings(run: Path, tmp_path: Path, settings: list[str], message: str):
    with pytest.raises(NomulError, match=message):
        main_train(tmp_path, settings=settings, device="cpu", corpus=run / "corpus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_one_line(run: Path, tmp_path: Path):
    with pytest.raises(NomulError, match="no CUDA GPU here; use --device cpu"):
        main_train(tmp_path, corpus=run / "corpus")


def test_a_missing_torch_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(NomulError, match="PyTorch is not installed"):
        main_train(tmp_path, device="cpu")


def test_an_unknown_device_is_refused(tmp_path: Path):
    with pytest.raises(NomulError, match="device is 'tpu'"):
        main_train(tmp_path, device="tpu")
