# SPDX-License-Identifier: Apache-2.0
"""Figures with their units and labels: where a number comes from stands beside it everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["LABELS", "Spread", "brief", "figure", "shown"]

#: What each label means.
LABELS = {
    "measured": "wall clock of this machine or of a real board; energy from a meter",
    "simulated": "cycles of the RTL in simulation over a clock; no board was there",
    "computed": "follows from sizes, the program and the memory image; nothing was timed",
    "modelled": "power from area, clock and simulated toggles, with an error bar; no meter",
    "constant": "a power that the user typed",
    "routed": "a clock that place and route gave; no board was there",
    "cited": "another's figure, as its source gives it",
}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and quartiles of repetitions.

    Attributes
    ----------
    median, q1, q3, least, most : float
        Quartiles lie on straight lines between the ordered values.
    count : int
    """

    median: float
    q1: float
    q3: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one finite value.

        Raises
        ------
        ValueError
            If there is none, or one is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if not len(array) or not np.isfinite(array).all():
            raise ValueError(f"spread of {list(values)}: it must be at least one finite value")
        q1, median, q3 = (float(v) for v in np.percentile(array, [25, 50, 75]))
        return cls(median=median, q1=q1, q3=q3, least=float(array.min()), most=float(array.max()), count=len(array))


def figure(value: float | Sequence[float], unit: str, label: str, **more: Any) -> dict[str, Any]:
    """For JSON: a value, or the spread of several, with unit and label.

    Raises
    ------
    ValueError
        If there is no such label.
    """
    if label not in LABELS:
        raise ValueError(f"figure: label {label!r}; one of {', '.join(LABELS)}")
    if isinstance(value, int | float):
        return {"value": value, "unit": unit, "label": label, **more}
    s = Spread.of(value)
    spread = {"q1": s.q1, "q3": s.q3, "least": s.least, "most": s.most, "count": s.count}
    return {"value": s.median, "unit": unit, "label": label, **spread, **more}


_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))


def shown(value: float, unit: str = "") -> str:
    """A value as people read it: three digits that count, and a prefix for units that take one."""
    if unit in ("s", "J", "B", "B/s", "Hz", "W") and value:
        factor, prefix = next((pair for pair in _PREFIXES if abs(value) >= pair[0] * 0.9995), _PREFIXES[-1])
        return f"{_digits(value / factor)} {prefix}{unit}"
    return f"{_digits(value)} {unit}".rstrip()


def brief(value: float) -> str:
    """A bare number for where there is little room: with a prefix from 100,000 on."""
    if abs(value) < 99_950:
        return shown(value)
    return shown(value, "B").removesuffix("B")


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 100 or float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.3g}"
