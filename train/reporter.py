# SPDX-License-Identifier: Apache-2.0
"""What a run says: lines, and on a terminal a bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Shown", "shown"]

_EVERY = 20.0  # seconds between two lines of progress where there is no bar


class Shown:
    """Lines by ``say``; progress as a bar, or now and then as a line."""

    def __init__(self, say: Callable[[str], None], bar: Progress | None):
        self._say, self._bar, self._last = say, bar, time.monotonic()
        self._task = None if bar is None else bar.add_task("", total=1.0)

    def line(self, text: str) -> None:
        """A line to keep."""
        self._say(text)

    def step(self, progress: float, text: str) -> None:
        """How far the run is."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=progress, description=text)
        elif time.monotonic() - self._last > _EVERY:
            self._last = time.monotonic()
            self._say(f"{progress:6.1%}  {text}")


@contextmanager
def shown(say: Callable[[str], None], *, bar: bool) -> Iterator[Shown]:
    """A reporter; the bar is on standard error and only where that is a terminal.

    Parameters
    ----------
    say : callable
        Takes a line.
    bar : bool
        Whether a bar is wanted.
    """
    console = Console(stderr=True)
    if not (bar and console.is_terminal):
        yield Shown(say, None)
        return
    with Progress(BarColumn(), TextColumn("{task.percentage:5.1f} %"), TextColumn("{task.description}"),
                  TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as drawn:  # fmt: skip
        yield Shown(lambda text: drawn.console.print(text, markup=False, highlight=False), drawn)
