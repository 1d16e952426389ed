# SPDX-License-Identifier: Apache-2.0
"""``nomul power``."""

from __future__ import annotations

import time
from typing import Any

import click
import numpy as np
from rich.console import Console

from nomul.host.power import KINDS, LogRecorder, open_meter, record
from nomul.model.errors import NomulError

from .common import json_option, print_json

__all__ = ["power_command"]


def reading(name: str, seconds: float) -> dict[str, Any]:
    """What a meter says over some seconds."""
    meter = open_meter(name)
    try:
        with record(meter) as recorder:
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))
                if not isinstance(recorder, LogRecorder) and recorder.ended:
                    break
        trace = recorder.trace()
    finally:
        meter.close()
    steps, energies = np.diff(trace.times), np.diff(trace.until(trace.times))
    good = np.ones(len(steps), dtype=bool)
    for gap in trace.gaps:
        good &= (trace.times[1:] <= gap.begin) | (trace.times[:-1] >= gap.end)
    if not good.any():
        raise NomulError(f"{meter.name}: no two samples in a row within {seconds:g} s; measure longer")
    joules, covered = float(energies[good].sum()), float(steps[good].sum())
    watts = energies[good] / steps[good]
    return {
        "meter": meter.name,
        "label": meter.label,
        "includes": meter.includes,
        "rate_hz": meter.rate_hz,
        "reached_hz": trace.rate_hz,
        "range_w": [value if np.isfinite(value) else None for value in meter.range_w],
        "bounds_w": list(meter.bounds_w) if meter.bounds_w else None,
        "seconds": covered,
        "samples": len(trace.times),
        "joules": joules,
        "mean_watts": joules / covered,
        "lowest_watts": float(watts.min()),
        "highest_watts": float(watts.max()),
        "gaps": [gap.why for gap in trace.gaps],
    }


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    label = found["label"]
    bounds = "" if not found["bounds_w"] else " ({:.3g} to {:.3g} W)".format(*found["bounds_w"])
    console.print(f"{found['mean_watts']:.4g} W{bounds}, {label}", style="bold", markup=False)
    ends = ["?" if value is None else f"{value:.4g}" for value in found["range_w"]]
    for name, text in (
        ("meter", f"{found['meter']}, range {ends[0]} to {ends[1]} W"),
        ("rate", f"asked at {found['rate_hz']:.4g} Hz, {found['reached_hz']:.4g} Hz came"),
        ("includes", found["includes"]),
        ("samples", f"{found['samples']} in {found['seconds']:.2f} s, {found['lowest_watts']:.4g} to "
                    f"{found['highest_watts']:.4g} W"),
        ("energy", f"{found['joules']:.4g} J, {label}"),
        *(("gap", why) for why in found["gaps"]),
    ):  # fmt: skip
        console.print(f"{name:<10} {text}", markup=False)


@click.command("power", epilog=f"Meters: {', '.join(f'{k}:{v}' if v else k for k, v in KINDS.items())}.")
@click.argument("meter")
@click.option("--seconds", type=click.FloatRange(min=0.1, max=3600), default=5.0, show_default=True,
              help="How long to look.")  # fmt: skip
@json_option
def power_command(meter: str, seconds: float, as_json: bool) -> None:
    """What a power meter says: to see that it works, and what the device takes when idle.

    \b
    Example:
      nomul power hwmon:ina226 --seconds 10
    """
    found = reading(meter, seconds)
    print_json(found) if as_json else _show(found)
