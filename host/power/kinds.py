# SPDX-License-Identifier: Apache-2.0
"""Meters by name, as a user types them."""

from __future__ import annotations

import difflib
from pathlib import Path

from nomul.model.errors import NomulError

from .constant import ConstantMeter
from .csv_log import CsvLog
from .hwmon import HwmonMeter
from .iio import IioMeter
from .meter import Meter
from .modelled import ModelledMeter
from .nvml import NvmlMeter
from .rapl import RaplMeter
from .scpi import ScpiMeter

__all__ = ["KINDS", "open_meter"]

#: What stands behind each kind's colon; empty if nothing may.
KINDS = {
    "hwmon": "CHIP",
    "iio": "CHIP",
    "scpi": "RESOURCE",
    "csv": "FILE",
    "rapl": "",
    "nvml": "[INDEX]",
    "constant": "WATTS",
    "modelled": "REPORT.json",
}


def open_meter(name: str, *, includes: str | None = None) -> Meter | CsvLog:
    """A meter: ``hwmon:ina226``, ``iio:ina226``, ``scpi:TCPIP::10.0.0.5::INSTR``, ``csv:FILE``, ``rapl``, ``nvml:0``,
    ``constant:2.5W`` or ``modelled:REPORT.json``.

    Parameters
    ----------
    name : str
        Kind, and behind a colon what it needs, see :data:`KINDS`.
    includes : str, optional
        What the meter covers, in the user's words, for reports; by default what is known of its kind. Not of a power
        that nobody measures.

    Raises
    ------
    NomulError
        If there is no such kind, with those that come near; or it does not open.
    ModuleNotFoundError
        If its library is not installed: extra ``meters`` for SCPI, ``gpu`` for NVML.
    """
    kind, colon, rest = name.strip().partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind.lower(), KINDS, n=2, cutoff=0.5) or list(KINDS)
        shown = " or ".join(_usage(k) for k in near)
        raise NomulError(f"power: no meter of kind {kind!r}; did you mean {shown}?")
    needed = KINDS[kind]
    if (needed and not rest and not needed.startswith("[")) or (colon and not needed):
        raise NomulError(f"power: {name!r}; it must be {_usage(kind)}")
    meter = _open(name, kind, rest)
    if includes is not None:
        if meter.label != "measured":
            meter.close()
            raise NomulError(f"power: {name!r} is {meter.label}; what it includes is not for the user to say")
        meter.includes = includes
    return meter


def _open(name: str, kind: str, rest: str) -> Meter | CsvLog:
    match kind:
        case "hwmon":
            return HwmonMeter(rest)
        case "iio":
            return IioMeter(rest)
        case "scpi":
            return ScpiMeter(rest)
        case "csv":
            return CsvLog(Path(rest))
        case "rapl":
            return RaplMeter()
        case "nvml":
            if rest and not (rest.isascii() and rest.isdigit()):
                raise NomulError(f"power: {name!r}; behind the colon must be a number of a GPU")
            return NvmlMeter(int(rest or 0))
        case "constant":
            return ConstantMeter(rest)
        case _:
            return ModelledMeter(Path(rest))


def _usage(kind: str) -> str:
    needed = KINDS[kind]
    return f"{kind}[:{needed[1:]}" if needed.startswith("[") else f"{kind}:{needed}" if needed else kind
