# SPDX-License-Identifier: Apache-2.0
"""Power monitors that Linux shows below ``/sys/bus/iio/devices``."""

from __future__ import annotations

import math
import re
from pathlib import Path

from nomul.model.errors import NomulError

from .hwmon import choose, full_scale
from .meter import Reading, Unreadable, attribute, number

__all__ = ["IioMeter"]

_RATE_HZ = 20.0
_FASTEST_HZ = 200.0  # one attribute after another, not through the kernel's buffer


class IioMeter(Reading):
    """A chip with a power channel, or with a current and a voltage.

    A channel's value is ``(raw + offset) × scale``: mW, mA and mV. Of two voltages the one with the higher number is
    the bus; the other is the shunt's.

    Parameters
    ----------
    device : str
        The chip's name (``ina226``), or the folder's (``iio:device0``) where there are several.
    root : Path
        Where the kernel shows devices.
    includes : str
        What runs through the shunt.

    Raises
    ------
    NomulError
        If there is no such device or it measures no power.
    """

    def __init__(
        self,
        device: str,
        *,
        root: Path = Path("/sys/bus/iio/devices"),
        includes: str = "what runs through the shunt",
    ):
        self._folder = choose(root, "iio:device*", device)
        chip = attribute(self._folder / "name", what="name")
        self._power = self._channel("power")
        self._current, self._voltage = self._channel("current"), self._channel("voltage")
        if self._power is None and (self._current is None or self._voltage is None):
            raise NomulError(f"{self._folder}: {chip} has neither a power nor a current and a voltage")
        shunt = 0.002 if chip == "ina260" else math.nan
        for name in ("shunt_resistor", "in_shunt_resistor"):
            if (self._folder / name).is_file():
                shunt = number(self._folder / name, what="shunt")
                if shunt <= 0:
                    raise NomulError(f"{self._folder}/{name}: {shunt:g} Ω; it must be above 0")
        self._amperes, watts = full_scale(chip if shunt == shunt else "", shunt)
        rate = _RATE_HZ
        for name in ("sampling_frequency", "in_sampling_frequency"):
            if (self._folder / name).is_file():
                rate = min(number(self._folder / name, what="rate"), _FASTEST_HZ)
        super().__init__(
            name=f"iio {chip} ({self._folder.name})", rate_hz=rate, range_w=(0.0, watts), includes=includes
        )

    def read(self) -> float:
        """See :meth:`~nomul.host.power.meter.Meter.read`."""
        amperes = None
        if self._current is not None:
            amperes = self._value(self._current) * 1e-3
            if abs(amperes) >= 0.999 * self._amperes:
                raise Unreadable(f"{self.name}: {amperes:g} A is the shunt's full scale: it has overflowed")
        if self._power is not None:
            return self._value(self._power) * 1e-3
        assert amperes is not None
        assert self._voltage is not None
        return amperes * self._value(self._voltage) * 1e-3

    def _channel(self, kind: str) -> str | None:
        """The channel of a kind with the highest number."""
        names = [path.name for path in self._folder.glob(f"in_{kind}*")]
        found = {m[1] for m in map(re.compile(rf"(in_{kind}\d*)_(?:raw|input)").fullmatch, names) if m}
        return max(found, key=lambda name: int(name.removeprefix(f"in_{kind}") or 0), default=None)

    def _value(self, channel: str) -> float:
        if (self._folder / f"{channel}_input").is_file():
            return number(self._folder / f"{channel}_input", what="channel")
        raw = number(self._folder / f"{channel}_raw", what="channel")
        offset = self._folder / f"{channel}_offset"
        scale = self._folder / f"{channel}_scale"
        if offset.is_file():
            raw += number(offset, what="offset")
        return raw * number(scale, what="scale") if scale.is_file() else raw
