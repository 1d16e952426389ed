# SPDX-License-Identifier: Apache-2.0
"""The power that a meter shows now, for who watches: nothing is kept."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .meter import Meter

__all__ = ["Live"]

_MOST_HZ = 5.0
_STALE_S = 2.0
_JOIN_S = 10.0  # for a reading that is under way at the end; every meter's own limit is shorter


class Live:
    """Asks a meter again and again, from the beginning of a ``with`` block to its end.

    A meter that is away, or talks nonsense, may come back: nothing ends here.

    Parameters
    ----------
    meter : Meter
    clock : callable
        Seconds that never jump.
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.monotonic):
        self.meter = meter
        self._clock = clock
        self._latest: tuple[float, float] | None = None  # when, watts
        self._before: tuple[float, float] | None = None  # when, joules
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(_JOIN_S)

    def watts(self) -> float | None:
        """The latest reading, of an energy counter the mean since the one before; None if it is older than 2 s."""
        latest = self._latest
        if latest is None or self._clock() - latest[0] > _STALE_S:
            return None
        return latest[1]

    def poll(self) -> None:
        """Asks once; what the thread does again and again."""
        try:
            value, now = self.meter.read(), self._clock()
        except Exception:  # also one of a library that a meter uses: it may come back like any other
            self._before = None
            return
        if self.meter.quantity == "joules":
            before, self._before = self._before, (now, value)
            if before is None or now <= before[0]:
                return
            value = (value - before[1]) / (now - before[0])
        low, high = self.meter.range_w
        if math.isfinite(value) and low <= value <= high:
            self._latest = now, value

    def _run(self) -> None:
        pause = 1 / min(self.meter.rate_hz, _MOST_HZ)
        while not self._stop.wait(pause):
            self.poll()
