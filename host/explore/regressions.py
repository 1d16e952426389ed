# SPDX-License-Identifier: Apache-2.0
"""Long co-simulation regressions as jobs: every testbench, the sweeps among them, each with a seed that is told."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client

from nomul.hw.build.tools import versions
from nomul.model.errors import NomulError
from nomul.model.files import atomic

from .cache import Cache
from .cluster import facts
from .farm import Progress, farm
from .texts import hash_tree
from .work import Work, content_key

__all__ = ["regressions", "run_regressions", "run_tests", "tests_folder", "write_report"]

_COLLECT_S = 300
_LIMIT_S = 4 * 3600
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", re.M)
_CALL = f"{__name__}:run_tests"
_NOTHING = 5  # pytest's exit status when it has selected no test


def tests_folder() -> Path:
    """The folder of the testbenches, which only a checkout has.

    Raises
    ------
    NomulError
        If this is none.
    """
    folder = Path(__file__).resolve().parents[2] / "tests"
    if not folder.is_dir():
        raise NomulError("sim: the testbenches are in the source checkout; run nomul from one")
    return folder


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]


def _sweeps(folder: Path) -> list[str]:
    """Node ids of the tests that are marked as sweeps."""
    try:
        done = subprocess.run(
            _pytest("--collect-only", "-m", "sweep", str(folder)), cwd=folder.parent, capture_output=True, text=True,
            check=False, timeout=_COLLECT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NomulError(f"{folder}: listing sweeps took longer than {_COLLECT_S} s; is the machine busy?") from None
    if done.returncode not in (0, _NOTHING):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise NomulError(f"{folder}: the sweeps could not be listed: {' '.join(last)}")
    return [line.strip() for line in done.stdout.splitlines() if "::" in line]


def _text(folder: Path) -> str:
    """A hash of all tests, with what lies beside them, and of how they are run."""
    return hash_tree({"tests": folder, "pyproject": folder.parent / "pyproject.toml"}).hex()


def command_of(tests: Sequence[str], marker: str, seed: int) -> str:
    """The one command that does a job again."""
    return f"NOMUL_SEED={seed} python -m pytest -q -m {shlex.quote(marker)} {shlex.join(tests)}"


def regressions(units: dict[str, list[Path]], seeds: Sequence[int]) -> list[Work]:
    """Jobs: each file of a unit without its sweeps, and each sweep, once for every seed.

    Parameters
    ----------
    units : dict of str to list of Path
        Test files by unit.
    seeds : sequence of int
    """
    folder = tests_folder()
    root = folder.parent
    whole = {"tests": _text(folder), "facts": facts(), "tools": versions()}
    jobs = [([str(path.relative_to(root))], "not sweep") for paths in units.values() for path in paths]
    chosen = {str(path.relative_to(root)) for paths in units.values() for path in paths}
    everything = {path.parent.name for path in folder.rglob("*_tb.py")} <= set(units)
    jobs += [([node], "sweep") for node in _sweeps(folder) if everything or node.split("::")[0] in chosen]
    works = []
    for seed in seeds:
        for tests, marker in jobs:
            arguments: dict[str, Any] = {"tests": tests, "marker": marker, "seed": seed}
            works.append(Work(
                name=f"{tests[0].removeprefix('tests/')}, seed {seed}", call=_CALL, arguments=arguments,
                key=content_key({"what": "regression", **arguments, **whole}), limit_s=_LIMIT_S,
                again=command_of(tests, marker, seed),
            ))  # fmt: skip
    return works


def run_tests(tests: Sequence[str], marker: str, seed: int) -> dict[str, Any]:
    """Runs tests with a seed; on a worker.

    Returns
    -------
    dict
        ``summary``: pytest's last line.

    Raises
    ------
    NomulError
        If one fails: which, and the command that runs it again.
    """
    folder = tests_folder()
    done = subprocess.run(
        _pytest("-rfE", "-m", marker, *tests), cwd=folder.parent, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, "NOMUL_SEED": str(seed)},
    )  # fmt: skip
    lines = done.stdout.strip().splitlines()
    if done.returncode in (0, _NOTHING):
        return {"summary": lines[-1] if lines else ""}
    failed = _FAILED.findall(done.stdout) or list(tests)
    raise NomulError(
        f"{len(failed)} failed, of them {failed[0]}; again: {command_of(failed[:1], marker, seed)}"
    )


def run_regressions(
    works: Sequence[Work], client: Client | Callable[[], Client], cache: Cache, *, seen: Progress | None = None
) -> list[dict[str, Any]]:
    """Does the jobs; what became of each, with its seed and the command that does it again."""
    outcomes = farm(client, works, cache, **({} if seen is None else {"seen": seen}))
    found = []
    for work in works:
        outcome = outcomes[work.key]
        again = outcome.why.partition("again: ")[2] or work.again
        found.append({
            "job": work.name, "seed": work.arguments["seed"], "state": "passed" if outcome.done else outcome.state,
            "summary": outcome.value["summary"] if outcome.done else outcome.why, "seconds": outcome.seconds,
            "cached": outcome.cached, "again": again,
        })  # fmt: skip
    return found


def write_report(found: Sequence[dict[str, Any]], path: Path) -> None:
    """All jobs as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as out:
        out.write(json.dumps(list(found), indent=2).encode() + b"\n")
