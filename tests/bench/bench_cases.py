# SPDX-License-Identifier: Apache-2.0
"""What the bench's tests share: a small model, a bench of it without a board, and the command line."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from nomul.host.bench.session import Settings, bench
from nomul.host.cli import main
from nomul.model.checkpoint import write_checkpoint
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint

GEOMETRY = Geometry(hidden=24, intermediate=20, layers=1, vocab=256)


def write_tiny(folder: Path) -> Path:
    """A checkpoint of a random byte model that fits the released core."""
    source = random_checkpoint(GEOMETRY, 9)
    write_checkpoint(folder, source.config, source._tensors)
    return folder


@cache
def _cpu_bench(model: Path) -> str:
    settings = Settings(
        model=str(model), board_too=False, clock_mhz=100, prompts=(2, 3), outputs=(4,), repeat=2
    )
    return json.dumps(bench(settings, command="nomul bench"))


def cpu_bench(model: Path) -> dict[str, Any]:
    """A bench of the CPU alone; a copy each time."""
    return json.loads(_cpu_bench(model))


@dataclass(frozen=True)
class Outcome:
    """What a command left."""

    status: int
    out: str
    err: str


def nomul(*arguments: object) -> Outcome:
    """The command line's entry point, in this process."""
    out, err, status, before = io.StringIO(), io.StringIO(), 0, sys.argv
    sys.argv = ["nomul", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    return Outcome(status, out.getvalue(), err.getvalue())
