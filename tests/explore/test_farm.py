# SPDX-License-Identifier: Apache-2.0
"""Jobs in Dask: faults of workers, jobs, caches and schedulers, with real processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster

from nomul.host.explore import bench
from nomul.host.explore import cluster as clusters
from nomul.host.explore.cache import Cache
from nomul.host.explore.cluster import connect
from nomul.host.explore.farm import farm
from nomul.host.explore.work import Outcome, Work, content_key
from nomul.model.errors import NomulError

HERE = Path(__file__).parent
pytestmark = [
    # Dask leaves sockets and loops of workers that were killed to the collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
]


def job(call: str, *, limit_s: float = 30.0, after: Work | None = None, **arguments: object) -> Work:
    return Work(
        name=f"{call} {arguments}", call=f"stub_jobs:{call}", arguments=dict(arguments), limit_s=limit_s,
        key=content_key({"call": call, **arguments}), after=None if after is None else after.key,
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: object, limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers."""
    with connect(None, 2) as found:
        yield found


def nobody() -> Client:
    raise AssertionError("there is nothing to do")


def test_results_are_kept_and_shared(client: Client, tmp_path: Path):
    folder = tmp_path / "calls"
    folder.mkdir()
    cache = Cache(tmp_path / "cache")
    works = [job("counted", number=k, folder=str(folder)) for k in range(4)]
    seen: list[tuple[str, int, int]] = []
    first = farm(client, works, cache, seen=lambda work, out, n, of: seen.append((work.name, n, of)))
    assert [first[work.key].value for work in works] == [0, 1, 4, 9]
    assert [(n, of) for _, n, of in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # A second run, and one that overlaps, cost what is new.
    assert all(outcome.cached for outcome in farm(nobody, works, Cache(tmp_path / "cache")).values())
    more = [*works[2:], job("counted", number=7, folder=str(folder))]
    assert [farm(client, more, cache)[work.key].value for work in more] == [4, 9, 49]
    assert len(list(folder.iterdir())) == 5


def test_a_worker_killed_in_mid_job_loses_nothing(client: Client, tmp_path: Path):
    works = [job("slow", number=k, folder=str(tmp_path), seconds=1.5) for k in range(4)]
    found: dict[str, Outcome] = {}
    thread = threading.Thread(
        target=lambda: found.update(farm(client, works, Cache(tmp_path / "cache")))
    )
    thread.start()
    until(lambda: any(path.name.count("-") == 2 for path in tmp_path.iterdir()))
    _, child, worker = next(path.name for path in tmp_path.iterdir() if path.name.count("-") == 2).split("-")
    os.kill(int(worker), signal.SIGKILL)
    thread.join(90)
    assert not thread.is_alive()
    assert [found[work.key].value for work in works] == [0, 1, 4, 9]
    until(lambda: not alive(int(child)))
    begun = [path.name for path in tmp_path.iterdir() if path.name.count("-") == 2]
    assert len(begun) == 5  # the one that was killed was begun twice


def test_a_job_that_hangs_is_ended_and_reported(client: Client, tmp_path: Path):
    work = job("hangs", folder=str(tmp_path), limit_s=2.0)
    outcome = farm(client, [work], Cache(tmp_path / "cache"))[work.key]
    assert (outcome.state, outcome.why) == ("ended", "ran longer than 2 s")
    for pid in (tmp_path / "children").read_text().split():
        until(lambda pid=pid: not alive(int(pid)))


@pytest.mark.parametrize(("call", "why"), [
    ("refuses", "too large; take a smaller one"),
    ("breaks", "ZeroDivisionError: of nothing"),
    ("dies", "its process ended with status -9"),
    ("missing", "AttributeError: module 'stub_jobs' has no attribute 'missing'"),
])  # fmt: skip
def test_failures_are_told_and_not_kept(client: Client, tmp_path: Path, call: str, why: str):
    arguments = {"reason": "too large; take a smaller one"} if call == "refuses" else {}
    bad = job(call, **arguments)
    behind = job("square", number=3, after=bad)
    found = farm(client, [bad, behind, job("square", number=4)], Cache(tmp_path))
    assert (found[bad.key].state, found[bad.key].why) == ("failed", why)
    assert found[behind.key].state == "skipped"
    assert why in found[behind.key].why
    assert Cache(tmp_path).get(bad.key) is None
    assert Cache(tmp_path).get(job("square", number=4).key) == 16


def test_a_killed_run_goes_on(client: Client, tmp_path: Path):
    """The driver is killed with its cluster; what it had is not done again, and nothing is left running."""
    calls = tmp_path / "calls"
    calls.mkdir()
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    from test_farm import job, farm, connect, Cache\n"
        "    works = [job('counted', number=k, folder=sys.argv[2]) for k in range(3)]\n"
        "    works += [job('slow', number=9, folder=sys.argv[2], seconds=600.0, limit_s=900)]\n"
        "    with connect(None, 1) as client: farm(client, works, Cache(Path(sys.argv[3])))\n"
    )
    (tmp_path / "driver.py").write_text(program)
    driver = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", HERE, calls, tmp_path / "cache"], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: any(path.name.startswith("9-") for path in calls.iterdir()))
        until(lambda: len(list((tmp_path / "cache").rglob("*.json"))) == 3)
        _, child, worker = next(path.name for path in calls.iterdir() if path.name.startswith("9-")).split("-")
    finally:
        driver.kill()
        driver.wait(10)
    until(lambda: not alive(int(child)) and not alive(int(worker)))
    works = [job("counted", number=k, folder=str(calls)) for k in range(4)]
    found = farm(client, works, Cache(tmp_path / "cache"))
    assert [found[work.key].cached for work in works] == [True, True, True, False]
    assert [found[work.key].value for work in works] == [0, 1, 4, 9]


@pytest.mark.parametrize("damage", [
    lambda text: text[: len(text) // 2], lambda text: b"", lambda text: b"\xff\xfe",
    lambda text: text.replace(b'"value": 49', b'"value": 50'), lambda text: b"[1, 2]",
])  # fmt: skip
def test_damaged_entries_are_made_again(tmp_path: Path, damage: object):
    cache, key = Cache(tmp_path), content_key({"number": 7})
    cache.put(key, "seven", 49)
    path = cache.path(key)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert cache.get(key) is None
    assert cache.damaged == [str(path)]
    assert not path.exists()
    cache.put(key, "seven", 49)
    assert cache.get(key) == 49


def test_a_damaged_entry_that_cannot_be_removed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in a cache that is only read; who puts the result there is told in one line."""
    cache, key = Cache(tmp_path), content_key({"number": 7})
    cache.put(key, "seven", 49)
    path = cache.path(key)
    path.write_bytes(b"harmed")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        assert cache.get(key) is None
        assert cache.damaged == [str(path)]
        patch.setattr(Path, "open", refuse)
        with pytest.raises(NomulError, match=r"permission denied; check the path and its permissions$"):
            cache.put(key, "seven", 49)
    cache.put(key, "seven", 49)
    assert cache.get(key) == 49


def test_an_entry_of_another_key_is_damaged(tmp_path: Path):
    cache = Cache(tmp_path)
    one, other = content_key({"number": 1}), content_key({"number": 2})
    cache.put(one, "one", 1)
    cache.path(other).parent.mkdir(exist_ok=True)
    cache.path(other).write_bytes(cache.path(one).read_bytes())
    assert cache.get(other) is None
    assert cache.get(one) == 1


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(clusters, "_PATIENCE_S", 2)
    why = r"^scheduler tcp://127\.0\.0\.1:9: no answer within 2 s \(.*start one: dask"
    with pytest.raises(NomulError, match=why), connect("tcp://127.0.0.1:9"):
        pass


@pytest.mark.parametrize("address", [
    "127.0.0.1:9", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://", "tcp://:8786", "tcp://host:abc", "tcp://host:70000",
    "tcp://host:-1", "tcp://host:0", "tls://host", "http://host:8786", "tcp://[::1", "tcp://host:1/x", "",
])  # fmt: skip
def test_addresses_that_are_none(address: str):
    with pytest.raises(NomulError) as error, connect(address):
        pass
    assert str(error.value) == f"scheduler {address}: name it as tcp://HOST:PORT"


@pytest.mark.parametrize(("address", "line"), [
    ("tcp://127.0.0.1", "nomul: scheduler tcp://127.0.0.1: name it as tcp://HOST:PORT"),
    ("tcp://host:abc", "nomul: scheduler tcp://host:abc: name it as tcp://HOST:PORT"),
    ("tcp://127.0.0.1:9", "nomul: scheduler tcp://127.0.0.1:9: no answer within 2 s ("),
    ("tls://127.0.0.1:9", "nomul: scheduler tls://127.0.0.1:9: there are no certificates; name them in Dask's"),
])  # fmt: skip
def test_a_child_without_a_scheduler_ends_in_one_line(tmp_path: Path, address: str, line: str):
    """In a process of its own, whose end would show what Dask's threads and loops have left."""
    (tmp_path / "sweep.toml").write_text(
        "scope = 'engine'\nboard = 'lfe5u-25f'\nmodels = '40x40x1x16'\nengine = 'table'\ntrits = 20\n"
    )
    program = (
        "import sys; from nomul.host.explore import cluster; cluster._PATIENCE_S = 2\n"
        "from nomul.host.cli import main; sys.argv[0] = 'nomul'; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "explore", tmp_path / "sweep.toml", "--scheduler", address, "--cache",
         tmp_path / "cache", "-o", tmp_path / "out"],
        capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


@contextlib.contextmanager
def scheduler(workers: int) -> Iterator[str]:
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, memory_limit=0,
                      dashboard_address="127.0.0.1:0", host="127.0.0.1") as found:  # fmt: skip
        yield found.scheduler_address


def test_a_scheduler_without_workers():
    why = "has no workers; start some: dask worker"
    with scheduler(0) as address, pytest.raises(NomulError, match=why), connect(address):
        pass


def test_workers_and_schedulers_of_other_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    with scheduler(1) as address:
        with connect(address) as found:  # the same versions: it works
            work = job("square", number=5)
            assert farm(found, [work], Cache(tmp_path))[work.key].value == 25
        mine = clusters.facts()
        with monkeypatch.context() as patch:
            patch.setattr(clusters, "facts", _other)
            why = r"^worker tcp.*: source is .*, here it is other; install the same there"
            with pytest.raises(NomulError, match=why), connect(address):
                pass
        assert clusters.facts() == mine
        real = clusters.metadata.version
        monkeypatch.setattr(
            clusters.metadata, "version", lambda name: "1999.1" if name == "distributed" else real(name)
        )
        why = r"^scheduler tcp://.*: runs distributed 20\d\d\.\S+, this is 1999\.1; install"
        with pytest.raises(NomulError, match=why), connect(address):
            pass


_REAL = clusters.facts


class _Other:
    """Here it says another thing than on a worker, which gets the real function."""

    def __call__(self) -> dict[str, str]:
        return {**_REAL(), "source": "other"}

    def __reduce__(self) -> tuple:
        return getattr, (clusters, "facts")


_other = _Other()


def test_all_workers_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from nomul.host.explore import farm as farms

    monkeypatch.setattr(farms, "_ALONE_S", 1.0)
    monkeypatch.setattr(farms, "_TICK_S", 0.2)
    with scheduler(1) as address, Client(address, set_as_default=False) as found:
        (name,) = found.scheduler_info()["workers"]
        work = job("slow", number=1, folder=str(tmp_path), seconds=60.0)
        timer = threading.Timer(2.0, lambda: found.retire_workers([name], close_workers=True))
        timer.start()
        with pytest.raises(NomulError, match=r"^no worker is left, 1 jobs are open; run it again to go on$"):
            farm(found, [work], Cache(tmp_path / "cache"))
        timer.join()


def test_the_benchmark_prints_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """With few jobs."""
    for name, value in (("_EMPTY", 1), ("_WAITING", 2), ("_WAIT_S", 0.5), ("_TASKS", 10)):
        monkeypatch.setattr(bench, name, value)
    assert bench.main(["--workers", "1", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    one, two = found["runs"]
    assert one["seconds"]["2 jobs that wait 0.5 s"] >= 1.0
    assert two["seconds"]["2 jobs that wait 0.5 s"] >= 0.5
    assert {"2 jobs that wait 0.5 s", "1 empty jobs"} <= two["speed_up"].keys() <= one["seconds"].keys()
    assert one["per_empty_job"] > one["per_task"] > 0
    assert bench.main(["--workers", "0"]) == 1
    assert capsys.readouterr().err == "bench: --workers 0; it must be 1 to 256\n"


def test_entries_are_readable(tmp_path: Path):
    cache, key = Cache(tmp_path), content_key({"a": 1})
    cache.put(key, "route it", {"fmax_mhz": 100.5})
    found = json.loads(cache.path(key).read_text())
    assert (found["name"], found["value"]) == ("route it", {"fmax_mhz": 100.5})
