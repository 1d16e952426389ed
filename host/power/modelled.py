# SPDX-License-Identifier: Apache-2.0
"""Power where there is no meter: from a routed design's area, its clock and toggles counted in simulation.

Coefficients, their error bars and sources are in ``coefficients.toml``. An error of a coefficient is the same for all
cells, so low ends add up with low ends, high ends with high ends.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.files import os_errors, parse_json

from .meter import Reading

__all__ = ["Estimate", "ModelledMeter", "coefficients", "design_power", "memory_power", "model_power"]

_RATE_HZ = 20.0
_VOLTS = 1.1  # of an FPGA's core, where it has no other
_AREA = ("comb", "ff", "bram", "multipliers")
_RATES = ("comb", "ff", "bram")
_MEMORY = ("part", "clock_mhz", "read_share", "write_share", "activates_per_second")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Watts with an error bar."""

    low: float
    value: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(low=self.low + other.low, value=self.value + other.value, high=self.high + other.high)

    def times(self, factor: float) -> Estimate:
        """Scaled by a factor of at least 0."""
        return Estimate(low=self.low * factor, value=self.value * factor, high=self.high * factor)


@cache
def coefficients() -> dict[str, Any]:
    """The file of coefficients."""
    return tomllib.loads(resources.files(__package__).joinpath("coefficients.toml").read_text(encoding="utf-8"))


def _of(table: Mapping[str, Any], key: str) -> Estimate:
    low, value, high = table[key]
    return Estimate(low=low, value=value, high=high)


def design_power(
    *,
    part: str,
    clock_mhz: float,
    areas: Mapping[str, Mapping[str, float]],
    rates: Mapping[str, Mapping[str, float]],
    pins: Mapping[str, float] | None = None,
) -> dict[str, Estimate]:
    """Watts of an FPGA, by what takes them.

    Parameters
    ----------
    part : str
        For example ``LFE5U-85F``.
    clock_mhz : float
    areas : mapping of str to mapping
        By unit: ``comb`` (LUT4), ``ff``, ``bram`` (18 Kbit) and ``multipliers`` (18×18).
    rates : mapping of str to mapping
        By unit, 0 to 1: toggles a cycle of a LUT's output (``comb``) and of a flip-flop (``ff``), accesses a cycle of a
        block RAM (``bram``). Multipliers' inputs toggle as flip-flops do.
    pins : mapping, optional
        ``count``, ``rate`` (toggles a cycle) and ``volts`` of outputs.

    Returns
    -------
    dict of str to Estimate
        ``static``, ``auxiliary``, ``clock``, ``signals``, ``bram``, ``multipliers``, ``pins``.
    """
    table = coefficients()
    if part not in table["static"]:
        raise NomulError(f"modelled: no coefficients of {part}; there are: {', '.join(table['static'])}")
    scale = (table["static"][part].get("volts", _VOLTS) / _VOLTS) ** 2
    hertz = scale * clock_mhz * 1e6  # energies are those of 1.1 V
    sums = dict.fromkeys(("ff", "toggles", "accesses", "inputs"), 0.0)
    for unit, area in areas.items():
        rate = rates[unit]
        sums["ff"] += area["ff"]
        sums["toggles"] += area["comb"] * rate.get("comb", 0.0) + area["ff"] * rate.get("ff", 0.0)
        sums["accesses"] += area["bram"] * rate.get("bram", 0.0)
        sums["inputs"] += area["multipliers"] * table["multiplier"]["bits"] * rate.get("ff", 0.0)
    pin_toggles = pins["count"] * pins["rate"] * pins["volts"] ** 2 if pins else 0.0
    return {
        "static": _of(table["static"][part], "watts"),
        "auxiliary": _of(table["auxiliary"], "watts"),
        "clock": _of(table["clock"], "joules").times(sums["ff"] * hertz),
        "signals": _of(table["signal"], "joules").times(sums["toggles"] * hertz),
        "bram": _of(table["bram"], "joules").times(sums["accesses"] * hertz),
        "multipliers": _of(table["multiplier"], "joules").times(sums["inputs"] * hertz),
        "pins": _of(table["pin"], "joules").times(pin_toggles * clock_mhz * 1e6),
    }


def memory_power(
    *,
    part: str,
    clock_mhz: float,
    read_share: float,
    write_share: float,
    activates_per_second: float,
) -> dict[str, Estimate]:
    """Watts of a DDR3 or SDR chip that is never powered down, after Micron's TN-41-01.

    Parameters
    ----------
    part : str
        For example ``MT41K256M16``.
    clock_mhz : float
        Of CK.
    read_share, write_share : float
        Of all cycles, those in which data are read and written.
    activates_per_second : float
        Rows opened.

    Returns
    -------
    dict of str to Estimate
        ``background``, ``activate``, ``read``, ``write``, ``refresh``, ``data``.
    """
    table = coefficients()["memory"]
    if part not in table:
        raise NomulError(f"modelled: no coefficients of the memory {part}; there are: {', '.join(table)}")
    chip = table[part]
    if chip["kind"] == "SDR":
        return _sdr_power(chip, clock_mhz, read_share, write_share, activates_per_second)
    volts, typical = chip["volts"] * 1e-3, chip["typical"]  # currents are in mA
    speed = min(1.0, clock_mhz / chip["clock_mhz"])

    def watts(most: float) -> Estimate:
        return Estimate(low=typical * most, value=most, high=most)

    background = volts * chip["idd3n"]
    # What an activation takes beyond standing by, over the row cycle that IDD0 is measured with.
    standing = (chip["idd3n"] * chip["tras"] + chip["idd2n"] * (chip["trc"] - chip["tras"])) / chip["trc"]
    row = volts * (chip["idd0"] - standing) * chip["trc"] * 1e-9
    refresh = volts * (chip["idd5b"] - chip["idd3n"]) * chip["trfc"] / chip["trefi"]
    data = chip["data_pins"] * (read_share * chip["read_pin_watts"] + write_share * chip["write_pin_watts"])
    return {
        "background": Estimate(low=typical * speed * background, value=speed * background, high=background),
        "activate": watts(row * activates_per_second),
        "read": watts(volts * (chip["idd4r"] - chip["idd3n"]) * read_share * speed),
        "write": watts(volts * (chip["idd4w"] - chip["idd3n"]) * write_share * speed),
        "refresh": watts(refresh),
        "data": watts(data),
    }


def _sdr_power(
    chip: Mapping[str, Any], clock_mhz: float, read_share: float, write_share: float, activates_per_second: float
) -> dict[str, Estimate]:
    volts = chip["volts"] * 1e-3  # currents are in mA
    speed = min(1.0, clock_mhz / chip["clock_mhz"])

    def watts(value: float, most: float = 1.0) -> Estimate:
        return Estimate(low=chip["typical"] * value, value=value, high=chip["most"] * most * value)

    burst = volts * (chip["idd4"] - chip["idd3n"]) * speed
    toggles = chip["data_pins"] * 0.5 * read_share * clock_mhz * 1e6  # of random data; who writes drives the pins
    return {
        "background": watts(volts * chip["idd3n"], max(1.0, clock_mhz / chip["standby_mhz"])),
        "activate": watts(volts * (chip["idd1"] - chip["idd3n"]) * chip["trc"] * 1e-9 * activates_per_second),
        "read": watts(burst * read_share),
        "write": watts(burst * write_share),
        "refresh": watts(volts * (chip["idd5"] - chip["idd3n"]) * chip["trfc"] / chip["trefi"]),
        "data": _of(coefficients()["pin"], "joules").times(toggles * chip["volts"] ** 2),
    }


def model_power(report: Mapping[str, Any], *, where: str) -> dict[str, Estimate]:
    """Watts from a report, by what takes them.

    Parameters
    ----------
    report : mapping
        What ``nomul report --json`` prints (``part``, ``core`` and ``units`` count), with ``activity`` besides:
        ``rates`` by unit, or of ``core`` for all of it; ``clock_mhz``, else the routed one is taken; ``pins`` and
        ``memory`` as :func:`design_power` and :func:`memory_power` take them, if there are any.
    where : str
        Where it comes from, for messages.

    Raises
    ------
    NomulError
        Naming the field that is missing or wrong.
    """
    part = report.get("part")
    if not isinstance(part, str):
        raise NomulError(f"{where}: part is {part!r}; it must be a device, as in nomul report --json")
    activity = _table(report, "activity", where, mend="; python -m nomul.host.cli.activity adds it to a report")
    core = _table(report, "core", where)
    rates = _table(activity, "rates", f"{where}: activity")
    if "core" in rates:
        areas: Mapping[str, Any] = {"core": core}
    else:
        areas = _table(report, "units", where)
    clean_areas, clean_rates = {}, {}
    for unit in areas:
        at = f"{where}: activity: rates: {unit}"
        own, rate = _table(areas, unit, f"{where}: units"), _table(rates, unit, f"{where}: activity: rates")
        clean_areas[unit] = {
            key: _number(own, key, f"{where}: {unit}", most=1e9) for key in _AREA
        }
        for key in _RATES:
            if clean_areas[unit][key] and key not in rate:
                raise NomulError(f"{at}: {key} is missing, and {unit} has {clean_areas[unit][key]:g} {key}")
        clean_rates[unit] = {key: _number(rate, key, at, most=1.0) for key in _RATES if key in rate}
    pins = memory = None
    if "pins" in activity:
        own = _table(activity, "pins", f"{where}: activity")
        pins = {
            key: _number(own, key, f"{where}: activity: pins", most=most)
            for key, most in (("count", 1000), ("rate", 2.0), ("volts", 3.6))
        }
    if "memory" in activity:
        own = _table(activity, "memory", f"{where}: activity")
        missing = [key for key in _MEMORY if key not in own]
        if missing:
            raise NomulError(f"{where}: activity: memory: {missing[0]} is missing")
        at = f"{where}: activity: memory"
        memory = memory_power(
            part=str(own["part"]),
            clock_mhz=_number(own, "clock_mhz", at, most=2000),
            read_share=_number(own, "read_share", at, most=1.0),
            write_share=_number(own, "write_share", at, most=1.0),
            activates_per_second=_number(own, "activates_per_second", at, most=1e9),
        )
    found = design_power(
        part=part,
        clock_mhz=_clock_mhz(report, where),
        areas=clean_areas,
        rates=clean_rates,
        pins=pins,
    )
    return found | {f"memory_{name}": watts for name, watts in (memory or {}).items()}


class ModelledMeter(Reading):
    """The power of a design that was routed and simulated, not built.

    Parameters
    ----------
    path : Path
        A report with activity, as :func:`model_power` takes it.

    Attributes
    ----------
    parts : dict of str to Estimate
        Watts by what takes them.
    configuration : object
        The report's, of the core; None if it has none.
    clock_hz : float
        That the power is of.

    Raises
    ------
    NomulError
        If the file cannot be read or lacks something.
    """

    def __init__(self, path: Path):
        if not path.is_file():
            raise NomulError(f"{path}: no such file; nomul report --json > {path} begins it")
        with os_errors(path):
            report = parse_json(path.read_bytes(), f"{path}:", "name a report, as nomul report --json prints it")
        self.path = path
        self.parts = model_power(report, where=str(path))
        self.configuration: Any = report.get("configuration")
        self.clock_hz = 1e6 * _clock_mhz(report, str(path))
        self.estimate = sum(self.parts.values(), start=Estimate(low=0.0, value=0.0, high=0.0))
        bounds = (self.estimate.low, self.estimate.high)
        part = report["activity"].get("memory", {}).get("part")
        memory = f" and {coefficients()['memory'][part]['kind']} memory {part}" if part else ""
        super().__init__(
            name=f"modelled {path.name}", rate_hz=_RATE_HZ, range_w=bounds, label="modelled", bounds_w=bounds,
            includes=f"FPGA {report['part']}{memory}; not regulators, clocks and what else "
            f"is on a board",
        )  # fmt: skip

    def read(self) -> float:
        """The modelled watts, always the same."""
        return self.estimate.value


def _table(owner: Mapping[str, Any], key: str, where: str, *, mend: str = "") -> Mapping[str, Any]:
    value = owner.get(key)
    if not isinstance(value, dict) or not value:
        raise NomulError(f"{where}: {key} is {'missing' if key not in owner else 'no object'}{mend}")
    return value


def _clock_mhz(report: Mapping[str, Any], where: str) -> float:
    """The activity's clock, else the routed one."""
    activity = _table(report, "activity", where)
    core = _table(report, "core", where)
    clock = activity if "clock_mhz" in activity else {"clock_mhz": core.get("fmax_mhz")}
    found = _number(clock, "clock_mhz", f"{where}: activity", most=2000)
    if not found:
        raise NomulError(f"{where}: activity: clock_mhz is 0; it must be above 0")
    return found


def _number(owner: Mapping[str, Any], key: str, where: str, *, most: float) -> float:
    value = owner.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise NomulError(f"{where}: {key} is {repr(value)[:40]}; it must be a number")
    if not 0 <= value <= most:
        raise NomulError(f"{where}: {key} is {_short(value)}; it must be 0 to {most:g}")
    return float(value)


def _short(value: int | float) -> str:
    """A number that may be too long for a float."""
    try:
        return f"{value:g}"
    except OverflowError:
        return "a number of many digits"
