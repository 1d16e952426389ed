# SPDX-License-Identifier: Apache-2.0
"""Bad input at the command line: one line that says what is wrong, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests/fixtures/upstream-a"
SHIPPED = ROOT / "models/stdlib-1m3"


def complaint(*arguments: str, status: int = 1) -> str:
    """The one line that a command leaves on standard error."""
    command = [sys.executable, "-c", "from nomul.host.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_billion_layers(tmp_path: Path):
    shutil.copytree(FIXTURE, tmp_path / "bad")
    config = json.loads((tmp_path / "bad/config.json").read_text())
    (tmp_path / "bad/config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**9}))
    assert "num_hidden_layers is 1000000000, but there are 50 tensors" in complaint(
        "import", str(tmp_path / "bad"), "-o", str(tmp_path / "x.nomul"))


def test_a_memory_beyond_its_region(tmp_path: Path):
    said = complaint("verilog", "-o", str(tmp_path), "--bytes-per-beat", "4096")
    assert "weight_beats of 8192 takes 33,554,432 bytes on chip" in said


def test_a_folder_where_a_file_belongs(tmp_path: Path):
    (tmp_path / "afile").write_text("")
    said = complaint("verilog", "-o", str(tmp_path / "afile/x"))
    assert "afile" in said


def test_a_pipe_as_model(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in complaint("info", str(tmp_path / "pipe"))


def test_a_model_beside_another_checkpoint(tmp_path: Path):
    """Its float weights are somewhere else: they are not mixed."""
    shutil.copytree(FIXTURE, tmp_path / "mixed")
    shutil.copy(SHIPPED / "model.nomul", tmp_path / "mixed")
    model = str(tmp_path / "mixed/model.nomul")
    (tmp_path / "text").write_text("import os\n")
    said = complaint("eval", model, str(tmp_path / "text"), "--engine", "float,golden")
    assert "float weights are not beside it" in said


def test_one_token_predicts_nothing(tmp_path: Path):
    np.save(tmp_path / "ids.npy", np.array([5]))
    said = complaint("eval", str(SHIPPED), "--ids", str(tmp_path / "ids.npy"), "--engine", "golden")
    assert "one token" in said


@pytest.mark.parametrize("setting", ["lr=nan", "seconds=inf"])
def test_a_recipe_that_is_no_number(tmp_path: Path, setting: str):
    pytest.importorskip("torch")
    said = complaint("train", "-o", str(tmp_path / "m"), "--device", "cpu", "--set", setting)
    assert "must be a finite number" in said
