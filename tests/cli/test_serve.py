# SPDX-License-Identifier: Apache-2.0
"""``nomul serve``: a server as a user starts it, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from outcome import Nomul
from test_run import golden_text

COMMAND = "import sys; from nomul.host.cli import main; sys.argv[0] = 'nomul'; main()"


@contextmanager
def serving(log: Path, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The command, in a process of its own, and where it listens."""
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "serve", "--port", "0", *map(str, arguments)], stderr=out
        )
        try:
            end = time.monotonic() + 800  # a simulated board may have to be compiled
            while not (found := re.search(r" at (http://\S+) ", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
            yield found[1], process
        finally:
            process.kill()
            process.wait()


def ask(url: str, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return dict(json.load(response))


@pytest.mark.timeout(1000)
def test_the_shipped_model_on_the_simulated_board(tmp_path: Path):
    log = tmp_path / "log"
    with serving(log) as (url, process):
        assert re.search(r"^serving stdlib-1m3 at http://127\.0\.0\.1:\d+ \(simulated board, 1 lane\)$",
                         log.read_text(), re.M)  # fmt: skip
        found = ask(url, {"model": "stdlib-1m3", "prompt": "import ", "max_tokens": 12, "temperature": 0})
        assert found["choices"][0]["text"] == golden_text(b"import ", 12)
        warm = {"model": "stdlib-1m3", "prompt": "import ", "max_tokens": 6, "seed": 5, "n": 2}
        assert ask(url, warm)["choices"] == ask(url, warm)["choices"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert log.read_text().endswith("\nended\n")


@pytest.mark.timeout(1000)
def test_a_model_over_two_simulated_boards(tmp_path: Path, two_layers: Path):
    given = ("--board", "sim,sim", "--weights", "native", "--model", two_layers)
    with serving(tmp_path / "log", *given) as (url, _):
        assert "2 simulated boards" in (tmp_path / "log").read_text()
        body = {"model": two_layers.name, "prompt": "import ", "max_tokens": 12, "temperature": 0}
        assert ask(url, body)["choices"][0]["text"] == golden_text(b"import ", 12, two_layers)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish(tmp_path: Path, tiny: Path, how: signal.Signals):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    given = ("--board", "golden", "--model", tiny, "--token-file", file, "--max-prompt", 5)
    with serving(tmp_path / "log", *given) as (url, process):
        host, port = url.removeprefix("http://").split(":")
        body = json.dumps({"model": tiny.name, "prompt": "abc", "max_tokens": 100, "temperature": 0}).encode()
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                b"Authorization: Bearer s3cret\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            time.sleep(0.3)
            process.send_signal(how)
            answer = connection.makefile("rb").read()
        assert json.loads(answer.splitlines()[-1])["choices"][0]["text"] == golden_text(b"abc", 100, tiny)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_refusals(nomul: Nomul, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    empty, binary = tmp_path / "empty", tmp_path / "binary"
    empty.write_text(" \n")
    binary.write_bytes(b"\xff\xfe")
    rule = "a token is one line of printable ASCII without spaces, and not empty"
    assert nomul("serve", "--token-file", empty).failed() == f"nomul: {empty}: {rule}"
    assert nomul("serve", "--token-file", binary).failed() == f"nomul: {binary}: no text; write the token on one line"
    none = tmp_path / "none"
    assert nomul("serve", "--token-file", none).failed() == f"nomul: {none}: No such file or directory"
    monkeypatch.setenv("NOMUL_TOKEN", "two words")
    assert nomul("serve").failed() == f"nomul: NOMUL_TOKEN: {rule}"
    monkeypatch.delenv("NOMUL_TOKEN")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert nomul("serve", "--port", port).failed() == (
            f"nomul: --host 127.0.0.1 --port {port}: Address already in use; choose another address or port"
        )
    assert "no.such.host" in nomul("serve", "--host", "no.such.host.invalid").failed()
    assert "no such file" in nomul("serve", "--model", tmp_path / "none").failed()
    for option in ("--port", "--queue", "--max-prompt", "--max-tokens"):
        refused = nomul("serve", option, -1)
        assert (refused.status, refused.out) == (2, "")
        assert option in refused.err
