# SPDX-License-Identifier: Apache-2.0
"""Runs from a configuration: what they leave, how they go on, several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from config_runs import TINY, Stop, run_on_cpu, weights_of  # noqa: E402

from nomul.host.cli.common import load_any, tokenizer_for  # noqa: E402
from nomul.host.cli.training import train_command  # noqa: E402
from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.program import compile_model  # noqa: E402
from nomul.sim.evaluate import GoldenEngine, evaluate, segment_parts, text_segments  # noqa: E402
from nomul.train import loop, reporter  # noqa: E402
from nomul.train.command import main_train  # noqa: E402
from nomul.train.config import config_text, read_config  # noqa: E402
from nomul.train.model import import_checkpoint  # noqa: E402
from nomul.train.reporter import shown  # noqa: E402


@pytest.fixture(scope="module")
def pairs(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a byte-pair encoding."""
    folder = tmp_path_factory.mktemp("pairs")
    run_on_cpu(replace(TINY, vocab=290, steps=30), corpus, folder)
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
    whole = run_on_cpu(config, corpus, tmp_path / "whole/run")
    with pytest.raises(KeyboardInterrupt):
        run_on_cpu(config, corpus, tmp_path / "cut/run", say=Stop(after))
    say = Stop()
    again = run_on_cpu(config, corpus, tmp_path / "cut/run", resume=True, say=say)
    assert f"goes on from step {after - after % 3}" in say.lines
    for name, value in weights_of(tmp_path / "whole/run").items():
        assert torch.equal(value, weights_of(tmp_path / "cut/run")[name]), name
    for record in (whole, again):
        for entry in record["history"]:
            del entry["seconds"]
    assert whole["history"] == again["history"]
    assert whole["held_out_bpb_integer"] == again["held_out_bpb_integer"]
    for name in ("model.safetensors", "model.nomul", "tokenizer.json"):
        assert (tmp_path / "whole/run" / name).read_bytes() == (tmp_path / "cut/run" / name).read_bytes(), name


def test_other_settings_that_decide_no_weights_may_change(corpus: Path, tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        run_on_cpu(TINY, corpus, tmp_path, say=Stop(7))
    record = run_on_cpu(replace(TINY, evaluations=4, lean=True, checkpoint_steps=1), corpus, tmp_path, resume=True)
    assert [entry["progress"] for entry in record["history"]] == [0.5, 0.8, 1.0]  # 0.5 is half of 4 already


def test_a_new_run_takes_nothing_of_an_older_one(pairs: Path, corpus: Path, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(pairs, folder)
    say = Stop(1)
    with pytest.raises(KeyboardInterrupt):
        run_on_cpu(replace(TINY, vocab=270, steps=1), corpus, folder, say=say)
    assert not (folder / "model.nomul").exists()
    run_on_cpu(replace(TINY, vocab=270, steps=1), corpus, folder, say=say)
    assert any("checkpoint.pt is of an earlier run, which --resume goes on with" in line for line in say.lines)
    loaded = load_any(str(folder / "model.nomul"))
    assert loaded.model.geometry.vocab == 270
    coder = tokenizer_for(loaded)  # another would not fit
    assert max(coder.encode("x1 = 2 # é\n" * 9)) < 270


def test_a_tokenizer_may_be_named(pairs: Path, corpus: Path, tmp_path: Path):
    shutil.copytree(pairs, tmp_path / "named")
    (tmp_path / "config.toml").write_text(config_text(replace(TINY, vocab=300, tokenizer="named")))  # beside the file
    config = read_config(tmp_path / "config.toml")
    with pytest.raises(KeyboardInterrupt):
        run_on_cpu(config, corpus, tmp_path / "run", say=Stop(4))
    copied = (tmp_path / "run" / "tokenizer.json").read_bytes()
    assert copied == (pairs / "tokenizer.json").read_bytes()
    (tmp_path / "named" / "tokenizer.json").unlink()
    with pytest.raises(NomulError, match=r"named/tokenizer\.json: No such file .*; set tokenizer to the folder of a"):
        run_on_cpu(config, corpus, tmp_path / "other")
    assert run_on_cpu(config, corpus, tmp_path / "run", resume=True)["steps"] == 10  # it has its own
    with pytest.raises(NomulError, match=r"tokenizer\.json: has 290 tokens, the model 280; set vocab"):
        run_on_cpu(replace(config, vocab=280, tokenizer=str(pairs)), corpus, tmp_path / "other")


def test_parts_of_a_step_add_up_to_it(corpus: Path, tmp_path: Path):
    steps = {"steps": 3, "checkpoint_steps": 1}
    one = run_on_cpu(replace(TINY, **steps), corpus, tmp_path / "one")
    four = run_on_cpu(replace(TINY, accumulate=4, **steps), corpus, tmp_path / "four")
    assert [e["train_bits_per_token"] for e in four["history"]] == pytest.approx(
        [e["train_bits_per_token"] for e in one["history"]], rel=1e-3)
    for name, value in weights_of(tmp_path / "one").items():
        torch.testing.assert_close(value, weights_of(tmp_path / "four")[name], rtol=1e-3, atol=1e-3)


def test_products_in_bfloat16(corpus: Path, tmp_path: Path):
    record = run_on_cpu(replace(TINY, precision="bfloat16"), corpus, tmp_path)
    assert record["precision"] == "bfloat16"
    assert all(value.dtype == torch.float32 for value in weights_of(tmp_path).values())
    other = run_on_cpu(TINY, corpus, tmp_path / "other")
    assert record["held_out_bpb"] != other["held_out_bpb"]
    assert record["held_out_bpb"] == pytest.approx(other["held_out_bpb"], rel=0.1)


def test_a_clock_may_end_the_run(corpus: Path, tmp_path: Path):
    record = run_on_cpu(replace(TINY, steps=0, seconds=0.5), corpus, tmp_path)
    assert record["steps"] >= 1
    assert record["history"][-1]["progress"] == 1


def test_tensorboard_gets_the_figures(corpus: Path, tmp_path: Path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed (pip install tensorboard)")
    with pytest.raises(KeyboardInterrupt):
        run_on_cpu(replace(TINY, tensorboard=True, steps=6), corpus, tmp_path, say=Stop(5))
    run_on_cpu(replace(TINY, tensorboard=True, steps=6), corpus, tmp_path, resume=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss/bits per token", "lr", "held-out bits per byte"} <= set(events.Tags()["scalars"])
    assert sorted(e.step for e in events.Scalars("lr")) == [1, 2, 3, 4, 5, 6, 6]  # 4 and 5 once; the end looks again


_PROGRAM = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from torch.distributed.fsdp import FSDPModule
from nomul.host.cli.training import train_command
from nomul.train import loop

def save_and_stop(run, save=loop._Run.save):
    save(run)
    shares = [p for p in run.model.parameters() if hasattr(p, "to_local")]
    groups = sum(isinstance(m, FSDPModule) for m in run.model.modules())
    share = sum(p.to_local().numel() for p in shares) / max(1, sum(p.numel() for p in shares))
    Path(sys.argv[0]).with_name("shares-" + os.environ["RANK"]).write_text(f"{groups} groups, {share}")
    sys.exit()

if sys.argv[-1] == "--stop":
    loop._Run.save = save_and_stop
    del sys.argv[-1]
if sys.argv[-1] == "--skew":
    speed, make = 1 + 9 * (os.environ["RANK"] == "1"), loop._Run.__init__
    loop.time = SimpleNamespace(monotonic=lambda: speed * time.monotonic())
    loop._Run.__init__ = lambda run, *given: make(run, *given) or setattr(run, "every", 3)
    del sys.argv[-1]
train_command()
"""


@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_make_the_same_model(corpus: Path, tmp_path: Path, sharded: bool):
    """Stopped in the middle too. Gradients are clipped to less than AdamW's ε: steps then are as long as they are."""
    config = replace(TINY, steps=4, checkpoint_steps=2, accumulate=2, sharded=sharded, clip=1e-7, lr=0.5,
                     lr_embedding=0.5, lr_vector=0.5)  # fmt: skip
    (tmp_path / "config.toml").write_text(config_text(config))
    (tmp_path / "program.py").write_text(_PROGRAM)
    one = run_on_cpu(config, corpus, tmp_path / "one")

    def torchrun(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             str(tmp_path / "program.py"), "-o", str(tmp_path / "two"), "--config", str(tmp_path / "config.toml"),
             "--corpus", str(corpus), "--device", "cpu", "--json", *more],
            capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert torchrun("--stop") == ""
    for rank in range(2):
        told = (tmp_path / f"shares-{rank}").read_text()
        assert told == ("3 groups, 0.5" if sharded else "0 groups, 0.0")
    stopped = weights_of(tmp_path / "two")
    shutil.copytree(tmp_path / "two", tmp_path / "alone")
    alone = replace(config, sharded=False, accumulate=1)
    records = {"two": json.loads(torchrun("--resume")),  # of the first process alone
               "alone": run_on_cpu(alone, corpus, tmp_path / "alone", resume=True)}
    ours = weights_of(tmp_path / "one")
    assert max(float((value - stopped[name]).abs().max()) for name, value in ours.items()) > 0.01
    for folder, record in records.items():
        theirs = weights_of(tmp_path / folder)
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-4)
        for key in ("held_out_bpb", "train_bits_per_token"):
            assert [e[key] for e in record["history"]] == pytest.approx([e[key] for e in one["history"]], rel=1e-4)
    assert [record["processes"] for record in records.values()] == [2, 1]
    if not sharded:  # the second process's clock goes wrong, and what it says is no matter
        record = json.loads(torchrun("--set", "steps=0", "--set", "seconds=0.5", "--set", "clip=1", "--skew"))
        assert record["history"][-1]["progress"] == 1
        assert record["steps"] >= 1


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


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_draws_a_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int):
    bars: list[bool] = []

    def seen(say: object, *, bar: bool) -> nullcontext[None]:
        bars.append(bar)
        return nullcontext()

    monkeypatch.setattr(reporter, "shown", seen)
    monkeypatch.setattr(loop, "run_config", lambda *arguments, **options: {})
    monkeypatch.setenv("RANK", str(rank))
    (tmp_path / "config.toml").write_text(config_text(TINY))
    main_train(tmp_path, config=tmp_path / "config.toml", device="cpu", bar=True)
    assert bars == [rank == 0]


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


def test_what_is_exported_is_what_was_judged(pairs: Path, corpus: Path):
    from nomul.train.tokens import judged_bits
    loaded = load_any(str(pairs))
    segments = text_segments(load_held_out(corpus), tokenizer_for(loaded))
    record = json.loads((pairs / "run.json").read_text())
    bits = judged_bits(import_checkpoint(pairs), segments, 0) / len(load_held_out(corpus))
    assert bits == pytest.approx(record["held_out_bpb"], rel=1e-6)
