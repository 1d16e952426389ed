# SPDX-License-Identifier: Apache-2.0
"""A job: what is called with what, its key, its limit; and how a worker does it, in a process group of its own."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.files import canonical_json

from .cache import Cache

__all__ = ["Outcome", "Work", "content_key", "main", "perform"]

_GRACE_S = 10.0  # for a child that was killed to be gone
_WATCH_S = 0.5


def content_key(what: dict[str, Any]) -> str:
    """SHA-256 of what a result depends on, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(what)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job.

    Attributes
    ----------
    name : str
        For people.
    call : str
        ``module:function``; it takes ``arguments`` by keyword and returns what JSON can say.
    arguments : dict
        What JSON can say.
    key : str
        By which its result is kept: :func:`content_key` of all that it depends on.
    limit_s : float
        Wall-clock seconds after which it is ended, with every process that it began.
    after : str or None
        Key of a job that must have been done before.
    again : str
        The command that does it alone.
    """

    name: str
    call: str
    arguments: dict[str, Any]
    key: str
    limit_s: float
    after: str | None = None
    again: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes
    ----------
    state : str
        ``"done"``, ``"failed"``, ``"ended"`` (it took too long) or ``"skipped"`` (what it waits for failed).
    value : Any
        What the call returned, if it is done.
    why : str
        One line, if it is not.
    seconds : float
        Wall clock of the call and its process; 0 from the cache.
    cached : bool
    worker : str
        Where.
    """

    state: str
    value: Any = None
    why: str = ""
    seconds: float = 0.0
    cached: bool = False
    worker: str = field(default="", compare=False)

    @property
    def done(self) -> bool:
        """It has a value."""
        return self.state == "done"


def perform(work: dict[str, Any], cache: str, before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Does a job on a worker: from the cache there, else in a child process, whose result is kept.

    Parameters
    ----------
    work : dict
        Fields of :class:`Work`.
    cache : str
        Folder of the cache; it may be another on every machine.
    before : dict, optional
        Fields of the :class:`Outcome` of what it waits for.

    Returns
    -------
    dict
        Fields of the :class:`Outcome`.
    """
    job = Work(**work)
    if before is not None and before["state"] != "done":
        return asdict(Outcome(state="skipped", why=f"what it waits for was {before['state']}: {before['why']}"))
    kept = Cache(Path(cache))
    with contextlib.suppress(NomulError):  # the folder may be nothing for this machine: who asked keeps the result too
        found = kept.get(job.key)
        if found is not None:
            return asdict(Outcome(state="done", value=found, cached=True))
    outcome = _child(job)
    if outcome.done:
        with contextlib.suppress(NomulError):
            kept.put(job.key, job.name, outcome.value)
    return asdict(outcome)


def _child(job: Work) -> Outcome:
    where = f"{os.uname().nodename}:{os.getpid()}"
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nomul-job-") as folder:
        result, log = Path(folder) / "result.json", Path(folder) / "log"
        order = {"call": job.call, "arguments": job.arguments, "result": str(result)}
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=output, stderr=output,
                start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            assert process.stdin is not None
            try:
                with process.stdin:
                    process.stdin.write(json.dumps(order).encode())
                status = process.wait(job.limit_s)
            except subprocess.TimeoutExpired:
                return Outcome(
                    state="ended", why=f"ran longer than {job.limit_s:g} s", worker=where,
                    seconds=round(time.monotonic() - begin, 3),
                )  # fmt: skip
            except BrokenPipeError:
                status = process.wait(_GRACE_S)
            finally:
                _end_group(process)
        seconds = round(time.monotonic() - begin, 3)
        if result.is_file():
            said = json.loads(result.read_text())
            if "error" in said:
                return Outcome(state="failed", why=said["error"], seconds=seconds, worker=where)
            return Outcome(state="done", value=said["value"], seconds=seconds, worker=where)
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1]}" if lines else ""
        return Outcome(
            state="failed", why=f"its process ended with status {status}{last}", seconds=seconds, worker=where
        )


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the child and whatever it began and left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_GRACE_S)


def _watch(parent: int) -> None:
    """Ends this process group when the worker is gone: nobody would take the result."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os.killpg(0, signal.SIGKILL)


def main() -> int:
    """The child: reads its order from standard input, writes its result beside its log."""
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    order = json.load(sys.stdin)
    said: dict[str, Any]
    try:
        module, name = order["call"].split(":")
        said = {"value": getattr(importlib.import_module(module), name)(**order["arguments"])}
        text = json.dumps(said)
    except NomulError as error:
        text = json.dumps({"error": str(error)})
    except Exception as error:
        traceback.print_exc()
        text = json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
    result = Path(order["result"])
    part = result.with_suffix(".part")
    part.write_text(text)
    part.replace(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
