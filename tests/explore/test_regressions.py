# SPDX-License-Identifier: Apache-2.0
"""Regressions as jobs: seeds that reach the tests, failures with the command that runs them again."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nomul.host.explore import cluster
from nomul.host.explore import regressions as module
from nomul.host.explore.cache import Cache
from nomul.host.explore.regressions import (
    command_of,
    regressions,
    run_regressions,
    run_tests,
    write_report,
)
from nomul.host.explore.texts import SUFFIXES
from nomul.host.explore.work import Outcome, Work
from nomul.model.errors import NomulError

TEST = """
import os
import pytest

def test_seed():
    assert int(os.environ["NOMUL_SEED"]) % 2 == 1

@pytest.mark.sweep
def test_long():
    assert os.environ["NOMUL_SEED"] != "5"
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one unit."""
    folder = tmp_path / "tests/unit"
    folder.mkdir(parents=True)
    (folder / "unit_tb.py").touch()
    (folder / "test_unit.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = sweep: long\n")
    monkeypatch.setattr(module, "tests_folder", lambda: tmp_path / "tests")
    return tmp_path


def test_jobs_are_files_and_sweeps(checkout: Path):
    units = {"unit": [checkout / "tests/unit/test_unit.py"]}
    works = regressions(units, range(3, 5))
    assert [(work.arguments["tests"], work.arguments["marker"], work.arguments["seed"]) for work in works] == [
        ([tests], marker, seed)
        for seed in (3, 4)
        for tests, marker in (("tests/unit/test_unit.py", "not sweep"), ("tests/unit/test_unit.py::test_long", "sweep"))
    ]
    assert len({work.key for work in works}) == 4
    (checkout / "tests/unit/test_unit.py").write_text(TEST + "\n# another text\n")
    assert {work.key for work in regressions(units, range(3, 5))}.isdisjoint(work.key for work in works)


@pytest.mark.parametrize("name", [
    "tests/unit/harness.cpp", "tests/unit/harness.h", "tests/unit/dut.v", "tests/unit/dut.sv", "tests/shape.json",
    "tests/unit/weights.safetensors", "pyproject.toml",
])  # fmt: skip
def test_what_lies_beside_tests_counts(checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    """An edited harness or fixture has no old "passed"."""
    monkeypatch.setattr(module, "_sweeps", lambda folder: [])
    units = {"unit": [checkout / "tests/unit/test_unit.py"]}
    (checkout / name).write_text("one")
    before = [work.key for work in regressions(units, [3])]
    assert [work.key for work in regressions(units, [3])] == before
    (checkout / name).write_text("two")
    assert {work.key for work in regressions(units, [3])}.isdisjoint(before)
    (checkout / name).write_text("one")
    (checkout / "tests/unit/__pycache__").mkdir(exist_ok=True)
    (checkout / "tests/unit/__pycache__/dut.json").write_text("made")
    (checkout / "tests/unit/waves.vcd").write_text("made")
    assert [work.key for work in regressions(units, [3])] == before


def test_every_kind_of_file_is_known():
    """What git has, or would take, below the folders that are hashed."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "ls-files", "-co", "--exclude-standard", "model", "hw", "sim", "host", "tests"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=60)
    if listed.returncode:
        pytest.skip("no checkout of git")
    names = [Path(name) for name in listed.stdout.splitlines()]
    assert len(names) > 400
    assert [name for name in names if name.suffix not in SUFFIXES] == []


def test_sources_that_are_no_python_are_facts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "sim/board").mkdir(parents=True)
    (tmp_path / "sim/board/main.cpp").write_text("int main() { return 0; }")
    monkeypatch.setattr(cluster, "_packages", lambda: {"sim": tmp_path / "sim"})
    before = cluster.facts()
    (tmp_path / "sim/board/main.cpp").write_text("int main() { return 1; }")
    after = cluster.facts()
    assert {name for name in before if before[name] != after[name]} == {"source"}


def test_all_of_a_unit_by_the_command(
    nomul: Any, checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """``nomul sim --all``: a worker process, tests with their seeds, a report; what passed is kept."""
    monkeypatch.setattr("nomul.host.cli.hardware._tests", lambda: checkout / "tests")
    monkeypatch.setattr("nomul.hw.build.tools.build_folder", lambda *parts: _made(tmp_path.joinpath("build", *parts)))
    tiny = "import os\n\ndef test_seed():\n    assert os.environ['NOMUL_SEED'] in ('3', '4')\n"
    (checkout / "tests/unit/test_unit.py").write_text(tiny)
    arguments = ("sim", "--all", "unit", "--seed", "3", "--workers", "1", "--cache", tmp_path / "cache")
    monkeypatch.setattr(module, "_CALL", "stub_jobs:run_tests_elsewhere")
    monkeypatch.setenv("STUB_CHECKOUT", str(checkout))
    shown = nomul(*arguments, "--json")
    assert shown.status == 0, shown.err
    (job,) = json.loads(shown.out)["jobs"]
    assert (job["seed"], job["state"], job["cached"]) == (3, "passed", False)
    shown = nomul(*arguments, "--seeds", "3")
    report = tmp_path / "build/explore/regressions.json"
    assert shown.status == 1
    assert [(one["seed"], one["state"]) for one in json.loads(report.read_text())] == [
        (3, "passed"), (4, "passed"), (5, "failed"),
    ]  # fmt: skip
    again = "NOMUL_SEED=5 python -m pytest -q -m 'not sweep' tests/unit/test_unit.py::test_seed"
    assert shown.out.splitlines() == [
        "failed: unit/test_unit.py, seed 5: 1 failed, of them tests/unit/test_unit.py::test_seed", f"  {again}",
        f"2 of 3 jobs passed, 1 of them before; seeds 3 to 5; {report}",
    ]  # fmt: skip
    assert shown.err == f"nomul: sim: 1 of 3 jobs failed; again: {again}\n"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_a_failure_is_run_again_by_its_command(checkout: Path):
    tests = ["tests/unit/test_unit.py"]
    assert "1 passed, 1 deselected" in run_tests(tests, "not sweep", 3)["summary"]
    with pytest.raises(NomulError) as error:
        run_tests(tests, "not sweep", 4)
    why, _, again = str(error.value).partition("; again: ")
    assert why == "1 failed, of them tests/unit/test_unit.py::test_seed"
    assert again == "NOMUL_SEED=4 python -m pytest -q -m 'not sweep' tests/unit/test_unit.py::test_seed"
    done = subprocess.run(again, shell=True, cwd=checkout, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    with pytest.raises(NomulError, match=r"again: NOMUL_SEED=5 python -m pytest -q -m sweep tests/unit/test_unit"):
        run_tests(tests, "sweep", 5)
    assert shlex.split(command_of(["tests/a b.py::t[x y]"], "sweep", 1))[-1] == "tests/a b.py::t[x y]"


def test_reports_have_seeds_states_and_commands(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Jobs done here in place of a cluster."""

    def here(client: object, works: list[Work], cache: Cache, **_: Any) -> dict[str, Outcome]:
        found = {}
        for work in works:
            try:
                found[work.key] = Outcome(state="done", value=run_tests(**work.arguments))
            except NomulError as error:
                found[work.key] = Outcome(state="failed", why=str(error))
        return found

    monkeypatch.setattr(module, "farm", here)
    works = regressions({"unit": [checkout / "tests/unit/test_unit.py"]}, [4, 5])
    found = run_regressions(works, lambda: None, Cache(tmp_path))  # type: ignore[arg-type, return-value]
    assert [(one["seed"], one["state"]) for one in found] == [
        (4, "failed"), (4, "passed"), (5, "passed"), (5, "failed"),
    ]  # fmt: skip
    assert found[0]["again"].startswith("NOMUL_SEED=4 ")
    assert found[3]["again"] == "NOMUL_SEED=5 python -m pytest -q -m sweep tests/unit/test_unit.py::test_long"
    write_report(found, tmp_path / "build/report.json")
    assert json.loads((tmp_path / "build/report.json").read_text()) == found
