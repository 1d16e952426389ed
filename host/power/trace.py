# SPDX-License-Identifier: Apache-2.0
"""What a meter said over time, and the energy between two moments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nomul.model.errors import NomulError

__all__ = ["Gap", "Trace"]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """A time without samples: from the last one before it to the first one after."""

    begin: float
    end: float
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
    """Samples of one meter.

    Parameters
    ----------
    name : str
        Of the meter, for messages.
    times : array [N] of float64
        Seconds of the monotonic clock, rising.
    values : array [N] of float64
        Watts at these times, or joules since the first.
    quantity : str
        ``"watts"``: between two samples power runs straight. ``"joules"``: between two samples energy does.
    gaps : tuple of Gap
        Where neither holds.

    Raises
    ------
    NomulError
        If times do not rise, or there are fewer than two samples.
    """

    name: str
    times: np.ndarray
    values: np.ndarray
    quantity: str = "watts"
    gaps: tuple[Gap, ...] = ()

    def __post_init__(self) -> None:
        if len(self.times) < 2:
            why = f"; {self.gaps[0].why}" if self.gaps else ""
            raise NomulError(
                f"{self.name}: {len(self.times)} samples; it takes at least 2 to integrate{why}"
            )
        steps = np.diff(self.times)
        if not (steps > 0).all():
            k = int(np.argmax(~(steps > 0)))
            raise NomulError(
                f"{self.name}: sample {k + 1} is at {self.times[k + 1]:.6f} s, "
                f"not after {self.times[k]:.6f} s"
            )

    @property
    def rate_hz(self) -> float:
        """Samples a second that came, over the whole record."""
        return float((len(self.times) - 1) / (self.times[-1] - self.times[0]))

    @property
    def _joules(self) -> np.ndarray:
        """Energy up to each sample."""
        if self.quantity == "joules":
            return self.values - self.values[0]
        means = (self.values[1:] + self.values[:-1]) / 2
        return np.concatenate([[0.0], np.cumsum(means * np.diff(self.times))])

    def until(self, times: np.ndarray) -> np.ndarray:
        """Joules from the first sample to given moments, each within the samples."""
        at = np.clip(np.searchsorted(self.times, times, side="right") - 1, 0, len(self.times) - 2)
        passed, step = times - self.times[at], np.diff(self.times)[at]
        if self.quantity == "joules":
            slope = np.diff(self.values)[at] / step
            return np.asarray(self._joules[at] + slope * passed)
        slope = np.diff(self.values)[at] / step
        return np.asarray(self._joules[at] + (self.values[at] + slope * passed / 2) * passed)

    def energy(self, begin: float, end: float) -> float:
        """Joules between two moments.

        Raises
        ------
        NomulError
            If samples do not cover the time.
        """
        self.check(begin, end)
        first, last = self.until(np.array([begin, end]))
        return float(last - first)

    def mean_watts(self, begin: float, end: float) -> float:
        """Energy between two moments over the time between them."""
        return self.energy(begin, end) / (end - begin)

    def samples(self, begin: float, end: float) -> int:
        """Samples from one moment to another."""
        return int(((self.times >= begin) & (self.times <= end)).sum())

    def check(self, begin: float, end: float) -> None:
        """Raises NomulError unless samples cover the time from ``begin`` to ``end``."""
        if not begin < end:
            raise NomulError(f"{self.name}: an interval of {end - begin:g} s; it must be longer than 0")
        first, last = self.times[0], self.times[-1]
        if begin < first or end > last:
            raise NomulError(
                f"{self.name}: samples span {last - first:.3f} s and do not cover the interval from "
                f"{begin - first:+.3f} to {end - first:+.3f} s after the first"
            )
        for gap in self.gaps:
            if gap.begin < end and gap.end > begin:
                raise NomulError(
                    f"{self.name}: no samples for {gap.end - gap.begin:.3f} s within the interval "
                    f"({gap.why}); measure again"
                )
