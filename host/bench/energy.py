# SPDX-License-Identifier: Apache-2.0
"""Joules a token: from a meter while requests run, or from a modelled power and a simulated speed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nomul.host.power import CsvLog, Meter, measure, open_meter, record
from nomul.host.power.modelled import ModelledMeter
from nomul.model.errors import NomulError

from .figures import figure
from .measure import Case, Sample

__all__ = [
    "IDLE_S", "energy_figures", "metered", "modelled_clock_hz", "opened", "steady", "steady_figures",
]  # fmt: skip

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


def modelled_clock_hz(meter: ModelledMeter, configuration: dict[str, Any]) -> float:
    """The clock that a report's power is of.

    Parameters
    ----------
    meter : ModelledMeter
    configuration : dict
        Of the core that is benched.

    Raises
    ------
    NomulError
        If the report is of another core.
    """
    other = meter.configuration
    if not isinstance(other, dict):
        raise NomulError(
            f"{meter.path}: configuration is {'missing' if other is None else 'no object'}: nobody knows which core's "
            f"power it is; nomul report --json makes one with it"
        )
    names = sorted(str(k) for k in {*other, *configuration} if other.get(k) != configuration.get(k))
    if names:
        raise NomulError(f"{meter.path}: is a report of another core: {', '.join(names)} differ; make one of this core")
    return meter.clock_hz


def metered(
    meter: Meter | CsvLog, case: Case, run: Callable[[], list[Sample]], *, idle_s: float | None = None
) -> tuple[list[Sample], dict[str, Any]]:
    """Runs repetitions under a meter, with idling around them.

    The first sample is waited for before idling begins, and after it ended for one that was taken later.

    Returns
    -------
    samples : list of Sample
    energy : dict
        ``samples``: joules of each repetition; ``idle``; ``meter``; and what follows from them, see
        :func:`energy_figures`.

    Raises
    ------
    NomulError
        If the meter gives no samples in time, or they do not cover the work.
    """
    idle_s = IDLE_S if idle_s is None else idle_s
    with record(meter) as recorder:
        recorder.wait()
        t0 = time.monotonic()
        time.sleep(idle_s)
        t1 = time.monotonic()
        samples = run()
        t2 = time.monotonic()
        time.sleep(idle_s)
        t3 = time.monotonic()
        recorder.wait(t3)
    trace = recorder.trace()
    joules: list[dict[str, float]] = [{} for _ in samples]
    report = None
    for number, sample in enumerate(samples):
        for part, first in (("decode", 1), ("request", 0)):
            stamps = [t for t in sample.stamps[first:] for _ in range(case.users)]
            report = measure(
                meter, trace, begin=sample.stamps[0] if first else sample.begin, tokens=stamps,
                idle_before=(t0, t1), idle_after=(t2, t3),
            )  # fmt: skip
            joules[number][part] = report.joules
    assert report is not None
    before, after = report.idle_before_w, report.idle_after_w
    idle = None
    if before is not None and after is not None:
        idle = {"seconds": idle_s, "before": figure(before, "W", meter.label), "after": figure(after, "W", meter.label)}
    times = [(sample.first_s, sample.last_s) for sample in samples]
    told = report.to_dict()["meter"] | {"samples": len(trace.times)}
    del told["samples_per_token"]
    return samples, energy_figures(case, times, joules, idle, meter.label) | {"meter": told}


def energy_figures(
    case: Case,
    times: Sequence[tuple[float, float]],
    joules: Sequence[dict[str, float]],
    idle: dict[str, Any] | None,
    label: str,
) -> dict[str, Any]:
    """What follows from the joules of repetitions and from idle power.

    Parameters
    ----------
    case : Case
    times : sequence of (float, float)
        Seconds to the first and to the last token, of each repetition.
    joules : sequence of dict
        ``decode`` and ``request`` of each repetition: from the first token on, and from the request on.
    idle : dict or None
        ``before`` and ``after``, figures in watts.
    label : str

    Returns
    -------
    dict
        ``decode`` and ``request``: joules for each token that users got, gross and above idle, whose ``uncertainty`` is
        half the difference between idling before and after, of the longest repetition; ``samples`` and ``idle`` again.
    """
    found: dict[str, Any] = {"samples": list(joules), "idle": idle}
    for part in ("decode", "request"):
        tokens = case.users * (case.output - (part == "decode"))
        seconds = [last - first if part == "decode" else last for first, last in times]
        gross = [one[part] for one in joules]
        found[part] = {"joules_per_token": figure([value / tokens for value in gross], "J", label)}
        if idle is None:
            continue
        before, after = idle["before"]["value"], idle["after"]["value"]
        found[part]["joules_per_token_above_idle"] = figure(
            [(value - (before + after) / 2 * s) / tokens for value, s in zip(gross, seconds, strict=True)], "J", label,
            uncertainty=max(abs(after - before) / 2 * s / tokens for s in seconds),
        )  # fmt: skip
    return found


def steady(meter: Meter, case: Case, rates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Energy of a simulated board: its modelled or typed power over the simulated speed."""
    bounds = meter.bounds_w
    ends = {"low": bounds[0], "high": bounds[1]} if bounds else {}
    watts = figure(meter.read(), "W", meter.label, **ends)
    return steady_figures(watts, case, rates) | {
        "meter": {"name": meter.name, "includes": meter.includes, "watts": watts}
    }


def steady_figures(watts: dict[str, Any], case: Case, rates: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Joules a token of a steady power, a figure in watts with or without ``low`` and ``high``."""
    decode = rates["decode_summed"]["value"]
    seconds = rates["ttft"]["value"] + (case.output - 1) / rates["decode"]["value"]
    tokens_per_second = {"decode": decode, "request": case.users * case.output / seconds}
    found: dict[str, Any] = {}
    for part, rate in tokens_per_second.items():
        ends = {end: watts[end] / rate for end in ("low", "high") if end in watts}
        found[part] = {"joules_per_token": figure(watts["value"] / rate, "J", watts["label"], **ends)}
    return found
