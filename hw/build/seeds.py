# SPDX-License-Identifier: Apache-2.0
"""Placement seeds, several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Timer
from time import monotonic

from .timing import Report
from .tools import Stop

__all__ = ["PATIENCE", "Tried", "try_seeds"]

#: Times as long as a seed that met timing; what comes to an end differs by less than two.
PATIENCE = 3
_LEAST_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What became of a seed.

    Attributes
    ----------
    seed : int
    folder : Path
        With nextpnr's files.
    report : Report or None
        ``None``: it did not come to an end.
    why : str
        Why it did not.
    took_s : float or None
        Seconds; ``None``: it was routed before.
    """

    seed: int
    folder: Path
    report: Report | None
    why: str = ""
    took_s: float | None = None

    @property
    def met(self) -> bool:
        """It is routed, and every clock reaches what was wanted."""
        return self.report is not None and self.report.met


def try_seeds(seeds: Sequence[int], jobs: int, route: Callable[[int, Stop], Tried]) -> list[Tried]:
    """Routes seeds until it is known which is the first of them that meets timing.

    Which that is does not depend on ``jobs``, nor on how busy the machine is: one that is ready early waits for those
    before it, those after it are ended. Only a router that hangs is not waited for: what takes more than
    :data:`PATIENCE` times as long as a later one that met timing counts as missed. When this returns or raises,
    nothing runs any more.

    Parameters
    ----------
    seeds : sequence of int
        The first is preferred.
    jobs : int
        How many at once.
    route : callable
        Routes one, in a thread; what it runs with the :class:`~.tools.Stop` can be ended.

    Returns
    -------
    list of Tried
        In order, up to the first that meets timing; all where none does.

    Raises
    ------
    Exception
        Of the first that raises, where none before it meets timing.
    """
    stops = [Stop() for _ in seeds]
    begun: dict[int, float] = {}
    timers: list[Timer] = []
    futures: list[Future[Tried]] = []

    def end(first: int) -> None:
        for future in futures[first:]:
            future.cancel()
        for stop in stops[first:]:
            stop.set()

    def one(number: int) -> Tried:
        begun[number] = monotonic()
        return route(seeds[number], stops[number])

    def ready(number: int, future: Future[Tried]) -> None:
        if future.cancelled() or future.exception() is not None or not future.result().met:
            return
        end(number + 1)
        took_s = future.result().took_s
        if took_s is None:
            return
        limit_s = max(PATIENCE * took_s, _LEAST_S)
        for before in range(number):
            why = f"took longer than {limit_s:.0f} s, {PATIENCE} times what seed {seeds[number]} took"
            timers.append(Timer(begun[before] + limit_s - monotonic(), stops[before].set, [why]))
            timers[-1].start()

    tried: list[Tried] = []
    try:
        with ThreadPoolExecutor(max_workers=jobs) as pool:
            try:
                for number in range(len(seeds)):
                    futures.append(pool.submit(one, number))
                    futures[-1].add_done_callback(partial(ready, number))
                for future in futures:
                    tried.append(future.result())
                    if tried[-1].met:
                        break
            finally:
                end(0)
    finally:
        for timer in timers:  # all are there: the threads that set them are over
            timer.cancel()
    return tried
