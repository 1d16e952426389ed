# SPDX-License-Identifier: Apache-2.0
"""What stops runs from a configuration, with one line that says how to mend it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from config_runs import TINY, run_on_cpu, weights_of  # noqa: E402

from nomul.model.errors import NomulError  # noqa: E402
from nomul.train import loop  # noqa: E402
from nomul.train.command import main_train  # noqa: E402
from nomul.train.config import read_config  # noqa: E402
from nomul.train.data import Corpus, export_corpus  # noqa: E402
from nomul.train.fused import FusedLM  # noqa: E402
from nomul.train.loop import run_config  # noqa: E402
from nomul.train.model import MatMulFreeLM, import_checkpoint  # noqa: E402
from nomul.train.processes import processes  # noqa: E402


class _NotANumber(FusedLM):
    calls = 0

    def forward(self, *arguments: Any) -> Any:
        loss, state = super().forward(*arguments)
        _NotANumber.calls += 1
        return (loss * math.nan if _NotANumber.calls == 6 else loss), state


def test_a_loss_that_is_no_number_ends_the_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "FusedLM", _NotANumber)
    _NotANumber.calls = 0
    with pytest.raises(NomulError, match=r"the loss is nan at step 6; lower lr; the last good checkpoint is .*step 3"):
        run_on_cpu(TINY, corpus, tmp_path)
    assert all(bool(value.isfinite().all()) for value in weights_of(tmp_path).values())
    monkeypatch.undo()
    run_on_cpu(TINY, corpus, tmp_path, resume=True)


@pytest.mark.parametrize(("settings", "message"), [
    ({"checkpoint_steps": 2}, "a weight is no number at step 6; lower lr; the last good checkpoint is .*step 4"),
    ({"checkpoint_steps": 99, "evaluations": 5}, "the loss is nan at step 6; lower lr; no checkpoint yet"),
])  # fmt: skip
def test_between_two_looks_at_the_loss_no_file_gets_bad_numbers(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], message: str
):
    monkeypatch.setattr(loop, "FusedLM", _NotANumber)
    monkeypatch.setattr(loop._Run, "look", lambda self, progress: None)  # on a GPU it is every tenth step
    _NotANumber.calls = 0
    with pytest.raises(NomulError, match=message):
        run_on_cpu(replace(TINY, **settings), corpus, tmp_path)
    assert all(bool(p.isfinite().all()) for p in import_checkpoint(tmp_path).parameters())


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")])
def test_too_little_memory_says_what_to_lower(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(self: FusedLM, *arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(FusedLM, "forward", fail)
    with pytest.raises(NomulError, match=r"out of memory with batch = 8, window = 24, accumulate = 1; raise "
                                         r"accumulate, lower batch or window, or set lean = true"):
        run_on_cpu(TINY, corpus, tmp_path)
    monkeypatch.setattr(MatMulFreeLM, "features", fail)
    with pytest.raises(NomulError, match="out of memory; lower batch or window"):
        main_train(tmp_path, settings=["batch=4", "window=16"], corpus=corpus, device="cpu", say=lambda line: None)


def test_another_error_stays_what_it_is(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(FusedLM, "forward", lambda self, *arguments: [][0] + torch.ones(2) @ torch.ones(3))
    with pytest.raises(IndexError):
        run_on_cpu(TINY, corpus, tmp_path)
    monkeypatch.setattr(FusedLM, "forward", lambda self, *arguments: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run_on_cpu(TINY, corpus, tmp_path)


def test_another_run_s_checkpoint_is_refused(corpus: Path, tmp_path: Path):
    pairs = tmp_path / "pairs"
    run_on_cpu(replace(TINY, vocab=290, steps=3), corpus, pairs)
    with pytest.raises(NomulError, match=r"is of a run with vocab = 290 \(now 256\), steps = 3 \(now 10\); give the"):
        run_on_cpu(TINY, corpus, pairs, resume=True)
    with pytest.raises(NomulError, match="nothing to resume"):
        run_on_cpu(TINY, corpus, tmp_path, resume=True)
    for content in (b"no checkpoint", (pairs / "checkpoint.pt").read_bytes()[:5000]):
        (tmp_path / "checkpoint.pt").write_bytes(content)
        with pytest.raises(NomulError, match="no checkpoint can be read"):
            run_on_cpu(TINY, corpus, tmp_path, resume=True)
    for content in ([1, 2], {"identity": TINY.identity, "config": {}}):
        torch.save(content, tmp_path / "checkpoint.pt")
        with pytest.raises(NomulError, match="no checkpoint can be read"):
            run_on_cpu(TINY, corpus, tmp_path, resume=True)


def test_another_corpus_is_refused(corpus: Path, tmp_path: Path):
    run_on_cpu(replace(TINY, steps=3), corpus, tmp_path / "run")
    half = Corpus(library=np.frombuffer(b"\0a = 1\n" * 900, np.uint8), tests=np.frombuffer(b"\0b = 2\n" * 90, np.uint8),
                  held_out=np.frombuffer(b"\0c = 3\n" * 9, np.uint8), python="3.11.0")  # fmt: skip
    export_corpus(half, tmp_path / "other")
    with pytest.raises(NomulError, match="another corpus"):
        run_on_cpu(replace(TINY, steps=3), tmp_path / "other", tmp_path / "run", resume=True)


def test_data_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no such folder; make a corpus with"):
        run_on_cpu(TINY, tmp_path / "nothing", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NomulError, match=r"empty: no corpus can be read .*manifest\.json"):
        run_on_cpu(TINY, tmp_path / "empty", tmp_path / "run")
    for parts, message in (({}, "its part held_out, or both packages and library, are missing or empty"),
                           ({"library": {}}, "no corpus can be read .*sha256"), ([], "no corpus can be read")):
        (tmp_path / "empty" / "manifest.json").write_text(json.dumps({"parts": parts}))
        with pytest.raises(NomulError, match=message):
            run_on_cpu(TINY, tmp_path / "empty", tmp_path / "run")
    few = np.frombuffer(b"\0a = 1\n", np.uint8)
    export_corpus(Corpus(library=few, tests=few, held_out=few, python="3.11.0"), tmp_path / "few")
    with pytest.raises(NomulError, match="part 'library' has 7 tokens; a window of 24 needs twice as many"):
        run_on_cpu(TINY, tmp_path / "few", tmp_path / "run")


@pytest.mark.parametrize(("text", "message"), [
    ("depth = 3", "no setting 'depth'; there are hidden,"), ("batch = 'many'", "batch takes int, not 'many'"),
    ("batch = 0", "batch is 0; it must be at least 1"), ("lr = -1.0", "lr is -1.0"),
    ("= 3", "no configuration can be read"),
    ("warmup = 2.0", r"warmup is 2.0; it lies in 0\.\.1"), ("steps = 0\nseconds = 0", "give a length"),
    ("batch = 9\naccumulate = 2", "a multiple of accumulate"), ("precision = 'half'", "precision is 'half'"),
    ("vocab = 257", "vocab is 257"), ("library = 0.9\ntests = 0.2", "together more than 1"),
    ("lean = 3", "lean takes bool"), ("hidden = 0", "hidden"), ("seed = -1", "seed is -1; it must be at least 0"),
    ("evaluated = -1", "evaluated is -1"), ("beta2 = 1.0", "beta2 is 1.0; it must be below 1"),
    ("clip = 0", "clip is 0"),
])  # fmt: skip
def test_bad_configurations(tmp_path: Path, text: str, message: str):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(NomulError, match=message):
        read_config(tmp_path / "config.toml")


def test_a_missing_file_or_gpu_is_one_line(corpus: Path, tmp_path: Path):
    with pytest.raises(NomulError, match=r"no\.toml: no configuration can be read"):
        main_train(tmp_path, config=tmp_path / "no.toml", device="cpu")
    with pytest.raises(NomulError, match="--resume is for runs from a configuration"):
        main_train(tmp_path, resume=True, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(NomulError, match="no CUDA GPU here; use --device cpu"):
            run_config(TINY, corpus, tmp_path)


def test_processes_of_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each has a GPU of its own, and says so where it joins the others."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **more: given.update(more))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", given.clear)
    for name, value in {"WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with processes("cuda") as run:
        assert (run.rank, run.count, run.first) == (1, 3, False)
        assert given["device_id"] == run.device == torch.device("cuda", 1)
    assert not given
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(NomulError, match="process 2 has no GPU, there are 2; lower torchrun's --nproc-per-node"), \
            processes("cuda"):
        pass
    with pytest.raises(NomulError, match="recipe is for one process; give --config"):
        main_train(tmp_path, device="cpu")
