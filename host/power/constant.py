# SPDX-License-Identifier: Apache-2.0
"""A power that the user has typed in."""

from __future__ import annotations

import math
import re

from nomul.model.errors import NomulError

from .meter import Reading

__all__ = ["ConstantMeter"]

_POWER = re.compile(r"(?P<value>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>m?W)?", re.I)
_RATE_HZ = 20.0


class ConstantMeter(Reading):
    """Always the same; marked as constant, so that nobody takes it for measured.

    Parameters
    ----------
    text : str
        As typed: ``2.5W``, ``850 mW``, or watts without a unit.

    Raises
    ------
    NomulError
        If that is no power.
    """

    def __init__(self, text: str):
        match = _POWER.fullmatch(text.strip())
        watts = float(match["value"]) if match else math.nan
        if match and (match["unit"] or "").lower() == "mw":
            watts *= 1e-3
        if not (math.isfinite(watts) and 0 < watts <= 1e6):
            raise NomulError(f"constant: {text!r} is no power; type for example constant:2.5W")
        self._watts = watts
        super().__init__(
            name=f"constant {watts:g} W", rate_hz=_RATE_HZ, range_w=(watts, watts), label="constant",
            includes="what the user has in mind: nothing was measured",
        )  # fmt: skip

    def read(self) -> float:
        """The constant."""
        return self._watts
