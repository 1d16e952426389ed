# SPDX-License-Identifier: Apache-2.0
"""The command line: help, exit statuses, JSON, files written, and errors of one line."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
import safetensors.numpy
from outcome import TESTS, UPSTREAM, Nomul

from nomul.host.cli import _COMMANDS
from nomul.host.cli.common import load_any
from nomul.model.checkpoint import write_checkpoint
from nomul.model.core_config import ENGINES, CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.image import external_regions
from nomul.model.program import compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig

SHIPPED = TESTS.parent / "models/stdlib-1m3"
LARGER = TESTS.parent / "models/python-33m"


# Help and usage


def test_help_lists_all_commands(nomul: Nomul):
    shown = nomul("--help")
    assert shown.status == 0
    assert all(f"\n  {name} " in shown.out for name in _COMMANDS)


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_has_an_example(nomul: Nomul, command: str):
    shown = nomul(command, "--help")
    assert shown.status == 0
    assert f"Example:\n    nomul {command}" in shown.out
    assert shown.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["run"],
        ["run", "a", "--tokens", "0"],
        ["run", "a", "--tokens", "many"],
        ["run", "a", "--bytes-per-beat", "0"],
        ["run", "a", "--engine", "steam"],
        ["import", str(UPSTREAM)],
        ["info", "a", "b"],
        ["eval"],
        ["eval", str(UPSTREAM)],
        ["eval", str(UPSTREAM), "text", "--ids", "ids.npy"],
        ["eval", str(UPSTREAM), "text", "--engine", "golden,golden"],
        ["eval", str(UPSTREAM), "text", "--engine", "magic"],
        ["verilog"],
        ["verilog", "-o", "x", "--port", "tin"],
        ["sim", "nothing"],
        ["report", "--seeds", "17"],
        ["report", "--dram", "ecpix5-85f"],
        ["report", "--port", "native", "--engine", "select"],
        ["bench", "--repeat", "0"],
        ["train"],
        ["train", "-o", "x", "--device", "abacus"],
        ["doctor", "--port"],
    ],
    ids=" ".join,
)
def test_bad_usage(nomul: Nomul, arguments: list[str]):
    shown = nomul(*arguments)
    assert shown.status == 2
    assert shown.out == ""
    assert "Error: " in shown.err


def test_version(nomul: Nomul):
    assert nomul("--version").out.startswith("nomul, version ")


# import and info


def test_import_and_info(nomul: Nomul, tmp_path: Path):
    file = tmp_path / "a.nomul"
    made = nomul("import", UPSTREAM, "-o", file, "--json")
    assert made.status == 0
    assert made.json["bytes"] == file.stat().st_size
    facts = nomul("info", file, "--json").json
    direct = nomul("info", UPSTREAM, "--json").json
    assert facts["geometry"] == direct["geometry"] == made.json["geometry"]
    assert facts["trits"] == direct["trits"]
    for share in facts["trits"].values():
        assert sum(share.values()) == pytest.approx(1, abs=2e-4)
    shown = nomul("info", file)
    assert shown.status == 0
    assert f"{facts['ternary_weights']:,}" in shown.out
    before = file.read_bytes()  # the same again
    assert nomul("import", UPSTREAM, "-o", file).status == 0
    assert file.read_bytes() == before


def test_info_of_the_shipped_model(nomul: Nomul):
    facts = nomul("info", "--json").json
    assert facts["name"] == SHIPPED.name
    assert facts["tokenizer"] == "bytes"
    assert 1_200_000 <= facts["ternary_weights"] <= 1_600_000


def test_the_shipped_file_is_what_its_checkpoint_gives(nomul: Nomul, tmp_path: Path):
    assert nomul("import", SHIPPED, "-o", tmp_path / "again.nomul").status == 0
    assert (tmp_path / "again.nomul").read_bytes() == (SHIPPED / "model.nomul").read_bytes()


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkpoint folder to be damaged."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((UPSTREAM / name).read_bytes())
    return folder


def test_import_of_bad_files(nomul: Nomul, damaged: Path, tmp_path: Path):
    weights, config = damaged / "model.safetensors", damaged / "config.json"
    good = weights.read_bytes()
    output = tmp_path / "out.nomul"

    def refused(part: str) -> None:
        line = nomul("import", damaged, "-o", output).failed()
        assert line.startswith(f"nomul: {damaged}")
        assert part in line
        assert not output.exists()

    weights.write_bytes(good[: len(good) // 2])
    refused("model.safetensors")
    weights.write_bytes(good + b"more")
    refused("model.safetensors")
    weights.unlink()
    refused("model.safetensors")
    weights.write_bytes(good)
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_short_conv": True}))
    refused("use_short_conv")
    config.write_text("{")
    refused("config.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint"]


def test_import_elsewhere(nomul: Nomul, tmp_path: Path):
    missing = tmp_path / "none"
    assert str(missing) in nomul("import", missing, "-o", tmp_path / "x.nomul").failed()
    line = nomul("import", UPSTREAM, "-o", missing / "x.nomul").failed()
    assert f"the folder {missing} does not exist" in line
    assert [*tmp_path.iterdir()] == []


def test_info_of_bad_files(nomul: Nomul, tmp_path: Path):
    good = (SHIPPED / "model.nomul").read_bytes()
    file = tmp_path / "bad.nomul"
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad in (b"", b"hello", good[:100], good[:-1], good + b"\0", bytes(flipped)):
        file.write_bytes(bad)
        assert nomul("info", file).failed().startswith(f"nomul: {file}: ")
    assert "no config.json" in nomul("info", tmp_path).failed()
    assert "no such file" in nomul("info", tmp_path / "none").failed()


# eval


def test_eval_of_ids_in_float(nomul: Nomul, tmp_path: Path):
    expected = safetensors.numpy.load_file(UPSTREAM / "expected.safetensors")
    ids, out = tmp_path / "ids.npy", tmp_path / "out.npz"
    np.save(ids, expected["input_ids"])
    shown = nomul("eval", UPSTREAM, "--ids", ids, "--logits", out, "--engine", "float", "--json")
    assert shown.status == 0, shown.err
    assert shown.json["tokens"] == len(expected["input_ids"])
    logits = np.load(out)["logits"]
    assert logits.shape == expected["logits"].shape
    assert np.abs(logits - expected["logits"]).max() < 1e-5 * np.abs(expected["logits"]).max()


def test_eval_compares_two_engines(nomul: Nomul, tiny: Path, tmp_path: Path):
    text = tmp_path / "text"
    text.write_bytes(bytes(range(40)) * 2)
    shown = nomul("eval", tiny, text, "--engine", "float,golden", "--json").json
    assert shown["tokens"] == 80
    assert shown["agreement"] > 0.9
    assert shown["bits_ratio"] == pytest.approx(1, abs=0.05)
    assert "same next token" in nomul("eval", tiny, text, "--engine", "float,golden").out


def test_eval_of_a_model_file_has_no_float(nomul: Nomul, tmp_path: Path):
    file = tmp_path / "a.nomul"
    nomul("import", UPSTREAM, "-o", file)
    np.save(tmp_path / "ids.npy", np.array([1, 2]))
    line = nomul("eval", file, "--ids", tmp_path / "ids.npy", "--engine", "float").failed()
    assert "its float weights are not beside it" in line


@pytest.mark.parametrize(
    ("array", "part"),
    [
        (np.array([1.5, 2]), "is float64 [2]; expected integers [T]"),
        (np.array([[1, 2]]), "is int64 [1, 2]; expected integers [T]"),
        (np.array([], dtype=np.int64), "empty; there is nothing to predict"),
        (np.array([0, 1, 5000]), "token 5000 at position 2 lies outside the vocabulary"),
        (np.array([0, -1]), "token -1 at position 1 lies outside the vocabulary"),
        (np.array([0, 2**64 - 1], dtype=np.uint64), "at position 1 lies outside the vocabulary"),
        (np.array([None, 1], dtype=object), "no array of token ids can be read"),
    ],
)
def test_eval_of_bad_ids(nomul: Nomul, tmp_path: Path, array: np.ndarray, part: str):
    ids, out = tmp_path / "ids.npy", tmp_path / "out.npz"
    np.save(ids, array)
    line = nomul("eval", UPSTREAM, "--ids", ids, "--logits", out).failed()
    assert line.startswith(f"nomul: {ids}: ")
    assert part in line
    assert not out.exists()


def test_eval_of_files_that_hold_no_ids(nomul: Nomul, tmp_path: Path):
    ids = tmp_path / "ids.npy"
    assert str(ids) in nomul("eval", UPSTREAM, "--ids", ids).failed()
    np.save(ids, np.arange(100))
    whole = ids.read_bytes()
    for bad in (b"", b"hello", b"PK\3\4", whole[:20], whole[:-1]):
        ids.write_bytes(bad)
        line = nomul("eval", UPSTREAM, "--ids", ids).failed()
        assert line.startswith(f"nomul: {ids}: no array of token ids can be read")
    np.savez(tmp_path / "two.npz", a=np.arange(3))
    assert "two.npz" in nomul("eval", UPSTREAM, "--ids", tmp_path / "two.npz").failed()


def test_eval_of_bad_texts(nomul: Nomul, tiny: Path, tmp_path: Path):
    assert "no such file" in nomul("eval", tiny, tmp_path / "none").failed().lower()
    assert str(tmp_path) in nomul("eval", tiny, tmp_path).failed()
    (tmp_path / "empty").touch()
    assert "empty; there is nothing to predict" in nomul("eval", tiny, tmp_path / "empty").failed()
    other = random_checkpoint(Geometry(hidden=4, intermediate=4, layers=1, vocab=19), 1)
    write_checkpoint(tmp_path / "other", other.config, other._tensors)
    (tmp_path / "text").write_bytes(b"a\xff")
    line = nomul("eval", tmp_path / "other", tmp_path / "text").failed()
    assert "tokenizer.json: no such file; copy it from the checkpoint (nomul eval --ids takes token ids)" in line
    line = nomul("eval", LARGER, tmp_path / "text").failed()
    assert line.endswith("text: the text is no UTF-8 at byte 1: invalid start byte; give token ids with --ids")


def test_eval_of_a_model_whose_tokens_are_more_than_bytes(nomul: Nomul, tmp_path: Path):
    text = "import os\n\n\ndef size(path):\n    return os.stat(path).st_size  # é\n"
    (tmp_path / "text").write_text(text)
    found = nomul("eval", LARGER, tmp_path / "text", "--json").json
    figures = found["engines"]["golden"]
    assert found["tokens"] < len(text) / 2
    bits = figures["bits_per_byte"] * len(text.encode())
    assert bits == pytest.approx(figures["bits_per_token"] * found["tokens"], rel=1e-4)
    assert 0.3 < figures["bits_per_byte"] < 3
    assert re.search(r"^golden +\d\.\d{4} bits a byte, \d\.\d{4} bits a token over ", nomul(
        "eval", LARGER, tmp_path / "text").out)  # fmt: skip


def test_eval_of_logits_to_nowhere(nomul: Nomul, tiny: Path, tmp_path: Path):
    (tmp_path / "text").write_text("a")
    line = nomul("eval", tiny, tmp_path / "text", "--logits", tmp_path / "no/out.npz").failed()
    assert f"{tmp_path}/no/out.npz" in line


# Too large


def test_a_model_larger_than_the_core():
    image = compile_model(
        fold(random_checkpoint(Geometry(hidden=37, intermediate=50, layers=2, vocab=19), 1)),
        bytes_per_beat=4, tile_outputs=16,
    )  # fmt: skip
    fits = CoreConfig(bytes_per_beat=4).grown_for(image)
    fits.check(image)
    needed = len(image.weights)
    small = CoreConfig(bytes_per_beat=4, weight_beats=needed - 7)
    with pytest.raises(NomulError, match=f"needs {needed} beats .*has {needed - 7}: 7 too many"):
        small.check(image)
    for field, over in (("hidden", 1), ("layers", 1), ("vocab", 2), ("program_words", 3)):
        held = {"hidden": 37, "layers": 2, "vocab": 19, "program_words": len(image.program)}[field]
        config = CoreConfig(bytes_per_beat=4, **{field: held - over})
        with pytest.raises(NomulError, match=rf"\({field}\), .*: {over} too many; generate a core"):
            config.check(image)
    with pytest.raises(NomulError, match="compiled for 4 bytes a beat, the core takes 36"):
        CoreConfig().check(image)


# verilog


def test_verilog(nomul: Nomul, tmp_path: Path, tiny: Path):
    folder = tmp_path / "a/b"
    manifest = nomul("verilog", "-o", folder, "--model", tiny, "--json").json
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert sorted(p.name for p in folder.iterdir()) == ["image.bin", "manifest.json", "top.v"]
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    source = (folder / "top.v").read_text()
    assert "\nmodule top(" in source
    assert str(TESTS.parent) not in source  # it says nothing of this machine
    end = 0
    for part in manifest["image"]:
        assert part["offset"] == end
        end += part["bytes"]
    assert end == (folder / "image.bin").stat().st_size


@pytest.mark.parametrize(
    ("options", "port"),
    [
        (["--port", "native"], "native__cmd_valid"),
        (["--port", "native", "--lanes", 3], "native__cmd_valid"),
        (["--port", "axi", "--bytes-per-beat", 64], "axi__arvalid"),
    ],
)
def test_verilog_of_a_streamed_core(
    nomul: Nomul, tmp_path: Path, tiny: Path, options: list, port: str
):
    manifest = nomul("verilog", "-o", tmp_path, "--model", tiny, *options, "--json").json
    assert f" {port}" in (tmp_path / "top.v").read_text()
    assert manifest["port"] == manifest["core"]["port"] == options[1]
    config = StreamedConfig(**manifest["core"])
    image = config.compile(load_any(str(tiny)).model)
    blob = (tmp_path / "image.bin").read_bytes()
    for part, (address, data) in zip(manifest["image"], external_regions(image), strict=True):
        assert part["address"] == address
        assert address >> 31
        assert blob[part["offset"] : part["offset"] + part["bytes"]] == bytes(data)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--port", "axi", "--bytes-per-beat", 36], "bytes_per_beat is 36; it must be a power of two"),
        (["--port", "axi", "--bytes-per-beat", 128], "bytes_per_beat is 128; over AXI it is at most 64"),
        (["--port", "native", "--bytes-per-beat", 4], "bytes_per_beat is 4; it must be a power of two"),
        (["--bytes-per-beat", 5], "bytes_per_beat is 5; it must be a multiple of 4"),
        (["--lanes", 2], "lanes is 2; a whole core has one lane so far"),
    ],
)
def test_verilog_of_what_can_not_be(nomul: Nomul, tmp_path: Path, options: list, part: str):
    assert part in nomul("verilog", "-o", tmp_path / "out", *options).failed()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("port", ["native", "axi"])
@pytest.mark.parametrize("engine", ENGINES)
def test_streamed_cores_have_one_engine(nomul: Nomul, tmp_path: Path, port: str, engine: str):
    shown = nomul("verilog", "-o", tmp_path / "out", "--port", port, "--engine", engine)
    assert (shown.status, shown.out) == (2, "")
    assert shown.err.splitlines()[-1] == (
        f"Error: --engine {engine} with --port {port}: streamed cores have the table engine; leave --engine out"
    )
    assert not (tmp_path / "out").exists()


def test_verilog_to_a_file(nomul: Nomul, tmp_path: Path, tiny: Path):
    (tmp_path / "file").touch()
    line = nomul("verilog", "-o", tmp_path / "file", "--model", tiny).failed()
    assert f"{tmp_path}/file: " in line


# sim, report, train, doctor


def test_sim_lists_its_units(nomul: Nomul):
    units = nomul("sim", "--list", "--json").json
    assert {"core", "engine", "link", "memory", "scalar", "sequencer", "vector"} <= set(units)
    assert nomul("sim", "--list").out.split() == units


@pytest.mark.parametrize("passes", [True, False])
def test_sim_runs_the_tests_of_a_unit(nomul: Nomul, monkeypatch: pytest.MonkeyPatch, passes: bool):
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        return subprocess.CompletedProcess(command, int(not passes), "1 test\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    shown = nomul("sim", "harness", "--json")
    assert shown.status == int(not passes)
    assert shown.json == {"unit": "harness", "passed": passes, "summary": ["1 test"]}
    assert ran[0][-1] == str(TESTS / "harness/test_harness.py")
    assert nomul("sim").status == int(not passes)
    assert {str(TESTS / "core/test_core.py"), ran[0][-1]} < set(ran[1])


def test_train(nomul: Nomul, tmp_path: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")
    from nomul.train.data import Corpus, export_corpus

    text = "".join(f"\0def f{k}():\n    return {k}\n" for k in range(60))
    part = np.frombuffer(text.encode(), dtype=np.uint8)
    corpus = Corpus(library=part, tests=part, held_out=part[::-1].copy(), python="0.0.0")
    export_corpus(corpus, tmp_path / "corpus")
    settings = ("hidden=16", "intermediate=24", "layers=1", "batch=4", "window=32", "steps=2",
                "evaluations=1", "ema=0")  # fmt: skip
    arguments = [word for setting in settings for word in ("--set", setting)]
    shown = nomul(
        "train", "-o", tmp_path / "run", "--device", "cpu", "--corpus", tmp_path / "corpus",
        *arguments, "--json",
    )  # fmt: skip
    assert shown.status == 0, shown.err
    assert shown.json["steps"] == 2
    assert nomul("info", tmp_path / "run", "--json").json["geometry"]["hidden"] == 16
    line = nomul("train", "-o", tmp_path / "no", "--device", "cpu", "--set", "speed=9").failed()
    assert "speed" in line
    assert not (tmp_path / "no").exists()


def test_doctor(nomul: Nomul):
    shown = nomul("doctor", "--json")
    assert shown.status == 0, shown.out
    assert shown.json["healthy"] is True
    found = {check["name"]: check["found"] for check in shown.json["checks"]}
    assert "checksums right" in found["shipped model"]
    assert len(found["core design"]) == 16
    plain = nomul("doctor")
    assert plain.status == 0
    assert all(name in plain.out for name in found)


def test_doctor_says_what_is_missing(nomul: Nomul, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = nomul("doctor", "--port", tmp_path / "tty", "--json")
    assert shown.status == 1
    assert shown.json["healthy"] is False
    bad = {check["name"]: check["found"] for check in shown.json["checks"] if not check["ok"]}
    assert bad["g++"] == "not installed: apt-get install g++"
    assert "does not open" in bad[f"board at {tmp_path / 'tty'}"]
    assert len(shown.err.strip().splitlines()) == 1


def test_interrupted(nomul: Nomul, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupt)
    assert nomul("info").status == 130
