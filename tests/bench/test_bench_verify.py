# SPDX-License-Identifier: Apache-2.0
"""A published file is read strictly, contradictions in it are found, and what can be re-run is compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from bench_cases import nomul

from nomul.host.bench.consistency import recomputed
from nomul.host.bench.document import MOST_MHZ, cells, read_document
from nomul.host.bench.energy import energy_figures
from nomul.host.bench.figures import figure
from nomul.host.bench.measure import Case
from nomul.host.bench.session import MOST_LANES, MOST_LENGTH, MOST_REPEAT
from nomul.host.bench.verify import Check, _compared, verify
from nomul.host.cli.benching import bench_command
from nomul.model.errors import NomulError


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
        assert recomputed(document, target, run) == []


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
    "hardly any time": lambda run: run["samples"][0].update(first_s=1e-320),
    "time that goes back": lambda run: run["samples"][0].update(last_s=0.0),
    "a token more": lambda run: run["tokens"][0].append(1),
    "no figure": lambda run: run["figures"].pop("prefill_summed"),
    "no object": lambda run: run["figures"].update(ttft=3),
    "no samples": lambda run: run["samples"].clear(),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_contradictions_are_found(document: dict[str, Any], file, change):
    change(document["targets"][0]["runs"][1])
    path = file(document)
    checks = verify(path)
    wrong = [check for check in checks if check.outcome == "differs"]
    assert wrong[-1].what == "golden model, prompt 3, output 4: figures from samples"
    assert all(check.detail and check.own for check in wrong)
    shown = nomul("bench", "--verify", path)
    assert shown.status == 1
    assert "differ; it is not what runs here" in shown.err


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str, str]] = {
    "a larger model": (lambda d: d["model"].update(ternary_weights=10**9), "model: sizes", "ternary_weights is"),
    "more parameters": (lambda d: d["model"].update(parameters=1), "model: sizes", "parameters is 1, it follows"),
    "a wider engine": (lambda d: d["core"].update(trits_per_cycle=360), "core: ", "trits_per_cycle is 360"),
    "fewer cycles than weights": (lambda d: d["core"].update(bound_cycles=1.0), "core: ", "all weights alone take"),
    "another kind": (lambda d: d["core"].update(kind="streamed"), "core: ", "kind is streamed"),
    "a faster clock": (lambda d: d["core"].update(clock_hz=2e8), "core: ", "clock_hz is 200000000.0"),
    "a routed clock": (lambda d: d["core"].update(clock_from="routed"), "core: ", "it follows given on the command"),
    "a higher bound": (
        lambda d: d["roofline"]["bounds"][0].update(weights_per_second=9e9), "core: ",
        "roofline: bounds[0]",
    ),
    "no bound": (lambda d: d["roofline"]["bounds"].pop(), "core: ", "roofline: bounds is"),
    "a board's name": (
        lambda d: d["targets"][0].update(name="ULX3S board"), "ULX3S board: name",
        "is called otherwise",
    ),
    "another PyTorch": (lambda d: d["targets"][1].update(name="PyTorch on a GPU"), "PyTorch on", "is called otherwise"),
    "measured otherwise": (lambda d: d["targets"][0].update(what="on a board"), "golden model: name", "what is on a"),
    "a run less": (
        lambda d: d["targets"][1]["runs"].pop(), "settings: a run for each case",
        "settings ask for [(2, 4, 1)",
    ),
    "a run twice": (
        lambda d: d["targets"][0]["runs"].append(d["targets"][0]["runs"][0]), "settings: ",
        "golden model: runs",
    ),
    "a target less": (lambda d: d["targets"].pop(), "settings: ", "each of board, golden, torch is in one of them"),
    "a target more": (lambda d: d["absent"].append(dict(d["absent"][0])), "settings: ", "in one of them, once"),
    "other settings": (lambda d: d["settings"].update(repeat=3), "settings: ", "[2] samples, settings ask for 3"),
    "other lengths": (lambda d: d["settings"].update(prompts=[2, 4]), "settings: ", "settings ask for [(2, 4, 1), (4"),
    "a meter": (lambda d: d["settings"].update(meters=["rapl"]), "settings: board", "model: meters are ['rapl']"),
    "another seed": (lambda d: d.update(seed=2), "settings: ", "seed is 2, it follows 1"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "what", "part"), LIES.values(), ids=LIES)
def test_lies_are_found(document: dict[str, Any], file, change, what: str, part: str):
    """What no sample tells, but sizes and settings do; nothing is run for it."""
    change(document)
    checks = verify(file(document))
    wrong = [check for check in checks if check.outcome == "differs"]
    assert any(check.what.startswith(what) and part in check.detail for check in wrong), wrong
    assert all(check.own for check in checks)


def test_a_bound_that_only_a_run_tells(document: dict[str, Any], file):
    document["core"]["bound_cycles"] *= 1.5
    wrong = [check for check in verify(file(document)) if check.outcome == "differs"]
    assert [check.what for check in wrong] == ["core: bound_cycles"]
    assert "told " in wrong[0].detail
    assert not wrong[0].own


ENERGY: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "fewer joules": (lambda e: e["samples"][0].update(decode=1e-6), "energy: decode: joules_per_token"),
    "a better figure": (lambda e: e["decode"]["joules_per_token"].update(value=1e-9), "value is 1e-09"),
    "a smaller doubt": (
        lambda e: e["request"]["joules_per_token_above_idle"].update(uncertainty=0),
        "uncertainty is 0",
    ),
    "more idle": (lambda e: e["idle"]["before"].update(value=9.0), "joules_per_token_above_idle"),
    "no idle": (lambda e: e.update(idle=None), "a measured one has idle power"),
    "nothing above idle": (lambda e: e["decode"].pop("joules_per_token_above_idle"), "above_idle is missing"),
    "a sample less": (lambda e: e["samples"].pop(), "each repetition has joules above 0"),
    "negative joules": (lambda e: e["samples"][0].update(request=-1.0), "each repetition has joules above 0"),
    "decode above all": (lambda e: e["samples"][0].update(decode=9.0), "decode took more than the whole request"),
    "another label": (lambda e: e["decode"]["joules_per_token"].update(label="modelled"), "a measured one has idle"),
    "idle in another unit": (lambda e: e["idle"]["after"].update(unit="mW"), "energy: idle: after is"),
}


@pytest.mark.parametrize(("change", "part"), [(None, ""), *ENERGY.values()], ids=["nothing", *ENERGY])
def test_energy_follows_from_its_samples(document: dict[str, Any], file, change, part: str):
    document["settings"]["meters"] = ["rapl"]
    for _, run, _ in cells(document):
        idle = {"seconds": 2.0, "before": figure(2.0, "W", "measured"), "after": figure(3.0, "W", "measured")}
        times = [(s["first_s"], s["last_s"]) for s in run["samples"]]
        joules = [{"decode": 4 * (last - first), "request": 5 * last} for first, last in times]
        case = Case(prompt=run["prompt"], output=4)
        run["energy"] = energy_figures(case, times, joules, idle, "measured") | {"meter": {"name": "m"}}
    run = document["targets"][0]["runs"][0]
    if change is None:
        checks = verify(file(document))
        assert "differs" not in outcomes(checks)
        power, *others = [check for check in checks if check.what.endswith(": power")]
        assert len(others) == 3
        assert {power.outcome, *(other.outcome for other in others)} == {"not re-run"}
        assert "by m: joules follow from its samples, which only a meter can check" in power.detail
        return
    change(run["energy"])
    (wrong,) = [check for check in verify(file(document)) if check.outcome == "differs"]
    assert wrong.what == "golden model, prompt 2, output 4: figures from samples"
    assert part in wrong.detail


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
    "another version": (lambda d: d.update(schema=99), "schema is 99; this nomul reads 2"),
    "no targets": (lambda d: d.pop("targets"), "lacks targets"),
    "a list": (lambda d: d.update(core=[]), "core is []; it must be an object"),
    "a text": (lambda d: d["targets"][0]["runs"][0].update(prompt="3"), "runs[0]: prompt is '3'; it must be int"),
    "a truth": (lambda d: d.update(seed=True), "seed is True; it must be int"),
    "a label": (lambda d: d["targets"][0].update(label="guessed"), "label is 'guessed'; one of measured"),
    "a list of labels": (lambda d: d.update(label=[1]), "label is [1]; one of measured"),
    "settings": (lambda d: d["settings"].update(speed=3), "settings: "),
    "a negative seed": (lambda d: d["settings"].update(seed=-1), "settings: bench: seed is -1; it must be 0 or more"),
    "no such weights": (lambda d: d["settings"].update(weights="foo"), "weights is 'foo'; one of onchip, native, axi"),
    "no such memory": (lambda d: d["settings"].update(dram="foo"), "settings: bench: --dram foo"),
    "endless repeat": (lambda d: d["settings"].update(repeat=10**7), "repeat is 10000000; it must be 1 to 1000"),
    "endless outputs": (lambda d: d["settings"].update(outputs=[10**8]), "outputs is 100000000; it must be 2 to"),
    "endless prompts": (lambda d: d["settings"].update(prompts=[10**12]), "prompts is 1000000000000; it must be 1 to"),
    "no prompts": (lambda d: d["settings"].update(prompts=[]), "prompts is []; it must be at least one"),
    "a prompt twice": (lambda d: d["settings"].update(prompts=[2, 2]), "prompts is [2, 2]; it must be"),
    "many lanes": (lambda d: d["settings"].update(lanes=10**6), "lanes is 1000000; it must be 1 to 16"),
    "an engine elsewhere": (
        lambda d: d["settings"].update(weights="native", engine="table"),
        "engine table is of a core",
    ),
    "a true repeat": (lambda d: d["settings"].update(repeat=True), "repeat is True; it must be int"),
    "a clock beyond floats": (lambda d: d["core"].update(clock_hz=10**400), "clock_hz is 1000"),
    "a clock of nothing": (lambda d: d["core"].update(clock_hz=0), "clock_hz is 0; it must be 1000 to 1e+10"),
    "time beyond floats": (lambda d: d["targets"][0]["runs"][0]["samples"][0].update(last_s=10**400), "last_s is 1000"),
    "depth": (
        lambda d: d["machine"].update(deep=json.loads("[" * 60 + "]" * 60)),
        "levels deep; no bench is that deep",
    ),
    "cycles of nothing": (lambda d: d["core"]["configuration"].update(bytes_per_beat=0), "a run lacks or spoils"),
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


def test_a_file_may_ask_for_what_the_command_line_may():
    options = {parameter.name: parameter.type for parameter in bench_command.params}
    told = {name: (options[name].min, options[name].max) for name in ("repeat", "lanes", "clock_mhz")}  # type: ignore
    assert told == {"repeat": (1, MOST_REPEAT), "lanes": (1, MOST_LANES), "clock_mhz": MOST_MHZ}
    for name, least in (("prompts", 1), ("outputs", 2)):
        assert options[name].convert(f"{least},{MOST_LENGTH}", None, None) == (least, MOST_LENGTH)
        for wrong in (least - 1, MOST_LENGTH + 1, "9" * 5000):
            with pytest.raises(click.BadParameter, match=f"it must be {least} to {MOST_LENGTH}"):
                options[name].convert(str(wrong), None, None)
