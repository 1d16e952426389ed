# SPDX-License-Identifier: Apache-2.0
"""A published file is read strictly, contradictions in it are found, and what can be re-run is compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_cases import cpu_bench, nomul, write_tiny

from nomul.host.bench.document import cells, read_document, recomputed
from nomul.host.bench.verify import Check, _compared, verify
from nomul.model.errors import NomulError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def document(model: Path) -> dict[str, Any]:
    return cpu_bench(model)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    def write(value: dict[str, Any]) -> Path:
        path = tmp_path / "bench.json"
        path.write_text(json.dumps(value))
        return path

    return write


def outcomes(checks: list[Check]) -> set[str]:
    return {check.outcome for check in checks}


def test_a_bench_is_what_it_says(document: dict[str, Any], file):
    assert read_document(file(document)) == document
    for target, run, _ in cells(document):
        assert recomputed(target, run, document["core"]["clock_hz"]) == []


def test_a_good_file_is_run_again(document: dict[str, Any], file):
    checks = verify(file(document))
    assert "differs" not in outcomes(checks)
    assert {"equal", "ratio", "not re-run"} == outcomes(checks)
    assert any(c.what == "golden model, prompt 3, output 4: tokens" and c.outcome == "equal" for c in checks)


TAMPERED = {
    "a better median": lambda run: run["figures"]["decode"].update(value=9e9),
    "a tighter spread": lambda run: run["figures"]["ttft"].update(q3=run["figures"]["ttft"]["q1"] / 2),
    "another label": lambda run: run["figures"]["ttft"].update(label="simulated"),
    "fewer repetitions": lambda run: run["samples"].pop(),
    "a faster sample": lambda run: run["samples"][0].update(first_s=run["samples"][0]["first_s"] / 2),
    "time that goes back": lambda run: run["samples"][0].update(last_s=0.0),
    "a token more": lambda run: run["tokens"][0].append(1),
    "no figure": lambda run: run["figures"].pop("prefill_summed"),
    "no samples": lambda run: run["samples"].clear(),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_contradictions_are_found(document: dict[str, Any], file, change):
    change(document["targets"][0]["runs"][1])
    path = file(document)
    checks = verify(path)
    (wrong,) = [check for check in checks if check.outcome == "differs"]
    assert wrong.what == "golden model, prompt 3, output 4: figures from samples"
    assert wrong.detail
    shown = nomul("bench", "--verify", path)
    assert shown.status == 1
    assert "differ; it is not what runs here" in shown.err


def test_other_tokens_are_found(document: dict[str, Any], file):
    tokens = document["targets"][0]["runs"][0]["tokens"][0]
    tokens[2] = (tokens[2] + 1) % 256
    (wrong,) = [check for check in verify(file(document)) if check.outcome == "differs"]
    assert wrong.what == "golden model, prompt 2, output 4: tokens"


def test_another_model_is_not_run(document: dict[str, Any], file, tmp_path: Path):
    document["model"]["sha256"] = "0" * 64
    (check,) = [c for c in verify(file(document)) if c.outcome == "not re-run"]
    assert "is another model than it was made with" in check.detail
    document["model"]["path"] = str(tmp_path / "gone")
    path = file(document)
    (check,) = [c for c in verify(path) if c.outcome == "not re-run"]
    assert "its model is not here" in check.detail
    shown = nomul("bench", "--verify", path, "--json")
    assert shown.status == 1
    assert json.loads(shown.out)["good"] is False
    assert "nothing of it could be run again here" in shown.err


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another version": (lambda d: d.update(schema=99), "schema is 99; this nomul reads 1"),
    "no targets": (lambda d: d.pop("targets"), "lacks targets"),
    "a list": (lambda d: d.update(core=[]), "core is []; it must be an object"),
    "a text": (lambda d: d["targets"][0]["runs"][0].update(prompt="3"), "runs[0]: prompt is '3'; it must be int"),
    "a truth": (lambda d: d.update(seed=True), "seed is True; it must be int"),
    "a label": (lambda d: d["targets"][0].update(label="guessed"), "label is 'guessed'; one of measured"),
    "settings": (lambda d: d["settings"].update(speed=3), "settings: "),
    "a figure": (lambda d: d["targets"][0]["runs"][0]["figures"].update(ttft=3), "a run lacks or spoils"),
    "lengths": (lambda d: d["targets"][0]["runs"][0].update(output=1), "output is 1; it must be at least 2"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "part"), BROKEN.values(), ids=BROKEN)
def test_broken_files(document: dict[str, Any], file, change, part: str):
    change(document)
    with pytest.raises(NomulError, match="bench") as error:
        verify(file(document))
    assert part in str(error.value)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": 1, "schema": 1}', b'{"schema": NaN}'])
def test_files_that_are_none(tmp_path: Path, raw: bytes):
    path = tmp_path / "bench.json"
    path.write_bytes(raw)
    shown = nomul("bench", "--verify", path)
    assert shown.status == 1
    assert shown.out == ""
    assert shown.err.startswith(f"nomul: {path}: ")
    assert nomul("bench", "--verify", tmp_path / "none").status == 1


def with_board(document: dict[str, Any], cycles: int, *, dram: str | None) -> dict[str, Any]:
    """The same with a board's samples; only for what compares."""
    made = copy.deepcopy(document)
    made["settings"]["dram"] = dram
    target = copy.deepcopy(made["targets"][0])
    target |= {"key": "board", "label": "simulated", "name": "simulated board"}
    for run in target["runs"]:
        for sample in run["samples"]:
            for part in ("prefill", "decode"):
                sample[part] = {"rows": 3, "cycles": cycles, "phases": {"streaming": cycles}}
    made["targets"] = [target]
    return made


@pytest.mark.parametrize(
    ("dram", "now", "right"),
    [(None, 1000, True), (None, 1001, False), ("ecpix5-85f", 1009, True), ("ecpix5-85f", 1011, False)],
)
def test_simulated_cycles(document: dict[str, Any], dram: str | None, now: int, right: bool):
    """Equal to the cycle with an ideal memory; behind a controller within a hundredth."""
    checks = _compared(with_board(document, 1000, dram=dram), with_board(document, now, dram=dram), {})
    cycles = [check for check in checks if "cycles of" in check.what]
    assert len(cycles) == 4
    assert outcomes(cycles) == {"equal" if right else "differs"}


def test_what_a_checked_file_says_is_not_given_again(document: dict[str, Any], file):
    shown = nomul("bench", "--verify", file(document), "--repeat", 9)
    assert shown.status == 2
    assert "--repeat with --verify: the file says it; leave it out" in shown.err
