# SPDX-License-Identifier: Apache-2.0
"""A load test of the server: ``python -m nomul.host.serve.bench_load --clients 64 --seconds 600``.

Starts ``nomul serve --board golden`` with a small random model in a process of its own. Each client asks, waits and
asks again: whole answers and streams, greedy and sampled, with stop strings, and now and then it goes away in the
middle. Every answer is compared with the golden model of one lane.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nomul.host.cli.common import compile_for, load_any
from nomul.host.sampling import Sampler
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import write_random_checkpoint
from nomul.model.tokenizer import ByteTokenizer
from nomul.sim.golden import Golden

from .text import Growing

__all__ = ["load"]

_GEOMETRY = Geometry(hidden=24, intermediate=20, layers=1, vocab=256)
_KINDS = 96  # different requests
_WAIT_S = 60.0  # for an answer, however many wait before
_GOES_AWAY = 0.05  # so many requests are left in the middle
_SAMPLES = 10  # of the server's memory


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A request and the text that it must give."""

    body: dict[str, Any]
    text: str
    reason: str | None


def _kinds(folder: Path, rng: random.Random) -> list[_Kind]:
    """Requests whose texts differ, by the golden model of one lane."""
    image, _ = compile_for(load_any(str(folder)).model, engine="select", bytes_per_beat=36)
    golden, coder = Golden(image), ByteTokenizer()
    kinds: dict[str, _Kind] = {}
    while len(kinds) < _KINDS:
        prompt = "".join(rng.choices("abcdefgh (:=\n", k=rng.randrange(1, 24)))
        count, seed = rng.randrange(8, 40), rng.randrange(1 << 40)
        sampler = Sampler(temperature=rng.choice([0.0, 0.0, 0.7, 1.2]))
        stops = [rng.choice("aeiou") * rng.randrange(1, 3)] if rng.random() < 0.3 else []
        golden.reset()
        for token in (coder.begin, *prompt.encode()):
            golden.step(token)
        text, draws = "", np.random.default_rng(seed)
        growing = Growing(coder.decoder(), count=count, end=coder.end, stops=stops)
        while growing.finish_reason is None:
            token = sampler.choose(golden.logits[0] * golden.logit_scale[0], draws)
            text += growing.feed(token)
            golden.step(token)
        body = {
            "prompt": prompt, "max_tokens": count, "temperature": sampler.temperature, "seed": seed, "stop": stops,
        }  # fmt: skip
        if len(text) > 4:
            kinds[text] = _Kind(body=body, text=text, reason=growing.finish_reason)
    return [*kinds.values()]


@contextmanager
def _server(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server for a model, and its port."""
    command = "import sys; from nomul.host.cli import main; sys.argv[0] = 'nomul'; main()"
    with tempfile.TemporaryFile("w+") as log:  # nobody would read a pipe, and a full one stops the server
        process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", "--board", "golden", "--model", str(folder), "--port", "0"],
            stderr=log,
        )  # fmt: skip
        try:
            end = time.monotonic() + _WAIT_S
            while True:
                log.seek(0)
                said = log.read()
                found = re.search(r" at http://127\.0\.0\.1:(\d+) ", said)
                if found is not None:
                    break
                if process.poll() is not None or time.monotonic() > end:
                    raise NomulError(f"load test: the server does not begin: {said.strip()[-200:]}")
                time.sleep(0.05)
            yield int(found[1]), process
        finally:
            process.kill()
            process.wait()


def _resident(process: subprocess.Popen[bytes]) -> float:
    """Resident memory in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (size,) = re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.M)
    return round(int(size) / 1024, 1)


class _Client:
    """One of many."""

    model = "small"

    def __init__(self, port: int, kinds: list[_Kind], rng: random.Random):
        self.counts: Counter[str] = Counter()
        self.first_wrong: str | None = None
        self._port = port
        self._kinds = kinds
        self._texts = {kind.text for kind in kinds}
        self._rng = rng
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_WAIT_S)

    def work(self, end: float) -> None:
        """Asks again and again until then."""
        while time.monotonic() < end:
            kind, stream = self._rng.choice(self._kinds), self._rng.random() < 0.5
            leaves = stream and self._rng.random() < 2 * _GOES_AWAY
            self.counts["requests"] += 1
            try:
                self._ask(kind, stream=stream, leaves=leaves)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.counts["lost"] += 1
                self.first_wrong = self.first_wrong or f"{type(error).__name__}: {error}"
                self._connection.close()
        self._connection.close()

    def _ask(self, kind: _Kind, *, stream: bool, leaves: bool) -> None:
        raw = json.dumps({**kind.body, "model": self.model, "stream": stream})
        while True:
            self._connection.request("POST", "/v1/completions", raw, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            if response.status != 429:
                break
            response.read()
            self.counts["turned_away"] += 1
            time.sleep(float(response.headers["Retry-After"]))
        if response.status != 200:
            raise ValueError(f"HTTP {response.status}: {response.read()[:200]!r}")
        text, reason, done = "", None, not stream
        if stream:
            for line in response:
                if leaves and line.startswith(b"data: {"):
                    self.counts["went_away"] += 1
                    self._connection.close()
                    return
                if line == b"data: [DONE]\n":
                    done = True
                elif line.startswith(b"data: "):
                    (choice,) = json.loads(line[6:])["choices"]
                    text += choice["text"]
                    reason = choice["finish_reason"]
        else:
            answer = json.loads(response.read())
            (choice,) = answer["choices"]
            text, reason = choice["text"], choice["finish_reason"]
        if not done:
            raise ValueError("the stream ended early")
        if (text, reason) == (kind.text, kind.reason):
            self.counts["equal"] += 1
        else:
            self.counts["mixed_up" if text in self._texts else "wrong"] += 1
            self.first_wrong = self.first_wrong or f"{kind.body} gave {text!r}, not {kind.text!r}"


def _metric(port: int, name: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_WAIT_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (value,) = re.findall(rf"^{name} (\S+)$", text, re.M)
    return float(value)


def load(*, clients: int, seconds: float, seed: int = 1) -> dict[str, Any]:
    """Runs it.

    Returns
    -------
    dict
        ``requests`` is the sum of ``equal``, ``went_away``, ``lost``, ``mixed_up`` (the text of another request) and
        ``wrong`` (of none); ``rss_mb`` is the server's memory before the load and at ten times in it.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="nomul-") as name:
        folder = Path(name) / _Client.model
        write_random_checkpoint(folder, _GEOMETRY, seed=seed)
        kinds = _kinds(folder, rng)
        with _server(folder) as (port, process):
            memory = [_resident(process)]
            begin = time.monotonic()
            end = begin + seconds
            workers = [_Client(port, kinds, random.Random(rng.random())) for _ in range(clients)]
            threads = [threading.Thread(target=worker.work, args=(end,), daemon=True) for worker in workers]
            for thread in threads:
                thread.start()
            for k in range(1, _SAMPLES + 1):
                time.sleep(max(0.0, begin + seconds * k / _SAMPLES - time.monotonic()))
                memory.append(_resident(process))
            for thread in threads:
                thread.join(2 * _WAIT_S)
            took = time.monotonic() - begin
            tokens, steps = _metric(port, "nomul_generated_tokens_total"), _metric(port, "nomul_steps_total")
            in_lanes, lanes = _metric(port, "nomul_lane_tokens_total"), _metric(port, "nomul_lanes")
            process.send_signal(signal.SIGTERM)
            try:
                status = process.wait(_WAIT_S)
            except subprocess.TimeoutExpired:
                status = None
    counts = sum((worker.counts for worker in workers), Counter[str]())
    return {
        "clients": clients, "lanes": int(lanes), "seconds": round(took, 1), "seed": seed, "kinds": len(kinds),
        **{
            key: counts[key]
            for key in ("requests", "equal", "went_away", "lost", "mixed_up", "wrong", "turned_away")
        },
        "first_wrong": next((w.first_wrong for w in workers if w.first_wrong), None),
        "tokens": int(tokens), "tokens_per_second": round(tokens / took, 1),
        "lanes_used": round(in_lanes / max(1.0, steps) / lanes, 3), "rss_mb": memory, "exit_status": status,
    }  # fmt: skip


def main() -> int:
    """The command; its exit status is 0 if every answer was right."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.host.serve.bench_load", description="A load test of nomul serve; prints JSON."
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.clients < 1 or not 0 < given.seconds < float("inf"):
        parser.error("--clients must be at least 1, --seconds above 0")
    try:
        found = load(clients=given.clients, seconds=given.seconds, seed=given.seed)
    except NomulError as error:
        print(f"nomul: {error}", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2))
    right = found["equal"] + found["went_away"] == found["requests"] > 0
    return 0 if right and found["exit_status"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
