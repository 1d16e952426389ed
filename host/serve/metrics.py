# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .engine import Engine

__all__ = ["Metrics", "Power"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


@dataclass(frozen=True, kw_only=True)
class Power:
    """A meter that is asked, and what its figures are worth.

    Attributes
    ----------
    watts : callable
        Gives the power now, or None while the meter is away.
    label : str
        ``"measured"``, ``"constant"`` or ``"modelled"``.
    meter : str
        Its name.
    includes : str
        What the figure covers.
    bounds_w : (float, float) or None
        Error bar of a modelled figure.
    """

    watts: Callable[[], float | None]
    label: str
    meter: str
    includes: str
    bounds_w: tuple[float, float] | None = None


class _OfEngine:
    """What the engine knows, read when it is asked for."""

    def __init__(self, engine: Engine, power: Power | None):
        self._engine = engine
        self._power = power

    def collect(self) -> Iterator[Metric]:
        engine = self._engine
        for name, text, count in (
            ("nomul_generated_tokens", "Tokens generated.", engine.tokens),
            ("nomul_steps", "Steps of the board.", engine.steps),
            ("nomul_lane_tokens", "Tokens that lanes processed, of prompts too.", engine.lane_tokens),
        ):
            yield CounterMetricFamily(name, text, value=count)
        busy = sum(user is not None for user in engine.occupants)
        for name, text, value in (
            ("nomul_lanes", "Lanes of the board.", engine.lanes),
            ("nomul_lanes_busy", "Lanes with a token in the latest row.", busy),
            ("nomul_texts", "Texts at work, waiting or not yet fetched.", engine.texts),
            ("nomul_texts_waiting", "Texts without a lane.", engine.waiting),
            ("nomul_board_up", "0 if the latest job failed.", engine.fault is None),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        power = self._power
        watts = power.watts() if power else None
        if power is not None and watts is not None:
            figures = [("nomul_watts", "Power by the meter; its label says what the figure is worth.", watts)]
            if power.bounds_w is not None:
                low, high = power.bounds_w
                figures += [
                    ("nomul_watts_low", "Lower end of that figure's error bar.", low),
                    ("nomul_watts_high", "Upper end of that figure's error bar.", high),
                ]
            for name, text, shown in figures:
                family = GaugeMetricFamily(name, text, labels=["label", "meter"])
                family.add_metric([power.label, power.meter], shown)
                yield family


class Metrics:
    """Counters and times of requests, with what the engine and the process tell of themselves.

    Attributes
    ----------
    requests : Counter
        By endpoint and outcome.
    prompt_tokens : Counter
    first_token, seconds : Histogram
        From a request's body to its first token and to its end, by endpoint.
    """

    def __init__(self, engine: Engine, power: Power | None):
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "nomul_requests", "Requests by endpoint and outcome.", ["endpoint", "outcome"], registry=registry
        )
        self.prompt_tokens = Counter("nomul_prompt_tokens", "Tokens of prompts let in.", registry=registry)
        self.first_token = Histogram(
            "nomul_first_token_seconds", "From the request to its first token.", ["endpoint"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "nomul_request_seconds", "From the request to its end.", ["endpoint"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        ProcessCollector(registry=registry)
        registry.register(_OfEngine(engine, power))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
