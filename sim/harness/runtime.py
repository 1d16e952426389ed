# SPDX-License-Identifier: Apache-2.0
"""Verilator's own runtime, compiled once for all units: it takes 11 s of processor time, the model of a unit 2."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

from nomul.hw.build.tools import build_folder, verilator_environment, versions

__all__ = ["keep_runtime", "runtime_flags"]

_OBJECTS = "verilated*.o"


def _kept() -> Path:
    """Where it lies, for these versions of the tools in this place."""
    root = verilator_environment()["VERILATOR_ROOT"]
    key = hashlib.sha256(f"{root}{sorted(versions().items())}".encode()).hexdigest()
    return build_folder("verilator") / f"runtime-{key[:16]}"


def runtime_flags() -> str:
    """Variables of make that link what is kept instead of compiling it; none if nothing is kept yet."""
    objects = sorted(_kept().glob(_OBJECTS))
    if not objects or any(" " in str(path) for path in objects):  # make's lists are split at spaces
        return ""
    return f" VM_GLOBAL_FAST= VM_GLOBAL_SLOW= LOADLIBES={objects[0].parent}/{_OBJECTS}"


def keep_runtime(folder: Path) -> None:
    """Keeps what was compiled in a model's folder, if it was and nobody did before."""
    kept = _kept()
    objects = sorted(folder.glob(_OBJECTS))
    if kept.is_dir() or not objects:
        return
    part = Path(tempfile.mkdtemp(dir=kept.parent))
    for path in objects:
        shutil.copyfile(path, part / path.name)
    try:
        part.rename(kept)
    except OSError:  # another process was first
        shutil.rmtree(part)
