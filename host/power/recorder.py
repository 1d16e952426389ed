# SPDX-License-Identifier: Apache-2.0
"""Samples a meter in the background."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np

from nomul.model.errors import NomulError

from .csv_log import CsvLog
from .meter import Meter, Unreadable
from .trace import Gap, Trace

__all__ = ["LogRecorder", "Recorder", "record"]

_PATIENCE_S = 2.0  # without a good reading, after which the meter counts as gone
_STALL = 5.0  # sample periods that make a gap
_JOIN_S = 10.0  # for a reading that is under way at the end; every meter's own limit is shorter
_MOST = 10_000_000  # samples
_MOST_W = 1e9  # of anything that computes; an instrument that tells more, whatever its range, talks nonsense
_GRAIN_S = 0.1  # energy counters move in steps: an H100's every 0.1 s
_WAIT_S = 5.0  # for a sample of a live meter, beyond its own patience
_LOG_WAIT_S = 30.0  # for a line of a log: loggers write in blocks
_POLL_S = 0.02
_LOG_POLL_S = 0.2
_JUMP_S = 0.05  # wall clock against monotonic clock
_SLEW = 5e-4  # how fast NTP may turn it


class Recorder:
    """Samples a live meter, from the beginning of a ``with`` block to its end.

    Time stamps are of the monotonic clock, in the middle of a reading. A reading that fails, is no number or lies
    outside the meter's range becomes a gap, and so does a pause of more than five sample periods; a meter that
    gives nothing for two seconds ends the recording with an error.

    Parameters
    ----------
    meter : Meter
    clock : callable
        Seconds that never jump; token times must come from the same clock.
    """

    def __init__(self, meter: Meter, *, clock: Callable[[], float] = time.monotonic):
        self.meter = meter
        self._clock = clock
        self._samples: list[tuple[float, float]] = []
        self._gaps: list[Gap] = []
        self._why: str | None = None  # of the gap that is under way
        self._since: float | None = None  # begin of recording, or the latest good sample
        self._error: NomulError | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()
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
        if self._thread.is_alive():
            self._error = self._error or NomulError(
                f"{self.meter.name}: does not answer; a reading has taken {_JOIN_S:g} s"
            )

    def poll(self) -> None:
        """Takes one sample; what the thread does again and again.

        Raises
        ------
        NomulError
            If the meter is gone, or the record is full.
        """
        begin = self._clock()
        if self._since is None:
            self._since = begin
        try:
            value = self.meter.read()
            now = (begin + self._clock()) / 2
            self._judge(value, now)
        except Unreadable as error:
            self._why = self._why or str(error)
            lost = self._clock() - self._since
            if lost > _PATIENCE_S:
                raise NomulError(f"{error} (nothing usable for {lost:.1f} s)") from None
            return
        with self._lock:
            if self._samples and self._why is None and now - self._since > _STALL / self.meter.rate_hz:
                self._why = f"the meter stalled for {now - self._since:.3f} s"
            if self._why is not None:
                self._gaps.append(Gap(begin=self._since, end=now, why=self._why))
            self._why, self._since = None, now
            self._samples.append((now, value))
            if len(self._samples) >= _MOST:
                raise NomulError(f"{self.meter.name}: {_MOST} samples, the record is full; measure less")

    def wait(self, moment: float = -math.inf) -> None:
        """Waits for a sample that was taken at a moment or after it; without one, for the first.

        Raises
        ------
        NomulError
            If the recording has ended, or no such sample comes within the time limit.
        """
        limit = _WAIT_S + _PATIENCE_S + 2 / self.meter.rate_hz
        for _ in _until(limit, _POLL_S):
            if self._error is not None:
                raise self._error
            with self._lock:
                if self._samples and self._samples[-1][0] >= moment:
                    return
        why = f"; {self._why}" if self._why else ""
        raise NomulError(f"{self.meter.name}: no sample within {limit:g} s{why}")

    @property
    def ended(self) -> bool:
        """Whether recording has ended early; :meth:`trace` tells why."""
        return self._error is not None

    def trace(self) -> Trace:
        """Samples so far, or all of them after the block.

        Raises
        ------
        NomulError
            What ended the recording early; or that there are too few samples.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            samples, gaps = list(self._samples), list(self._gaps)
            if self._why is not None and self._since is not None:
                gaps.append(Gap(begin=self._since, end=math.inf, why=self._why))
        times, values = np.array(samples, dtype=np.float64).reshape(-1, 2).T
        return Trace(
            name=self.meter.name, times=times, values=values, quantity=self.meter.quantity, gaps=tuple(gaps)
        )

    def _judge(self, value: float, now: float) -> None:
        name, (low, high) = self.meter.name, self.meter.range_w
        if not math.isfinite(value):
            raise Unreadable(f"{name}: a reading of {value}")
        high = min(high, _MOST_W)
        if self.meter.quantity == "watts" and not low <= value <= high:
            raise Unreadable(f"{name}: {value:g} W is outside its range of {low:g} to {high:g} W")
        if self._samples:
            last, before = self._samples[-1]
            if now <= last:
                raise Unreadable(f"{name}: the clock stood still or went back")
            if self.meter.quantity == "joules" and value < before:
                raise Unreadable(f"{name}: its energy fell from {before:g} to {value:g} J")
            if self.meter.quantity == "joules" and value - before > high * (now - last + _GRAIN_S):
                raise Unreadable(
                    f"{name}: {value - before:g} J in {now - last:.3f} s is outside its range of {low:g} to {high:g} W"
                )

    def _run(self) -> None:
        period = 1 / self.meter.rate_hz
        due = self._clock()
        try:
            while not self._stop.is_set():
                self.poll()
                due = max(due + period, self._clock())  # a slow reading is not caught up with
                self._stop.wait(due - self._clock())
        except NomulError as error:
            self._error = error
        except Exception as error:  # of a library that a meter uses: never a silent end
            self._error = NomulError(f"{self.meter.name}: {type(error).__name__}: {error}")


class LogRecorder:
    """As :class:`Recorder`, for a logger that writes a file meanwhile: reads it at the end.

    Parameters
    ----------
    log : CsvLog
    clock, wall : callable
        The monotonic clock and the one that the logger's time stamps are of.
    """

    def __init__(
        self,
        log: CsvLog,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ):
        self.meter = log
        self._clock = clock
        self._wall = wall
        self._times: list[tuple[float, float]] = []

    def __enter__(self) -> Self:
        self._times = [(self._clock(), self._wall())]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._times.append((self._clock(), self._wall()))

    def wait(self, moment: float | None = None) -> None:
        """Waits for a line of a moment or later; without one, of now: then the logger is at work.

        Raises
        ------
        NomulError
            If no such line comes within the time limit, with the age of the newest.
        """
        wall = self._wall() if moment is None else self._wall() - (self._clock() - moment)
        latest = None
        for _ in _until(_LOG_WAIT_S, _LOG_POLL_S):
            latest = self.meter.latest()
            if latest is not None and latest >= wall:
                return
        newest = "it has no line" if latest is None else f"its newest is {wall - latest:.1f} s older than needed"
        raise NomulError(
            f"{self.meter.path}: no new line within {_LOG_WAIT_S:g} s, {newest}; is the logger running, does it write "
            f"each line at once, and is its clock this machine's?"
        )

    def trace(self) -> Trace:
        """The file's samples, on the monotonic clock.

        Raises
        ------
        NomulError
            If the wall clock jumped meanwhile, so that nobody knows which sample belongs to which token.
        """
        (begin, wall), (end, later) = self._times[0], self._times[-1]
        jump = (later - wall) - (end - begin)
        if abs(jump) > _JUMP_S + _SLEW * (end - begin):
            raise NomulError(
                f"{self.meter.name}: the wall clock jumped by {jump:+.3f} s during the measurement, "
                f"its time stamps cannot be told from tokens'; set the clock first, then measure again"
            )
        return self.meter.trace(offset=wall - begin + jump / 2)


def _until(limit_s: float, pause_s: float) -> Iterator[None]:
    """Again and again until the time is up, and then once more."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        yield
        time.sleep(pause_s)
    yield


def record(meter: Meter | CsvLog) -> Recorder | LogRecorder:
    """The recorder for a meter: ``with record(meter) as recorder: ...``, then ``recorder.trace()``."""
    return LogRecorder(meter) if isinstance(meter, CsvLog) else Recorder(meter)
