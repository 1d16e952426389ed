# SPDX-License-Identifier: Apache-2.0
"""From samples and token times to joules a token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nomul.model.errors import NomulError

from .csv_log import CsvLog
from .meter import Meter
from .trace import Gap, Trace

__all__ = ["EnergyReport", "Span", "measure", "token_energies"]

_IDLE_SAMPLES = 2  # fewer within a span of idling say nothing
Span = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """Energy of a run of tokens.

    Energies are integrals over samples, from when the work began to the last token. ``above_idle`` leaves out what
    the device takes without work: the mean of idle power before and after, over the same time; half the difference
    between the two is its uncertainty. A constant or modelled power has no idle.

    Attributes
    ----------
    label : str
        ``"measured"``, ``"constant"`` or ``"modelled"``: holds for every figure here.
    rate_hz, reached_hz : float
        How often the meter was to be asked, and how often samples came, over the whole record.
    samples : int
        During the work.
    samples_per_token : float
        Below 1, energies of single tokens are interpolated; sums and means are not affected.
    gaps : tuple of Gap
        In the whole record; none lies in a span that was used.
    """

    label: str
    meter: str
    rate_hz: float
    reached_hz: float
    range_w: Span
    includes: str
    tokens: int
    seconds: float
    joules: float
    joules_per_token: float
    tokens_per_joule: float
    mean_watts: float
    joules_per_token_above_idle: float | None
    above_idle_uncertainty: float | None
    idle_before_w: float | None
    idle_after_w: float | None
    bounds_per_token: Span | None
    samples: int
    samples_per_token: float
    gaps: tuple[Gap, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: each figure with its unit and label; endless ranges as ``None``."""

        def figure(value: float | None, unit: str, **more: Any) -> dict[str, Any] | None:
            return None if value is None else {"value": value, "unit": unit, "label": self.label, **more}

        bounds = {"low": self.bounds_per_token[0], "high": self.bounds_per_token[1]} if self.bounds_per_token else {}
        inverse = {"low": 1 / bounds["high"], "high": 1 / bounds["low"]} if bounds else {}
        above = {"uncertainty": self.above_idle_uncertainty}
        return {
            "label": self.label,
            "joules_per_token": figure(self.joules_per_token, "J", **bounds),
            "joules_per_token_above_idle": figure(self.joules_per_token_above_idle, "J", **above),
            "tokens_per_joule": figure(self.tokens_per_joule, "1/J", **inverse),
            "mean_watts": figure(self.mean_watts, "W"),
            "joules": figure(self.joules, "J"),
            "idle_before_w": figure(self.idle_before_w, "W"),
            "idle_after_w": figure(self.idle_after_w, "W"),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "meter": {
                "name": self.meter,
                "rate_hz": self.rate_hz,
                "reached_hz": self.reached_hz,
                "range_w": [value if np.isfinite(value) else None for value in self.range_w],
                "includes": self.includes,
                "samples": self.samples,
                "samples_per_token": self.samples_per_token,
                "gaps": [{"seconds": gap.end - gap.begin if np.isfinite(gap.end) else None, "why": gap.why}
                         for gap in self.gaps],
            },
        }  # fmt: skip


def measure(
    meter: Meter | CsvLog,
    trace: Trace,
    *,
    begin: float,
    tokens: Sequence[float],
    idle_before: Span | None = None,
    idle_after: Span | None = None,
) -> EnergyReport:
    """Energy from the begin of the work to the last token.

    Parameters
    ----------
    meter, trace
        What was asked, and what it said.
    begin : float
        When work began, on the trace's clock.
    tokens : sequence of float
        When each token came, rising.
    idle_before, idle_after : (float, float), optional
        Begin and end of the spans in which the device idled. A measured power has both.

    Raises
    ------
    NomulError
        If samples do not cover a span, or idle was not measured on both sides.
    """
    stamps = _stamps(begin, tokens)
    end = float(stamps[-1])
    joules, seconds = trace.energy(begin, end), end - begin
    count = len(tokens)
    before = after = above = uncertainty = None
    if meter.label == "measured":
        if idle_before is None or idle_after is None:
            raise NomulError(f"{meter.name}: idle power is measured before and after the work; one is missing")
        if idle_before[1] > begin or idle_after[0] < end:
            raise NomulError(f"{meter.name}: a span of idling lies within the work")
        before, after = (_idle(trace, span, which) for span, which in ((idle_before, "before"), (idle_after, "after")))
        # Idle power runs straight from one to the other: its integral is the mean over the time.
        above = (joules - (before + after) / 2 * seconds) / count
        uncertainty = abs(after - before) / 2 * seconds / count
    samples = trace.samples(begin, end)
    bounds = None
    if meter.bounds_w is not None:
        low, high = meter.bounds_w
        bounds = (low * seconds / count, high * seconds / count)
    if joules <= 0:
        raise NomulError(f"{meter.name}: {joules:g} J for {count} tokens; is the device behind this meter?")
    return EnergyReport(
        label=meter.label,
        meter=meter.name,
        rate_hz=meter.rate_hz,
        reached_hz=trace.rate_hz,
        range_w=meter.range_w,
        includes=meter.includes,
        tokens=count,
        seconds=seconds,
        joules=joules,
        joules_per_token=joules / count,
        tokens_per_joule=count / joules,
        mean_watts=joules / seconds,
        joules_per_token_above_idle=above,
        above_idle_uncertainty=uncertainty,
        idle_before_w=before,
        idle_after_w=after,
        bounds_per_token=bounds,
        samples=samples,
        samples_per_token=samples / count,
        gaps=trace.gaps,
    )


def token_energies(trace: Trace, *, begin: float, tokens: Sequence[float]) -> np.ndarray:
    """Joules of each token ``[N]``: from the one before, the first from ``begin``.

    Raises
    ------
    NomulError
        If samples do not cover them.
    """
    stamps = np.concatenate([[begin], _stamps(begin, tokens)])
    trace.check(begin, float(stamps[-1]))
    return np.diff(trace.until(stamps))


def _stamps(begin: float, tokens: Sequence[float]) -> np.ndarray:
    stamps = np.asarray(tokens, dtype=np.float64)
    if not len(stamps):
        raise NomulError("energy: no token times; there must be at least one")
    steps = np.diff(np.concatenate([[begin], stamps]))
    if not np.isfinite(stamps).all() or (steps < 0).any() or stamps[-1] <= begin:
        k = int(np.argmax(~(steps >= 0)))
        raise NomulError(f"energy: token {k} came at {stamps[k]:.6f} s, before what preceded it: the clock jumped")
    return stamps


def _idle(trace: Trace, span: Span, which: str) -> float:
    try:
        watts = trace.mean_watts(*span)
    except NomulError as error:
        raise NomulError(f"idle {which} the work: {error}") from None
    if trace.samples(*span) < _IDLE_SAMPLES:
        raise NomulError(
            f"{trace.name}: {trace.samples(*span)} samples while idling {which} the work for "
            f"{span[1] - span[0]:.3f} s; idle longer"
        )
    return watts
