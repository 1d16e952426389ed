# SPDX-License-Identifier: Apache-2.0
"""An import that ends early leaves what was there before, and one line."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from outcome import UPSTREAM, Nomul

from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import write_random_checkpoint

OLD = b"an older model"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A file to be replaced, alone in its folder."""
    file = tmp_path / "models" / "a.nomul"
    file.parent.mkdir()
    file.write_bytes(OLD)
    return file


def in_a_child(before: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, after some statements."""
    code = f"{before}\nfrom nomul.host.cli import main\nmain()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def left(output: Path) -> None:
    assert output.read_bytes() == OLD
    assert [file.name for file in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("room", [0, 1000, 100_000])
def test_no_room(output: Path, room: int):
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))"
    done = in_a_child(limit, "import", UPSTREAM, "-o", output)
    assert done.returncode == 1
    assert done.stderr == f"nomul: {output}: file too large; free some space\n"
    assert done.stdout == ""
    left(output)


def test_disk_that_is_full_when_the_file_is_put_together(
    nomul: Nomul, output: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    line = nomul("import", UPSTREAM, "-o", output).failed()
    assert line == f"nomul: {output}: no space left on device; free some space"
    left(output)


def test_killed(output: Path):
    kill = f"""
import os, itertools
from nomul.host.cli import models
whole = models.fold_parts
def some(source):
    yield from itertools.islice(whole(source), 20)
    os.kill(os.getpid(), {int(signal.SIGKILL)})
models.fold_parts = some
"""
    done = in_a_child(kill, "import", UPSTREAM, "-o", output)
    assert done.returncode == -signal.SIGKILL
    left(output)


def test_weights_that_are_not_finite_are_found_midway(nomul: Nomul, output: Path, tmp_path: Path):
    folder = tmp_path / "checkpoint"
    write_random_checkpoint(
        folder, Geometry(hidden=8, intermediate=8, layers=2, vocab=8), seed=1, shards=2
    )
    last = folder / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-2] + np.array(0x7FC0, "<u2").tobytes())
    line = nomul("import", folder, "-o", output).failed()
    assert line.startswith(f"nomul: {last}: tensor lm_head.norm.weight holds nan at [7]")
    left(output)


def test_a_device_is_not_replaced(nomul: Nomul):
    line = nomul("import", UPSTREAM, "-o", "/dev/full").failed()
    assert line.startswith("nomul: /dev/full: is a device or pipe")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_shards_give_what_one_file_gives(nomul: Nomul, tmp_path: Path):
    geometry = Geometry(hidden=24, intermediate=20, layers=2, vocab=30)
    made = []
    for shards in (None, 3):
        folder = tmp_path / str(shards) / "name"
        write_random_checkpoint(folder, geometry, seed=2, shards=shards)
        assert nomul("import", folder, "-o", tmp_path / "a.nomul").status == 0
        facts = nomul("info", tmp_path / "a.nomul", "--json").json
        assert len(facts.pop("source")) == 64  # the files differ, the model does not
        made.append(facts)
    assert made[0] == made[1]
