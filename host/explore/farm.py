# SPDX-License-Identifier: Apache-2.0
"""Many jobs: what is in the cache is taken from there, the rest goes to Dask."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from distributed import CancelledError, Client, Future, wait
from distributed.scheduler import KilledWorker

from nomul.model.errors import NomulError

from .cache import Cache
from .work import Outcome, Work, perform

__all__ = ["Progress", "farm"]

_TICK_S = 2.0
_SPARE_S = 120.0  # beyond a job's own limit, until nothing that comes back counts as a dead cluster
_ALONE_S = 60.0  # without any worker

#: Called with each job that is settled, its outcome, how many are settled and how many there are.
Progress = Callable[[Work, Outcome, int, int], None]


def _nothing(work: Work, outcome: Outcome, settled: int, of: int) -> None:
    """No progress."""


def farm(
    client: Client | Callable[[], Client], works: Sequence[Work], cache: Cache, *, seen: Progress = _nothing
) -> dict[str, Outcome]:
    """Does jobs, in any order but that of :attr:`Work.after`.

    Each result is put into the cache on the worker and here as soon as it is there, so what a killed run had is not
    done again. Dask gives a job of a worker that died to another one, four times at most.

    Parameters
    ----------
    client : Client or callable
        Or what makes one, called only if there is anything to do.
    works : sequence of Work
        A job that another waits for stands before it.
    cache : Cache
    seen : callable

    Returns
    -------
    dict of str to Outcome
        By key.

    Raises
    ------
    NomulError
        If all workers went and none came back, or nothing comes back any more.
    """
    outcomes: dict[str, Outcome] = {}
    unique = list({work.key: work for work in works}.values())

    def settle(work: Work, outcome: Outcome) -> None:
        outcomes[work.key] = outcome
        seen(work, outcome, len(outcomes), len(unique))

    missing = []
    for work in unique:
        value = cache.get(work.key)
        if value is None:
            missing.append(work)
        else:
            settle(work, Outcome(state="done", value=value, cached=True))
    if not missing:
        return outcomes
    there = client if isinstance(client, Client) else client()
    run = uuid.uuid4().hex[:8]  # what an earlier run cancelled is not this one's
    futures: dict[Future, Work] = {}
    by_key: dict[str, Future] = {}
    for work in missing:
        before: Any = None
        if work.after is not None:
            before = by_key.get(work.after)
            if before is None and work.after in outcomes:
                before = asdict(outcomes[work.after])
        future = there.submit(
            perform, asdict(work), str(cache.root), before, key=f"nomul-{work.key[:16]}-{run}", pure=False
        )
        by_key[work.key] = future
        futures[future] = work
    try:
        with there.as_current():
            _collect(there, futures, cache, settle)
    finally:
        there.cancel(list(futures), force=True)
    return outcomes


def _collect(
    client: Client, futures: dict[Future, Work], cache: Cache, settle: Callable[[Work, Outcome], None]
) -> None:
    waiting = dict(futures)
    latest = alive = time.monotonic()
    while waiting:
        try:
            done = wait(list(waiting), timeout=_TICK_S, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            done = set()
        except CancelledError:  # by someone else at the scheduler
            done = {future for future in waiting if future.cancelled()}
        now = time.monotonic()
        for future in done:
            work = waiting.pop(future)
            outcome = _outcome(future)
            if outcome.done and not outcome.cached:
                cache.put(work.key, work.name, outcome.value)
            settle(work, outcome)
            latest = now
        if client.status != "running":
            raise NomulError(f"the scheduler is gone, {len(waiting)} jobs are open; run it again to go on")
        if client.scheduler_info(n_workers=1)["workers"]:
            alive = now
        elif now - alive > _ALONE_S:
            raise NomulError(f"no worker is left, {len(waiting)} jobs are open; run it again to go on")
        longest = max((work.limit_s for work in waiting.values()), default=0.0)
        if now - latest > longest + _SPARE_S:
            names = ", ".join(work.name for work in list(waiting.values())[:3])
            raise NomulError(f"nothing came back for {now - latest:.0f} s; open are {names}; run it again to go on")


def _outcome(future: Future) -> Outcome:
    if future.status == "finished":
        return Outcome(**future.result())
    if future.cancelled():
        return Outcome(state="failed", why="it was cancelled at the scheduler")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return Outcome(state="failed", why="the worker that did it died, again and again: is memory short?")
    return Outcome(state="failed", why=f"{type(error).__name__}: {error}".splitlines()[0])
