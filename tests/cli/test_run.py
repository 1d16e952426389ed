# SPDX-License-Identifier: Apache-2.0
"""``nomul run`` and ``nomul eval`` on the simulated board."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from outcome import TESTS, Nomul

from nomul.host.cli.common import compile_for, load_any
from nomul.hw.build import tools
from nomul.model.tokenizer import BEGIN, ByteTokenizer
from nomul.sim.golden import Golden

PROMPT = "def read_lines(path):"


def golden_text(prompt: bytes, count: int, model: Path | None = None) -> str:
    loaded = load_any(None if model is None else str(model))
    golden = Golden(compile_for(loaded.model, engine="select", bytes_per_beat=36)[0])
    token, out = 0, []
    for given in (BEGIN, *prompt):
        token = int(golden.step(given)[0])
    for _ in range(count):
        out.append(token)
        token = int(golden.step(token)[0])
    assert BEGIN not in out  # there the text would end
    return ByteTokenizer().decode(out)


def test_greedy(nomul: Nomul):
    shown = nomul("run", PROMPT, "--tokens", 20)
    assert shown.status == 0, shown.err
    assert shown.out == PROMPT + golden_text(PROMPT.encode(), 20) + "\n"
    assert re.search(
        r"^[\d.]+ tokens/s on the simulated board \([\d,]+ cycles/s\); [\d,]+ cycles a token: "
        r"[\d,]+ tokens/s at a clock of 100 MHz \(modelled\)$", shown.err, re.M
    )  # fmt: skip


def test_ids(nomul: Nomul):
    text = nomul("run", PROMPT, "--tokens", 5, "--json").json
    given = " ".join(map(str, (BEGIN, *PROMPT.encode())))
    found = nomul("run", "--ids", given, "--tokens", 5, "--json").json
    assert found["ids"] == text["ids"]
    assert "text" not in found
    shown = nomul("run", "--ids", given.replace(" ", ", "), "--tokens", 5)
    assert shown.out.split() == [*given.split(), *map(str, text["ids"])]


def test_the_golden_model_in_a_board_s_place(nomul: Nomul, tiny: Path):
    shown = nomul("run", PROMPT, "--board", "golden", "--tokens", 20)
    assert shown.out == PROMPT + golden_text(PROMPT.encode(), 20) + "\n"
    assert re.search(r"^[\d.]+ tokens/s, golden model on this CPU$", shown.err, re.M)
    options = ("--model", tiny, "--tokens", 8, "--temperature", 1.5, "--seed", 7, "--json")
    golden = nomul("run", "import ", "--board", "golden", *options).json
    board = nomul("run", "import ", *options).json
    assert {k: golden[k] for k in ("text", "ids", "prompt_tokens")} == {
        k: board[k] for k in ("text", "ids", "prompt_tokens")}  # fmt: skip


def test_the_larger_model_in_its_tokens(nomul: Nomul):
    shown = nomul("run", PROMPT, "--model", TESTS.parent / "models/python-33m", "--board", "golden", "--tokens", 11)
    assert shown.out == PROMPT + "\n\n        # Strip the file's contents\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("1 x", "prompt: 'x' is no token id; they are 0 to 255"),
        ("256", "prompt: '256' is no token id; they are 0 to 255"),
        (" ", "prompt: no token ids; give at least one, as in --ids '1 450 3'"),
    ],
)
def test_ids_that_are_none(nomul: Nomul, given: str, message: str):
    refused = nomul("run", "--ids", given)
    assert refused.status == 1
    assert message in refused.err


def test_json(nomul: Nomul, tiny: Path):
    found = nomul("run", PROMPT, "--model", tiny, "--tokens", 5, "--json").json
    assert found["text"] == golden_text(PROMPT.encode(), 5, tiny)
    assert (found["tokens"], found["prompt_tokens"]) == (5, 1 + len(PROMPT))
    assert found["modelled_tokens_per_second_at_clock"] == round(
        found["clock_hz"] / found["cycles_per_token"]
    )


def test_sampled(nomul: Nomul, tiny: Path):
    def text(*options: object) -> str:
        options = ("--temperature", 1.5, "--top-k", 40, "--top-p", 0.95, *options)
        shown = nomul("run", "import ", "--model", tiny, "--tokens", 12, *options, "--json")
        assert shown.status == 0, shown.err
        return shown.json["text"]

    assert text("--seed", 7) == text("--seed", 7)
    assert text("--seed", 7) != text("--seed", 8)


def test_the_largest_logit_is_the_greedy_choice(nomul: Nomul, tiny: Path):
    options = ("--model", tiny, "--temperature", 0.7, "--top-k", 1, "--tokens", 6, "--json")
    found = nomul("run", PROMPT, *options).json
    assert found["text"] == golden_text(PROMPT.encode(), 6, tiny)


def test_lone_bytes(nomul: Nomul, tiny: Path):
    raw = b"# caf\xe9 \xff\xc3"  # the last is half a character
    shown = nomul("run", os.fsdecode(raw), "--model", tiny, "--tokens", 3)
    assert shown.status == 0, shown.err
    assert shown.out.startswith("# caf\N{REPLACEMENT CHARACTER} \N{REPLACEMENT CHARACTER}")
    found = nomul("run", os.fsdecode(raw), "--model", tiny, "--tokens", 3, "--json").json
    assert found["text"] == golden_text(raw, 3, tiny)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([""], "the prompt is empty; give at least one character"),
        (["a\ud800"], "lone surrogate at position 1"),
        (["a", "--board", "/dev/nonexistent"], "/dev/nonexistent: does not open (no such file"),
        (["a", "--board", "/dev/null"], "/dev/null: does not open"),
        (["a", "--model", "nothing.nomul"], "nothing.nomul: no such file or folder"),
        (["a", "--temperature", "-1"], "temperature is -1.0; it must be 0 or more"),
        (["a", "--top-p", "0"], "top-p is 0.0; it must lie above 0"),
        (["a", "--top-k", "-3"], "top-k is -3; it must be 0 (all) or more"),
        (["a", "--bytes-per-beat", "6"], "bytes_per_beat is 6; it must be a multiple of 4"),
    ],
)
def test_what_can_not_be_run(nomul: Nomul, arguments: list[str], part: str):
    assert part in nomul("run", *arguments).failed()


def test_a_silent_port(nomul: Nomul):
    board, port = pty.openpty()
    try:
        begin = time.monotonic()
        line = nomul("run", "a", "--board", os.ttyname(port)).failed()
        assert re.search(r"board: no answer to OPEN within 4 s", line)
        assert time.monotonic() - begin < 10
    finally:
        os.close(board)
        os.close(port)


def test_a_missing_compiler(nomul: Nomul, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The Verilog is there, the board is not compiled, and there is no g++ on the machine."""
    nomul("verilog", "-o", tmp_path / "verilog")
    (tmp_path / "bin").mkdir()
    monkeypatch.setattr("nomul.sim.verilate.build_folder", lambda *parts: tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    tools.tool.cache_clear()
    try:
        line = nomul("run", "a").failed()
    finally:
        tools.tool.cache_clear()
    assert line == "nomul: g++ is not installed: run apt-get install g++"


# Processes of their own

#: The command, as a terminal would start it: whoever runs tests in the background has interrupts ignored.
INTERRUPTIBLE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from nomul.host.cli import main; main()"
)


@pytest.fixture
def running(tiny: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``nomul run`` on a long job, its first tokens already there."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "run", PROMPT, "--model", str(tiny), "--tokens", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        got = b""
        while len(got) < len(PROMPT) + 3:
            chunk = process.stdout.read(64)
            assert chunk, process.stderr.read()
            got += chunk
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_board_that_dies(running: subprocess.Popen[bytes]):
    (board,) = children(running.pid)
    begin = time.monotonic()
    os.kill(board, signal.SIGKILL)
    _, err = running.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert running.returncode == 1
    (line,) = err.decode().strip().splitlines()
    assert re.match(r"nomul: (/dev/pts/\d+: the board is gone|simulated board: it has ended)", line)


def test_an_interrupt(running: subprocess.Popen[bytes]):
    (board,) = children(running.pid)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert b"Traceback" not in err
    assert not Path(f"/proc/{board}").exists()


def test_a_long_prompt_can_be_interrupted():
    """100,000 tokens take the simulated board many minutes; it can be left at any time.

    That all of such a prompt arrives, in order, is tested on a stand-in core, which takes a few
    cycles a token: ``tests/link/test_driver.py``.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "run", "x" * 100_000, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not children(process.pid):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        (board,) = children(process.pid)
        time.sleep(2)  # the image is loaded, or being loaded, or the prompt is being read
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert out == b""
        assert b"Traceback" not in err
        assert not Path(f"/proc/{board}").exists()
    finally:
        process.kill()
        process.communicate()


# eval


def test_the_board_and_golden_are_one(nomul: Nomul, tiny: Path, tmp_path: Path):
    ids = tmp_path / "ids.npy"
    np.save(ids, np.arange(40, dtype=np.uint8) * 6)
    outputs = [tmp_path / f"{name}.npz" for name in ("golden", "sim")]
    first = nomul(
        "eval", tiny, "--ids", ids, "--engine", "golden,sim", "--logits", outputs[0], "--json"
    )
    assert first.status == 0, first.err
    assert first.json["agreement"] == first.json["bits_ratio"] == 1
    assert nomul("eval", tiny, "--ids", ids, "--engine", "sim", "--logits", outputs[1]).status == 0
    a, b = (np.load(path)["logits"] for path in outputs)
    np.testing.assert_array_equal(a, b)
    assert json.loads(first.out)["tokens"] == 40
