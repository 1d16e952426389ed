# SPDX-License-Identifier: Apache-2.0
"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from .engine import Engine

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class _OfEngine:
    """What the engine knows, read when it is asked for."""

    def __init__(self, engine: Engine, watts: Callable[[], float | None]):
        self._engine = engine
        self._watts = watts

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
        watts = self._watts()
        if watts is not None:
            yield GaugeMetricFamily("nomul_watts", "Power by the meter.", value=watts)


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

    def __init__(self, engine: Engine, watts: Callable[[], float | None]):
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
        registry.register(_OfEngine(engine, watts))

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)
