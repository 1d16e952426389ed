# SPDX-License-Identifier: Apache-2.0
"""``nomul board``, and ``nomul run`` on what it offers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcome import Nomul

CODE = "from nomul.host.cli import main; main()"
PROMPT = "import "


@pytest.fixture
def offered() -> Iterator[str]:
    """The name of a simulated board that another process offers."""
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "board", "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


def test_run_over_tcp(nomul: Nomul, tiny: Path, offered: str):
    options = ("run", PROMPT, "--model", tiny, "--tokens", 6, "--json")
    there = nomul(*options, "--board", offered)
    assert there.status == 0, there.err
    here = nomul(*options)
    assert there.json["ids"] == here.json["ids"]
    assert there.json["board"] == offered


def test_stop(nomul: Nomul, tiny: Path):
    whole = nomul("run", PROMPT, "--model", tiny, "--tokens", 12, "--json").json
    text = whole["text"]
    stop = text[3:5]
    cut = text.index(stop)
    options = ("--model", tiny, "--tokens", 12, "--stop", "no such text", "--stop", stop)
    found = nomul("run", PROMPT, *options, "--json").json
    assert found["text"] == text[:cut]
    assert found["ids"] == whole["ids"][: len(found["ids"])]
    assert len(found["ids"]) < 12
    assert nomul("run", PROMPT, *options).out == PROMPT + text[:cut] + "\n"


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["run", "--ids", "1", "--stop", "x"], 2, "--stop with --ids: there is no text to stop at"),
        (["run", "a", "--stop", ""], 2, "--stop is empty; give at least one character"),
        (["run", "a", "--board", "tcp://x"], 1, "tcp://x: is no address; write tcp://HOST:PORT"),
        (["run", "a", "--board", "tcp://127.0.0.1:1"], 1, "tcp://127.0.0.1:1: does not open (connection refused)"),
        (["board", "--board", "/dev/null", "--listen", "x"], 1, "x: is no address; write tcp://HOST:PORT"),
    ],
)
def test_what_can_not_be(nomul: Nomul, arguments: list[str], status: int, part: str):
    found = nomul(*arguments)
    assert found.status == status
    assert part in found.err
