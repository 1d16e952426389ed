# SPDX-License-Identifier: Apache-2.0
"""Joules a token: from a meter while requests run, or from a modelled power and a simulated speed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nomul.host.power import CsvLog, Meter, measure, open_meter, record
from nomul.model.errors import NomulError

from .figures import figure
from .measure import Case, Sample

__all__ = ["IDLE_S", "metered", "modelled_clock_hz", "opened", "steady"]

#: Idling before the first and after the last repetition; counters move in steps of up to 0.1 s.
IDLE_S = 2.0


def opened(names: Sequence[str], *, simulated: bool) -> dict[str, Meter | CsvLog]:
    """A meter for each part of the bench that has one: ``board`` and ``cpu``.

    Parameters
    ----------
    names : sequence of str
        As :func:`~nomul.host.power.open_meter` takes them. ``rapl`` is this machine's, all others are the board's.
    simulated : bool
        Whether the board is; then only a modelled or a typed power says something of it.

    Raises
    ------
    NomulError
        If two are for the same part, or one measures what is not there.
    """
    found: dict[str, Meter | CsvLog] = {}
    try:
        for name in names:
            kind = name.strip().partition(":")[0]
            part = "cpu" if kind == "rapl" else "board"
            if kind == "nvml":
                raise NomulError(f"bench: --meter {name}: no GPU is benched; leave it out")
            if part in found:
                raise NomulError(f"bench: --meter {name}: there is one for the {part} already; give one of them")
            meter = found[part] = open_meter(name)
            if part == "board" and simulated and meter.label == "measured":
                raise NomulError(
                    f"bench: --meter {name}: a simulated board takes no power; use modelled:REPORT.json or --board PORT"
                )
    except BaseException:
        for meter in found.values():
            meter.close()
        raise
    return found


def modelled_clock_hz(name: str, configuration: dict[str, Any]) -> float:
    """The clock that a report's power is of.

    Parameters
    ----------
    name : str
        ``modelled:REPORT.json``.
    configuration : dict
        Of the core that is benched.

    Raises
    ------
    NomulError
        If the report is of another core.
    """
    path = Path(name.strip().partition(":")[2])
    report = json.loads(path.read_text(encoding="utf-8"))  # the meter has read and checked it
    other = report.get("configuration")
    if other is not None and other != configuration:
        names = sorted(k for k in {*other, *configuration} if other.get(k) != configuration.get(k))
        raise NomulError(f"{path}: is a report of another core: {', '.join(names)} differ; make one of this core")
    return float(report.get("activity", {}).get("clock_mhz") or report["core"]["fmax_mhz"]) * 1e6


def metered(
    meter: Meter | CsvLog, case: Case, run: Callable[[], list[Sample]], *, idle_s: float = IDLE_S
) -> tuple[list[Sample], dict[str, Any]]:
    """Runs repetitions under a meter, with idling around them.

    Returns
    -------
    samples : list of Sample
    energy : dict
        ``decode`` and ``request``: joules for each token that users got, of what comes after the first, and of
        everything from the request on; gross and, of a measured power, above idle. And the meter.
    """
    with record(meter) as recorder:
        t0 = time.monotonic()
        time.sleep(idle_s)
        t1 = time.monotonic()
        samples = run()
        t2 = time.monotonic()
        time.sleep(idle_s)
        t3 = time.monotonic()
    trace = recorder.trace()
    found: dict[str, Any] = {}
    for part in ("decode", "request"):
        reports = []
        for sample in samples:
            decode = part == "decode"
            stamps = [t for t in sample.stamps[decode:] for _ in range(case.users)]
            reports.append(
                measure(
                    meter, trace, begin=sample.stamps[0] if decode else sample.begin, tokens=stamps,
                    idle_before=(t0, t1), idle_after=(t2, t3),
                )
            )  # fmt: skip
        part_found = {"joules_per_token": figure([r.joules_per_token for r in reports], "J", meter.label)}
        above = [r.joules_per_token_above_idle for r in reports]
        if all(value is not None for value in above):
            doubt = max(r.above_idle_uncertainty or 0.0 for r in reports)
            part_found["joules_per_token_above_idle"] = figure(
                [value for value in above if value is not None], "J", meter.label, uncertainty=doubt
            )
        found[part] = part_found
        found["meter"] = reports[-1].to_dict()["meter"]
    return samples, found


def steady(meter: Meter, case: Case, rates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Energy of a simulated board: its modelled or typed power over the simulated speed."""
    watts, bounds = meter.read(), meter.bounds_w
    decode = rates["decode_summed"]["value"]
    seconds = rates["ttft"]["value"] + (case.output - 1) / rates["decode"]["value"]
    tokens_per_second = {"decode": decode, "request": case.users * case.output / seconds}
    found: dict[str, Any] = {}
    for part, rate in tokens_per_second.items():
        ends = {"low": bounds[0] / rate, "high": bounds[1] / rate} if bounds else {}
        found[part] = {"joules_per_token": figure(watts / rate, "J", meter.label, **ends)}
    ends = {"low": bounds[0], "high": bounds[1]} if bounds else {}
    found["meter"] = {"name": meter.name, "includes": meter.includes, "watts": figure(watts, "W", meter.label, **ends)}
    return found
