# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.explore.bench``: what jobs cost beyond their work, and what a second worker gives; JSON.

Jobs that do nothing, jobs that wait, tasks of Dask alone, results from the cache; with ``--engines`` four engines that
are synthesised and routed for real. Everything is made anew for each number of workers. The load of the machine is
told with it: what other programs take is in the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Client

from nomul.model.errors import NomulError

from . import idle
from .cache import Cache
from .cluster import connect
from .explore import explore, plan, write
from .farm import farm
from .sweep import read_sweep
from .work import Work, content_key

__all__ = ["main", "measured"]

_EMPTY, _TASKS = 12, 200
_WAITING, _WAIT_S = 8, 1.0
_LIMIT_S = 600
# Of accumulators, all in a memory of 256: engines that differ hardly, and that nobody has synthesised before.
_TILES = range(130, 252, 2)
_ENGINES = """
scope = "engine"
board = "lfe5u-25f"
models = "180x540x3x256"
engine = ["table", "select"]
trits = 20
tile = {tiles}
limit_s = 1800
"""


def _job(call: str, number: int, **more: Any) -> Work:
    arguments = {"number": number, **more}
    return Work(
        name=f"{call} {number}", call=f"{idle.__name__}:{call}", arguments=arguments,
        key=content_key({"call": call, **arguments}), limit_s=_LIMIT_S,
    )  # fmt: skip


@contextmanager
def _timed(found: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    found[name] = round(time.monotonic() - begin, 3)


def _farmed(client: Client, works: Sequence[Work], cache: Cache) -> None:
    for outcome in farm(client, works, cache).values():
        if not outcome.done:
            raise NomulError(f"bench: a job was not done: {outcome.why}")


def measured(workers: int, *, engines: bool, folder: Path) -> dict[str, Any]:
    """Seconds with so many workers.

    Parameters
    ----------
    workers : int
    engines : bool
        Synthesise and route too.
    folder : Path
        Empty.

    Returns
    -------
    dict
        ``seconds`` by what was done, ``per_empty_job``, ``per_task`` of Dask alone.
    """
    seconds: dict[str, float] = {}
    cache, empty = Cache(folder / "cache"), [_job("nothing", k) for k in range(_EMPTY)]
    begin = time.monotonic()
    with connect(None, workers) as client:
        client.gather(client.map(idle.nothing, range(workers), pure=False))
        seconds["start of the cluster"] = round(time.monotonic() - begin, 3)
        with _timed(seconds, f"{_EMPTY} empty jobs"):
            _farmed(client, empty, cache)
        with _timed(seconds, f"{_WAITING} jobs that wait {_WAIT_S:g} s"):
            _farmed(client, [_job("waits", k, seconds=_WAIT_S) for k in range(_WAITING)], cache)
        with _timed(seconds, f"{_TASKS} tasks of Dask alone"):
            client.gather(client.map(idle.nothing, range(_TASKS), pure=False))
        with _timed(seconds, f"{_EMPTY} results from the cache"):
            _farmed(client, empty, cache)
    if engines:
        tiles = random.SystemRandom().sample(_TILES, 2)
        (folder / "engines.toml").write_text(_ENGINES.format(tiles=tiles))
        chosen = plan(read_sweep(folder / "engines.toml"), exhaustive=True)
        with _timed(seconds, "4 engines synthesised and routed, with the cluster and all files"):
            with connect(None, workers) as client:
                made = explore(chosen, client, Cache(folder / "routed"))
            write(made, folder / "out")
        if made.summary["failed"]:
            raise NomulError(f"bench: engines were not done: {made.summary['failures'][0]['why']}")
    return {
        "workers": workers,
        "seconds": seconds,
        "per_empty_job": round(seconds[f"{_EMPTY} empty jobs"] * workers / _EMPTY, 3),
        "per_task": round(seconds[f"{_TASKS} tasks of Dask alone"] * workers / _TASKS, 4),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--engines", action="store_true", help="Synthesise and route four engines too: minutes.")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {
        "machine": {
            "processors": len(os.sched_getaffinity(0)), "python": platform.python_version(),
            "load_before": round(os.getloadavg()[0], 2),
        },
        "runs": [],
    }  # fmt: skip
    try:
        for workers in asked.workers:
            if not 1 <= workers <= 256:
                raise NomulError(f"bench: --workers {workers}; it must be 1 to 256")
            with tempfile.TemporaryDirectory(prefix="nomul-bench-") as folder:
                found["runs"].append(measured(workers, engines=asked.engines, folder=Path(folder)))
    except NomulError as error:
        print(error, file=sys.stderr)
        return 1
    first = found["runs"][0]
    for run in found["runs"][1:]:
        run["speed_up"] = {
            name: round(first["seconds"][name] / own, 2) for name, own in run["seconds"].items() if own > 0
        }
    found["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
