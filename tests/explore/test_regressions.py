# SPDX-License-Identifier: Apache-2.0
"""Regressions as jobs: seeds that reach the tests, failures with the command that runs them again."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nomul.host.explore import regressions as module
from nomul.host.explore.cache import Cache
from nomul.host.explore.regressions import (
    command_of,
    regressions,
    run_regressions,
    run_tests,
    write_report,
)
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
