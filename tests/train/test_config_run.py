# SPDX-License-Identifier: Apache-2.0
"""Runs from a configuration: what they leave, how they go on, several processes, and what stops them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from nomul.host.cli.common import load_any, tokenizer_for  # noqa: E402
from nomul.host.cli.training import train_command  # noqa: E402
from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.program import compile_model  # noqa: E402
from nomul.sim.evaluate import GoldenEngine, evaluate, segment_parts, text_segments  # noqa: E402
from nomul.train import loop, reporter  # noqa: E402
from nomul.train.command import main_train  # noqa: E402
from nomul.train.config import TrainConfig, config_text, read_config  # noqa: E402
from nomul.train.data import Corpus, export_corpus  # noqa: E402
from nomul.train.fused import FusedLM  # noqa: E402
from nomul.train.loop import run_config  # noqa: E402
from nomul.train.model import import_checkpoint  # noqa: E402
from nomul.train.reporter import shown  # noqa: E402

TINY = TrainConfig(hidden=12, intermediate=20, layers=2, batch=8, window=24, steps=10, lr=0.02, lr_embedding=0.02,
                   lr_vector=0.02, evaluations=2, evaluated=1, checkpoint_steps=3, spread=0.1)  # fmt: skip


@pytest.fixture(scope="module")
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


class Stop:
    """A reporter that remembers, and interrupts a run after a number of steps."""

    def __init__(self, after: int | None = None):
        self.after, self.lines, self.steps = after, [], 0

    def line(self, text: str) -> None:
        self.lines.append(text)

    def step(self, progress: float, text: str) -> None:
        self.steps += 1
        if self.steps == self.after:
            raise KeyboardInterrupt


def _run(config: TrainConfig, corpus: Path, folder: Path, **options: Any) -> dict[str, Any]:
    return run_config(config, corpus, folder, device="cpu", **options)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["weights"]


@pytest.fixture(scope="module")
def pairs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a byte-pair encoding."""
    folder = tmp_path_factory.mktemp("pairs")
    _run(replace(TINY, vocab=290, steps=30), corpus, folder)
    return folder


def test_it_learns_and_leaves_a_model_for_every_engine(pairs: Path, corpus: Path):
    record = json.loads((pairs / "run.json").read_text())
    first, last = record["history"][0], record["history"][-1]
    assert last["held_out_bpb"] < first["held_out_bpb"] < 8
    assert record["tokens"] == 30 * 8 * 24
    assert last["progress"] == 1
    assert read_config(pairs / "config.toml").identity == replace(TINY, vocab=290, steps=30).identity
    loaded = load_any(str(pairs / "model.nomul"))
    assert loaded.checkpoint is not None  # the float weights beside it are its own
    coder = tokenizer_for(loaded)
    assert coder.decode(coder.encode("x1 = 2  # é\n")) == "x1 = 2  # é\n"
    held_out = load_held_out(corpus)
    segments = text_segments(held_out, coder)
    image = compile_model(loaded.model, bytes_per_beat=4, tile_outputs=32)
    golden = evaluate(GoldenEngine(image), segment_parts(segments, coder.begin))
    assert golden.tokens == sum(map(len, segments))
    bits = golden.bits_per_token * golden.tokens / len(held_out)
    assert bits == pytest.approx(record["held_out_bpb_integer"], rel=1e-6)
    assert bits == pytest.approx(record["held_out_bpb"], rel=0.05)


def load_held_out(corpus: Path) -> bytes:
    from nomul.train.texts import read_corpus
    return read_corpus(corpus)[0]["held_out"]


@pytest.mark.parametrize("after", [4, 7])
def test_a_run_goes_on_bit_for_bit(corpus: Path, tmp_path: Path, after: int):
    config = replace(TINY, vocab=270)
    whole = _run(config, corpus, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _run(config, corpus, tmp_path / "cut", say=Stop(after))
    say = Stop()
    again = _run(config, corpus, tmp_path / "cut", resume=True, say=say)
    assert f"goes on from step {after - after % 3}" in say.lines
    for name, value in _weights(tmp_path / "whole").items():
        assert torch.equal(value, _weights(tmp_path / "cut")[name]), name
    for record in (whole, again):
        for entry in record["history"]:
            del entry["seconds"]
    assert whole["history"] == again["history"]
    assert whole["held_out_bpb_integer"] == again["held_out_bpb_integer"]
    files = [(tmp_path / run / "model.nomul").stat().st_size for run in ("whole", "cut")]
    assert files[0] == files[1]


def test_parts_of_a_step_add_up_to_it(corpus: Path, tmp_path: Path):
    steps = {"steps": 3, "checkpoint_steps": 1}
    _run(replace(TINY, **steps), corpus, tmp_path / "one")
    _run(replace(TINY, accumulate=4, **steps), corpus, tmp_path / "four")
    for name, value in _weights(tmp_path / "one").items():
        torch.testing.assert_close(value, _weights(tmp_path / "four")[name], rtol=1e-3, atol=1e-3)


def test_products_in_bfloat16(corpus: Path, tmp_path: Path):
    record = _run(replace(TINY, precision="bfloat16"), corpus, tmp_path)
    assert record["precision"] == "bfloat16"
    assert all(value.dtype == torch.float32 for value in _weights(tmp_path).values())
    other = _run(TINY, corpus, tmp_path / "other")
    assert record["held_out_bpb"] != other["held_out_bpb"]
    assert record["held_out_bpb"] == pytest.approx(other["held_out_bpb"], rel=0.1)


def test_a_clock_may_end_the_run(corpus: Path, tmp_path: Path):
    record = _run(replace(TINY, steps=0, seconds=0.5), corpus, tmp_path)
    assert record["steps"] >= 1
    assert record["history"][-1]["progress"] == 1


def test_tensorboard_gets_the_figures(corpus: Path, tmp_path: Path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (pip install tensorboard)")
    _run(replace(TINY, tensorboard=True, steps=4), corpus, tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss/bits per token", "lr", "held-out bits per byte"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("lr")) == 5


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_make_the_same_model(corpus: Path, tmp_path: Path, sharded: bool):
    config = replace(TINY, steps=4, checkpoint_steps=2, accumulate=2, sharded=sharded)
    (tmp_path / "config.toml").write_text(config_text(config))
    _run(replace(config, sharded=False), corpus, tmp_path / "one")
    program = ("import sys; from pathlib import Path; from nomul.train.command import main_train; "
               "main_train(Path(sys.argv[1]), device='cpu', config=Path(sys.argv[2]), corpus=Path(sys.argv[3]), "
               "resume=len(sys.argv) > 4)")
    (tmp_path / "program.py").write_text(program)

    def torchrun(*more: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             str(tmp_path / "program.py"), str(tmp_path / "two"), str(tmp_path / "config.toml"), str(corpus), *more],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout + done.stderr

    torchrun()
    ours, theirs = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    prefix = "model." if sharded else ""  # shards are of the module that gives the loss
    assert {prefix + name for name in ours} == set(theirs)
    for name, value in ours.items():
        torch.testing.assert_close(theirs[prefix + name], value, rtol=1e-3, atol=1e-3)
    record = json.loads((tmp_path / "two" / "run.json").read_text())
    assert record["processes"] == 2
    one = json.loads((tmp_path / "one" / "run.json").read_text())
    assert record["held_out_bpb"] == pytest.approx(one["held_out_bpb"], rel=2e-3)
    if sharded:
        torchrun("resume")  # from its end: judges again
        again = json.loads((tmp_path / "two" / "run.json").read_text())
        assert again["held_out_bpb"] == record["held_out_bpb"]


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
        _run(TINY, corpus, tmp_path)
    assert all(bool(value.isfinite().all()) for value in _weights(tmp_path).values())
    monkeypatch.undo()
    _run(TINY, corpus, tmp_path, resume=True)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")])
def test_too_little_memory_says_what_to_lower(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail(self: FusedLM, *arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(FusedLM, "forward", fail)
    with pytest.raises(NomulError, match=r"out of memory with batch = 8, window = 24, accumulate = 1; raise "
                                         r"accumulate, lower batch or window, or set lean = true"):
        _run(TINY, corpus, tmp_path)


def test_another_run_s_checkpoint_is_refused(corpus: Path, pairs: Path, tmp_path: Path):
    with pytest.raises(NomulError, match=r"is of a run with vocab = 290 \(now 256\), steps = 30 \(now 10\); give the"):
        _run(TINY, corpus, pairs, resume=True)
    with pytest.raises(NomulError, match="nothing to resume"):
        _run(TINY, corpus, tmp_path, resume=True)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(NomulError, match="no checkpoint can be read"):
        _run(TINY, corpus, tmp_path, resume=True)


def test_another_corpus_is_refused(corpus: Path, tmp_path: Path):
    _run(replace(TINY, steps=3), corpus, tmp_path / "run")
    half = Corpus(library=np.frombuffer(b"\0a = 1\n" * 900, np.uint8), tests=np.frombuffer(b"\0b = 2\n" * 90, np.uint8),
                  held_out=np.frombuffer(b"\0c = 3\n" * 9, np.uint8), python="3.11.0")  # fmt: skip
    export_corpus(half, tmp_path / "other")
    with pytest.raises(NomulError, match="another corpus"):
        _run(replace(TINY, steps=3), tmp_path / "other", tmp_path / "run", resume=True)


def test_data_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no such folder; make a corpus with"):
        _run(TINY, tmp_path / "nothing", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NomulError, match=r"empty: no corpus can be read .*manifest\.json"):
        _run(TINY, tmp_path / "empty", tmp_path / "run")
    few = np.frombuffer(b"\0a = 1\n", np.uint8)
    export_corpus(Corpus(library=few, tests=few, held_out=few, python="3.11.0"), tmp_path / "few")
    with pytest.raises(NomulError, match="part 'library' has 7 tokens; a window of 24 needs twice as many"):
        _run(TINY, tmp_path / "few", tmp_path / "run")


@pytest.mark.parametrize(("text", "message"), [
    ("depth = 3", "no setting 'depth'; there are hidden,"), ("batch = 'many'", "batch takes int, not 'many'"),
    ("batch = 0", "batch is 0; it must be at least 1"), ("lr = -1.0", "lr is -1.0"),
    ("= 3", "no configuration can be read"),
    ("warmup = 2.0", r"warmup is 2.0; it lies in 0\.\.1"), ("steps = 0\nseconds = 0", "give a length"),
    ("batch = 9\naccumulate = 2", "a multiple of accumulate"), ("precision = 'half'", "precision is 'half'"),
    ("vocab = 257", "vocab is 257"), ("library = 0.9\ntests = 0.2", "together more than 1"),
    ("lean = 3", "lean takes bool"), ("hidden = 0", "hidden"),
])  # fmt: skip
def test_bad_configurations(tmp_path: Path, text: str, message: str):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(NomulError, match=message):
        read_config(tmp_path / "config.toml")


def test_the_command_goes_on_and_writes_a_card(corpus: Path, tmp_path: Path):
    (tmp_path / "config.toml").write_text(config_text(replace(TINY, vocab=270)))
    given = ["-o", str(tmp_path / "run"), "--config", str(tmp_path / "config.toml"), "--corpus", str(corpus),
             "--device", "cpu", "--set", "steps=3", "--card", "A toy"]  # fmt: skip
    for more in ([], ["--resume", "--json"]):
        done = CliRunner().invoke(train_command, [*given, *more], catch_exceptions=False)
        assert done.exit_code == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert json.loads(done.stdout)["held_out_bpb"] == record["held_out_bpb"]
    card = (tmp_path / "run" / "README.md").read_text()
    assert card.startswith("# A toy\n")
    assert f"| {record['held_out_bpb_integer']:.4f} |" in card
    assert "| layers.1.down_proj | " in card


def test_a_bar_where_there_is_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    lines: list[str] = []
    with shown(lines.append, bar=True) as plain:  # no terminal here
        plain.line("a line")
        plain.step(0.5, "step 7")
    assert lines == ["a line"]  # the next of progress only after a while
    monkeypatch.setattr(reporter, "_EVERY", 0.0)
    with shown(lines.append, bar=False) as plain:
        plain.step(0.5, "step 7")
    assert lines[1:] == [" 50.0%  step 7"]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    with shown(lines.append, bar=True) as drawn:
        drawn.line("above [the] bar")
        drawn.step(0.25, "step 8")
    out = capsys.readouterr().err
    assert "above [the] bar" in out
    assert "25.0 %" in out
    assert "step 8" in out


def test_a_configuration_reads_as_it_is_written(tmp_path: Path):
    config = replace(TINY, lean=True, precision="float32", vocab=300)
    (tmp_path / "config.toml").write_text(config_text(config))
    assert read_config(tmp_path / "config.toml") == config
    assert config.with_settings(["lr=0.5", "lean=false"]) == replace(config, lr=0.5, lean=False)
    assert replace(config, lean=False, evaluations=9).identity == config.identity
    assert replace(config, lr=0.1).identity != config.identity
    assert TINY.shares(0.2, ["packages", "library", "tests"]) == pytest.approx(
        {"packages": 0.95, "library": 0.02, "tests": 0.03})
    assert sum(TINY.shares(0.7, ["library", "tests"]).values()) == pytest.approx(1)


def test_a_missing_file_or_gpu_is_one_line(corpus: Path, tmp_path: Path):
    with pytest.raises(NomulError, match=r"no\.toml: no configuration can be read"):
        main_train(tmp_path, config=tmp_path / "no.toml", device="cpu")
    with pytest.raises(NomulError, match="--resume is for runs from a configuration"):
        main_train(tmp_path, resume=True, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(NomulError, match="no CUDA GPU here; use --device cpu"):
            run_config(TINY, corpus, tmp_path)


def test_what_is_exported_is_what_was_judged(pairs: Path, corpus: Path):
    from nomul.train.tokens import judged_bits
    loaded = load_any(str(pairs))
    segments = text_segments(load_held_out(corpus), tokenizer_for(loaded))
    record = json.loads((pairs / "run.json").read_text())
    bits = judged_bits(import_checkpoint(pairs), segments, 0) / len(load_held_out(corpus))
    assert bits == pytest.approx(record["held_out_bpb"], rel=1e-6)
