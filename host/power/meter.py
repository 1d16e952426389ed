# SPDX-License-Identifier: Apache-2.0
"""What all meters have in common."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nomul.model.errors import NomulError

__all__ = ["Counter", "Meter", "Reading", "Unreadable", "attribute", "number", "plain_number"]

_GRAIN_S = 0.01  # counters move in steps


class Unreadable(NomulError):
    """A reading that is none: the meter is gone, talks nonsense or has overflowed.

    The recorder makes a gap of it, and gives up when it lasts.
    """


class Meter(Protocol):
    """A meter that is asked for each sample.

    Attributes
    ----------
    name : str
    rate_hz : float
        How often it is worth asking.
    range_w : (float, float)
        Watts that it can tell; a reading outside is refused.
    includes : str
        What the figure covers.
    label : str
        Where its figures come from, and what stands beside each of them: ``"measured"``, ``"constant"`` or
        ``"modelled"``.
    quantity : str
        What :meth:`read` gives: ``"watts"``, or ``"joules"`` since it was opened, from a counter that
        leaves out nothing between two readings.
    bounds_w : (float, float) or None
        Error bar of a modelled figure.
    """

    name: str
    rate_hz: float
    range_w: tuple[float, float]
    includes: str
    label: str
    quantity: str
    bounds_w: tuple[float, float] | None

    def read(self) -> float:
        """Watts now, or joules so far. Bounded in time.

        Raises
        ------
        Unreadable
        """

    def close(self) -> None:
        """Lets go of the device; harmless a second time."""


class Reading:
    """What most meters say of themselves.

    Parameters
    ----------
    name, rate_hz, range_w, includes, label, quantity, bounds_w
        As in :class:`Meter`.
    """

    def __init__(
        self,
        *,
        name: str,
        rate_hz: float,
        range_w: tuple[float, float],
        includes: str,
        label: str = "measured",
        quantity: str = "watts",
        bounds_w: tuple[float, float] | None = None,
    ):
        if not (math.isfinite(rate_hz) and 0 < rate_hz <= 10_000):
            raise NomulError(f"{name}: a rate of {rate_hz} Hz; it must be above 0 and at most 10000")
        self.name = name
        self.rate_hz = rate_hz
        self.range_w = range_w
        self.includes = includes
        self.label = label
        self.quantity = quantity
        self.bounds_w = bounds_w

    def close(self) -> None:
        """See :meth:`Meter.close`."""


class Counter:
    """Joules of a counter that wraps.

    Parameters
    ----------
    name : str
        For messages.
    wraps : float
        Joules after which it is back at 0.
    most_w : float
        Power that the device cannot exceed. A counter that would have to run faster was reset, and one left
        alone for so long that it could have gone round twice tells nothing.
    clock : callable
        Seconds that never jump.
    """

    def __init__(
        self,
        *,
        name: str,
        wraps: float,
        most_w: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name = name
        self._wraps = wraps
        self._most = most_w
        self._clock = clock
        self._last: tuple[float, float] | None = None  # time, raw joules
        self.joules = 0.0  #: Since the first reading.

    def update(self, raw: float) -> float:
        """Joules since the first reading, with the counter at ``raw``.

        Raises
        ------
        Unreadable
            If what passed since the last reading cannot be known; counting goes on from here.
        """
        now = self._clock()
        last, self._last = self._last, (now, raw)
        if not 0 <= raw <= self._wraps:
            self._last = last
            raise Unreadable(f"{self._name}: the counter says {raw:g} J; it ends at {self._wraps:g} J")
        if last is None:
            return self.joules
        step = raw - last[1]
        seconds = now - last[0]
        if step < 0:
            step += self._wraps
        if seconds * self._most >= self._wraps:
            raise Unreadable(
                f"{self._name}: not read for {seconds:.1f} s, in which its counter of {self._wraps:g} J may "
                f"have wrapped more than once; read it more often"
            )
        if step > (seconds + _GRAIN_S) * self._most:
            raise Unreadable(
                f"{self._name}: {step:g} J in {seconds:.3f} s is more than {self._most:g} W: the counter was reset"
            )
        self.joules += step
        return self.joules


def attribute(path: Path, *, what: str) -> str:
    """Text of a sysfs attribute.

    Raises
    ------
    Unreadable
        If it is gone or may not be read; with the mend.
    """
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise Unreadable(f"{path}: the {what} is gone; is the device still attached?") from None
    except PermissionError:
        raise Unreadable(
            f"{path}: the {what} may not be read: sudo chmod a+r {path}, or run as root"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise Unreadable(f"{path}: the {what} cannot be read ({reason})") from None


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.I | re.ASCII)


def plain_number(text: str) -> float:
    """A decimal number as instruments write it; nan of anything else, such as Python's ``1_0`` or ``inf``."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def number(path: Path, *, what: str) -> float:
    """A number in a sysfs attribute.

    Raises
    ------
    Unreadable
        If it is gone, or is no finite number.
    """
    text = attribute(path, what=what)
    value = plain_number(text)
    if not math.isfinite(value):
        raise Unreadable(f"{path}: {text[:40]!r} is not a number; the {what} must be one")
    return value
