# SPDX-License-Identifier: Apache-2.0
"""Placement seeds, several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .timing import Report
from .tools import Stop

__all__ = ["Tried", "try_seeds"]


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
    """

    seed: int
    folder: Path
    report: Report | None
    why: str = ""

    @property
    def met(self) -> bool:
        """It is routed, and every clock reaches what was wanted."""
        return self.report is not None and self.report.met


def try_seeds(seeds: Sequence[int], jobs: int, route: Callable[[int, Stop], Tried]) -> list[Tried]:
    """Routes seeds until it is known which is the first of them that meets timing.

    Which that is does not depend on ``jobs``, nor on how busy the machine is: one that is ready early waits for those
    before it, those after it are ended. When this returns or raises, nothing runs any more.

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
    futures: list[Future[Tried]] = []

    def end(first: int) -> None:
        for future in futures[first:]:
            future.cancel()
        for stop in stops[first:]:
            stop.set()

    def ready(number: int, future: Future[Tried]) -> None:
        if not future.cancelled() and future.exception() is None and future.result().met:
            end(number + 1)

    tried: list[Tried] = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            for number, (seed, stop) in enumerate(zip(seeds, stops, strict=True)):
                futures.append(pool.submit(route, seed, stop))
                futures[-1].add_done_callback(partial(ready, number))
            for future in futures:
                tried.append(future.result())
                if tried[-1].met:
                    break
        finally:
            end(0)
    return tried
