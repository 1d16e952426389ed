# SPDX-License-Identifier: Apache-2.0
"""Placement seeds at once: which one is taken, and that nothing runs on. nextpnr is a script that does as told."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from nomul.hw.boards.bare import BARE
from nomul.hw.build import seeds, tools
from nomul.hw.build.routing import Router, route_seeds
from nomul.hw.build.seeds import Tried
from nomul.hw.build.toolset import Toolset
from nomul.model.errors import NomulError

BOARD = next(board for board in BARE if board.device == "LFE5U-25F")
WANTED = 90.0
SOON_S = 20  # every wait of a test ends by then

NEXTPNR = """#!/bin/sh
[ "$1" = --version ] && echo "nextpnr 1.2" && exit
while [ "$1" != --seed ]; do shift; done
seed=$2; plans={plans}
echo $$ > $plans/pid-$seed
after() {{ while [ ! -e $plans/$1 ]; do sleep 0.02; done; }}
routed() {{ sed "s/CLOCK/$1/" $plans/report > report.json; echo $seed > part.config; : > $plans/done-$seed; }}
hang() {{ sleep 60 & echo $! > $plans/child-$seed; : > $plans/hangs-$seed; wait; }}
echo "Info: seed $seed"
. $plans/plan-$seed
"""


class Plans:
    """What nextpnr does with each seed, and the processes that it was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, []
        self.limit_s: float = SOON_S

    def route(self, plans: dict[int, str], jobs: int) -> Tried:
        for seed, plan in plans.items():
            (self.folder / f"plan-{seed}").write_text(plan + "\n")
        router = Router(
            name="chip", board=BOARD, folder=self.folder / "netlist", pins="", placer="heap", tools=Toolset("native"),
            related=(), check=lambda report: None, logs=self.folder / "logs", limit_s=self.limit_s,
        )  # fmt: skip
        return route_seeds(router, [*plans], jobs, lambda stage, line: self.seen.append((stage, line)))

    def started(self) -> set[int]:
        return {int(path.name.split("-")[1]) for path in self.folder.glob("pid-*")}

    def running(self) -> list[int]:
        """Of the processes, those that live: zombies, which their new parent has not fetched yet, do not."""
        pids = [path.read_text() for kind in ("pid", "child") for path in self.folder.glob(f"{kind}-*")]
        return [int(pid) for pid in pids if pid and _lives(int(pid))]  # empty: it was ended while it wrote

    def logs(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.folder / "logs").glob("*.log")}


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Plans(tmp_path)
    for name in ("netlist", "logs", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "netlist" / "netlist.json").write_text("{}")
    (tmp_path / "report").write_text(json.dumps({
        "fmax": {"sync": {"achieved": "CLOCK", "constraint": WANTED}}, "critical_paths": [], "utilization": {},
    }).replace('"CLOCK"', "CLOCK"))  # fmt: skip
    script = tmp_path / "bin" / "nextpnr-ecp5"
    script.write_text(NEXTPNR.format(plans=tmp_path))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    tools.tool.cache_clear()
    threads = threading.active_count()
    yield made
    tools.tool.cache_clear()
    end = time.monotonic() + SOON_S
    while (made.running() or threading.active_count() > threads) and time.monotonic() < end:
        time.sleep(0.01)  # what was killed, and the clock that would have done it, take a moment
    left = made.running()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    assert threading.active_count() <= threads


@pytest.mark.parametrize("jobs", [1, 2, 3, 9])
def test_the_first_that_meets_timing_is_taken_whichever_is_ready_first(plans: Plans, jobs: int):
    """Seed 4 is ready first where it runs, and waits for 7 and 2, which are before it."""
    first = "after done-4; " if jobs >= 3 else ""
    found = plans.route(
        {7: f"{first}routed 80", 2: f"{first}routed 95", 4: "routed 99", 1: "hang"}, jobs
    )
    assert (found.seed, found.met) == (2, True)
    assert (found.folder / "routed.config").read_text() == "2\n"
    assert plans.logs() == {"nextpnr.log": "Info: seed 2\n", "seed-7.log": "Info: seed 7\n"}
    assert json.loads((plans.folder / "logs" / "report.json").read_text())["fmax"]["sync"]["achieved"] == 95
    if jobs == 1:
        assert plans.started() == {7, 2}
    told = dict(plans.seen[-1::-1])
    assert ("placing and routing, seed 7 (1 of 4)", "missed: 80.0 MHz of 90.0 MHz wanted") in plans.seen
    assert ("placing and routing, seed 2 (2 of 4)", "met: 95.0 MHz of 90.0 MHz wanted") in plans.seen
    assert all(line == "" for stage, line in told.items() if "seed" in stage)  # each begins
    assert all((stage, None) in plans.seen for stage in told)  # and ends


def test_as_many_at_once_as_asked_for(plans: Plans):
    """Two: the third begins when one of them is over, and not before."""
    alone = "after pid-2; sleep 0.2; [ ! -e $plans/pid-3 ] || exit 1; routed 80"
    assert plans.route({1: alone, 2: "after done-1; after pid-3; routed 81", 3: "routed 91"}, 2).seed == 3


def test_those_after_one_that_is_ready_are_ended_at_once(plans: Plans):
    """While the one before it still runs; what they started too."""
    lives = "grep -q 'State:.[^ZX]' /proc/$(cat $plans/%s-3)/status 2>/dev/null"
    gone = "; ".join(f"while {lives % kind}; do sleep 0.02; done" for kind in ("pid", "child"))
    work = {1: f"after done-2; {gone}; routed 80", 2: "after hangs-3; routed 90.5", 3: "hang", 4: "hang"}
    found = plans.route(work, 3)
    assert found.seed == 2
    assert 4 not in plans.started()


def test_a_seed_that_hangs_counts_as_missed(plans: Plans):
    plans.limit_s = 0.5
    assert plans.route({1: "hang", 2: "routed 91"}, 2).seed == 2
    assert plans.logs() == {"nextpnr.log": "Info: seed 2\n", "seed-1.log": "Info: seed 1\n"}
    (why,) = [line for _, line in plans.seen if line and line.startswith("missed")]
    assert why.startswith("missed: nextpnr-ecp5 took longer than 0.5 s; its output is in ")


def test_a_seed_that_hangs_is_not_waited_for_long(plans: Plans, monkeypatch: pytest.MonkeyPatch):
    """Another met timing: three times what that took is enough."""
    monkeypatch.setattr(seeds, "_LEAST_S", 0.1)
    begun = time.monotonic()
    found = plans.route({1: "hang", 2: "after hangs-1; sleep 0.3; routed 91", 3: "hang"}, 2)
    assert found.seed == 2
    assert time.monotonic() - begun > seeds.PATIENCE * 0.3
    (why,) = [line for _, line in plans.seen if line and line.startswith("missed")]
    assert why.startswith("missed: nextpnr-ecp5 took longer than 1 s, 3 times what seed 2 took; its output is in ")
    assert [*sorted(plans.logs())] == ["nextpnr.log", "seed-1.log"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_none_that_meets_timing(plans: Plans, jobs: int):
    plans.limit_s = 0.5
    with pytest.raises(NomulError) as refused:
        plans.route({5: "routed 70", 6: "hang", 8: "routed 75"}, jobs)
    assert str(refused.value).startswith(
        "chip: timing is not met: 75.0 MHz of 90.0 MHz wanted, 2.22 ns too slow, with the best of 3 seed(s), 8; "
        "seed 6: nextpnr-ecp5 took longer than 0.5 s; its output is in "
    )
    assert str(refused.value).endswith(f"; try other seeds; logs are in {plans.folder / 'logs'}")
    assert [*sorted(plans.logs())] == ["nextpnr.log", "seed-5.log", "seed-6.log"]


def test_none_that_comes_to_an_end(plans: Plans):
    plans.limit_s = 0.3
    with pytest.raises(NomulError, match=r"^chip: none of 2 seed\(s\) came to an end; seed 1: .*; seed 2: .*; try "):
        plans.route({1: "hang", 2: "hang"}, 2)
    assert [*sorted(plans.logs())] == ["nextpnr.log", "seed-2.log"]


def test_a_router_that_goes_round_in_circles(plans: Plans):
    """It is known by its own count, not by time. One that ends may take up a route several times."""
    row = "Info:       %d |     1586      15413 |   91   909 |       437|       1.85      30.41|"
    table = f'echo "Info: Routing 1000 arcs."; echo "{row}"'
    found = plans.route({1: f"{table % 7000}; hang", 2: f"{table % 6000}; routed 91"}, 1)
    assert found.seed == 2
    (why,) = [line for _, line in plans.seen if line and line.startswith("missed")]
    assert why == "missed: nextpnr-ecp5 does not converge: 7,000 routes for 1,000 arcs, 437 still to do"


def test_an_error_ends_the_others(plans: Plans):
    with pytest.raises(NomulError, match=r"^nextpnr-ecp5 failed: ERROR: no such pin \(see .*; logs are in .*logs$"):
        plans.route({1: "after hangs-2; echo ERROR: no such pin; exit 1", 2: "hang"}, 2)
    assert plans.logs()["nextpnr.log"] == "Info: seed 1\nERROR: no such pin\n"


def test_an_error_of_one_that_is_not_needed(plans: Plans):
    """As with one job, which would not have begun it."""
    found = plans.route({1: "after failed; sleep 0.1; routed 91", 2: ": > $plans/failed; echo ERROR: x; exit 1"}, 2)
    assert found.seed == 1
    assert plans.logs()["nextpnr.log"] == "Info: seed 1\n"


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_all(plans: Plans):
    def press() -> None:
        end = time.monotonic() + SOON_S
        while len([*plans.folder.glob("hangs-*")]) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        plans.route({seed: "hang" for seed in range(1, 6)}, 3)
    presser.join()
    assert time.monotonic() - begun < SOON_S
    assert plans.started() == {1, 2, 3}


def test_what_was_routed_is_not_routed_again(plans: Plans):
    work = {1: "routed 80", 2: "routed 91"}
    assert plans.route(work, 2).seed == 2
    for path in plans.folder.glob("pid-*"):
        path.unlink()
    assert plans.route(dict.fromkeys(work, "hang"), 2).seed == 2
    assert not plans.started()


def test_a_tool_that_was_ended_before_it_began(plans: Plans):
    stop = tools.Stop()
    stop.set()
    (plans.folder / "plan-1").write_text("hang\n")
    with pytest.raises(tools.Ended):
        Toolset("native").run("nextpnr-ecp5", "--seed", "1", folder=plans.folder, log="log", limit_s=SOON_S, stop=stop)
    assert not plans.started()
