# SPDX-License-Identifier: Apache-2.0
"""Power monitors that Linux shows below ``/sys/class/hwmon``."""

from __future__ import annotations

import math
from pathlib import Path

from nomul.model.errors import NomulError

from .meter import Reading, Unreadable, attribute, number

__all__ = ["CHIPS", "HwmonMeter", "devices", "full_scale"]

#: Full scale of the shunt's voltage and of the bus, volts; an INA260 has a shunt of 2 mΩ inside.
CHIPS = {
    "ina219": (0.32, 26.0),
    "ina220": (0.32, 26.0),
    "ina226": (0.08192, 36.0),
    "ina230": (0.08192, 28.0),
    "ina231": (0.08192, 28.0),
    "ina260": (0.03, 36.0),
}
_RATE_HZ = 20.0  # where the driver does not say
_FASTEST_HZ = 200.0  # of I2C at 100 kHz, with three registers a reading


def devices(root: Path, pattern: str) -> dict[str, Path]:
    """Folders of devices, by folder name and by what the driver calls the chip.

    Raises
    ------
    NomulError
        If the kernel shows no such folder.
    """
    if not root.is_dir():
        raise NomulError(f"{root}: no such folder; is this Linux, and is the driver loaded?")
    return {path.name: path for path in sorted(root.glob(pattern)) if (path / "name").is_file()}


def choose(root: Path, pattern: str, wanted: str) -> Path:
    """The one device with a folder name or chip name.

    Raises
    ------
    NomulError
        If there is none or are several; with those that there are.
    """
    found = devices(root, pattern)
    if wanted in found:
        return found[wanted]
    names = {folder: attribute(path / "name", what="name") for folder, path in found.items()}
    matching = [folder for folder, name in names.items() if name == wanted]
    if len(matching) == 1:
        return found[matching[0]]
    if matching:
        raise NomulError(f"{root}: {len(matching)} devices are called {wanted}; name one: {', '.join(matching)}")
    shown = ", ".join(f"{folder} ({name})" for folder, name in names.items()) or "none"
    raise NomulError(f"{root}: no device is called {wanted!r}; there are: {shown}")


def full_scale(chip: str, shunt_ohms: float) -> tuple[float, float]:
    """Amperes and watts that a chip can tell; endless for one that is not known."""
    if chip not in CHIPS:
        return math.inf, math.inf
    shunt, bus = CHIPS[chip]
    amperes = shunt / shunt_ohms
    return amperes, amperes * bus


class HwmonMeter(Reading):
    """An INA219, INA226, INA260 or another chip with a power or a current and a voltage.

    ``power1_input`` in µW; where there is none, ``curr1_input`` in mA times ``in1_input`` in mV.

    Parameters
    ----------
    device : str
        The chip's name (``ina226``), or the folder's (``hwmon3``) where there are several.
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
        root: Path = Path("/sys/class/hwmon"),
        includes: str = "what runs through the shunt",
    ):
        self._folder = choose(root, "hwmon*", device)
        chip = attribute(self._folder / "name", what="name")
        self._has_power = (self._folder / "power1_input").is_file()
        self._has_current = (self._folder / "curr1_input").is_file()
        if not self._has_power and not (self._has_current and (self._folder / "in1_input").is_file()):
            raise NomulError(f"{self._folder}: {chip} has neither power1_input nor curr1_input and in1_input")
        shunt = 0.002 if chip == "ina260" else math.nan
        if (self._folder / "shunt_resistor").is_file():
            shunt = number(self._folder / "shunt_resistor", what="shunt") * 1e-6
            if shunt <= 0:
                raise NomulError(f"{self._folder}/shunt_resistor: {shunt * 1e6:g} µΩ; it must be above 0")
        self._amperes, watts = full_scale(chip if shunt == shunt else "", shunt)
        interval = self._folder / "update_interval"
        rate = _RATE_HZ
        if interval.is_file():
            rate = 1000 / max(number(interval, what="interval"), 1000 / _FASTEST_HZ)
        super().__init__(
            name=f"hwmon {chip} ({self._folder.name})", rate_hz=rate, range_w=(0.0, watts), includes=includes
        )

    def read(self) -> float:
        """See :meth:`~nomul.host.power.meter.Meter.read`."""
        amperes = None
        if self._has_current:
            amperes = number(self._folder / "curr1_input", what="current") * 1e-3
            if abs(amperes) >= 0.999 * self._amperes:
                raise Unreadable(f"{self.name}: {amperes:g} A is the shunt's full scale: it has overflowed")
        if self._has_power:
            return number(self._folder / "power1_input", what="power") * 1e-6
        assert amperes is not None
        return amperes * number(self._folder / "in1_input", what="voltage") * 1e-3
