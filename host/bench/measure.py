# SPDX-License-Identifier: Apache-2.0
"""Requests of given lengths, repeated, and what is made of their times."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import LaneToken

from .figures import figure

__all__ = ["Case", "Pass", "Sample", "Target", "cases", "figures_of", "prompts_of", "rates", "request_rows", "serve"]

Row = Sequence[LaneToken | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Users that come at once with prompts of one length and want as many tokens.

    Attributes
    ----------
    prompt, output : int
        Tokens; at least 1, and at least 2, so that there is a time between two.
    users : int
    """

    prompt: int
    output: int
    users: int = 1

    def __post_init__(self) -> None:
        for name, least in (("prompt", 1), ("output", 2), ("users", 1)):
            if getattr(self, name) < least:
                raise NomulError(f"bench: {name} is {getattr(self, name)}; it must be at least {least}")


def cases(prompts: Sequence[int], outputs: Sequence[int], lanes: int) -> list[Case]:
    """Every pair of lengths, for one user and for as many as there are lanes."""
    return [
        Case(prompt=prompt, output=output, users=users)
        for users in sorted({1, lanes})
        for prompt in prompts
        for output in outputs
    ]


def prompts_of(case: Case, vocab: int, seed: int) -> list[list[int]]:
    """The prompt of each user: random tokens, the same for the same seed, lengths and user."""
    return [
        np.random.default_rng([seed, case.prompt, user]).integers(0, vocab, case.prompt).tolist()
        for user in range(case.users)
    ]


@dataclass(kw_only=True)
class Pass:
    """Cycles of a core: all, and by what they went to.

    Attributes
    ----------
    rows : int
        Steps of the core.
    cycles : int
    phases : dict of str to int
        Sum to ``cycles``.
    """

    rows: int = 0
    cycles: int = 0
    phases: dict[str, int] = field(default_factory=dict)

    def add(self, cycles: int, phases: dict[str, int]) -> None:
        """A step more."""
        self.rows += 1
        self.cycles += cycles
        for name, value in phases.items():
            self.phases[name] = self.phases.get(name, 0) + value


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One request, or one of each user at once.

    Attributes
    ----------
    first_s, last_s : float
        From the begin until every user has its first and its last token.
    tokens : list of list of int
        What each user got.
    begin : float
        On the monotonic clock.
    stamps : list of float
        When the tokens came, on the same clock; empty where time is simulated.
    prefill, decode : Pass or None
        Cycles of the core until the first token, and after it.
    worked_cycles : int or None
        Of the simulated board while it was driven as a user drives it: link included, idling left out.
    """

    first_s: float
    last_s: float
    tokens: list[list[int]]
    begin: float = 0.0
    stamps: list[float] = field(default_factory=list)
    prefill: Pass | None = None
    decode: Pass | None = None
    worked_cycles: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without tokens and stamps."""
        made: dict[str, Any] = {"first_s": self.first_s, "last_s": self.last_s}
        for name, part in (("prefill", self.prefill), ("decode", self.decode)):
            if part is not None:
                made[name] = {"rows": part.rows, "cycles": part.cycles, "phases": part.phases}
        if self.worked_cycles is not None:
            made["worked_cycles"] = self.worked_cycles
        return made


class Target(Protocol):
    """What is measured.

    Attributes
    ----------
    key, name : str
        For programs and for people.
    label : str
        Of its times.
    what : str
        How they come about, in a sentence.
    """

    key: str
    name: str
    label: str
    what: str

    def run(self, case: Case, prompts: Sequence[Sequence[int]]) -> Sample:
        """One repetition."""


def request_rows(prompts: Sequence[Sequence[int]], lanes: int) -> list[list[LaneToken]]:
    """Steps that take the prompts in: one user's tokens over all lanes, or a lane for each of several."""
    if len(prompts) == 1:
        last = len(prompts[0]) - 1
        entries = [LaneToken(token=t, fresh=k == 0, logits=k == last) for k, t in enumerate(prompts[0])]
        return [entries[k : k + lanes] for k in range(0, len(entries), lanes)]
    return [
        [LaneToken(token=text[k], slot=user, fresh=k == 0) for user, text in enumerate(prompts)]
        for k in range(len(prompts[0]))
    ]


def serve(
    prompts: Sequence[Sequence[int]],
    output: int,
    lanes: int,
    step: Callable[[Row], Sequence[int | None]],
) -> Iterator[list[int]]:
    """Takes the prompts in, then generates greedily, a step at a time.

    Parameters
    ----------
    prompts : sequence of sequences of int
        Of each user; of equal lengths.
    output : int
        Tokens for each.
    lanes : int
        Over which one user's prompt goes.
    step : callable
        Does a row; gives the arg-max of each lane.

    Yields
    ------
    list of int
        The next token of each user.
    """
    users = len(prompts)
    found: Sequence[int | None] = []
    row: Row = []
    for row in request_rows(prompts, lanes):
        found = step(row)
    latest = [found[len(row) - 1]] if users == 1 else list(found[:users])
    for number in range(output):
        if number:
            feed = [LaneToken(token=t, slot=user, logits=users == 1) for user, t in enumerate(latest)]
            latest = list(step(feed)[:users])
        assert None not in latest
        yield [t for t in latest if t is not None]


def timed(steps: Iterator[list[int]], clock: Callable[[], float] = time.monotonic) -> Sample:
    """Runs what :func:`serve` gives against the clock."""
    begin = clock()
    stamps, columns = [], []
    for tokens in steps:
        stamps.append(clock())
        columns.append(tokens)
    return Sample(
        first_s=stamps[0] - begin, last_s=stamps[-1] - begin, begin=begin, stamps=stamps,
        tokens=[list(text) for text in zip(*columns, strict=True)],
    )  # fmt: skip


def rates(case: Case, first_s: float, last_s: float) -> dict[str, float]:
    """What a user waits for, and tokens a second.

    Returns
    -------
    dict of str to float
        ``ttft`` in seconds; ``prefill`` and ``decode`` in tokens a second of one user, and ``_summed`` over all:
        prompt tokens over the time to the first token; tokens after the first over the time since it.
    """
    prefill = case.prompt / first_s
    decode = (case.output - 1) / (last_s - first_s)
    return {
        "ttft": first_s,
        "prefill": prefill,
        "prefill_summed": case.users * prefill,
        "decode": decode,
        "decode_summed": case.users * decode,
    }


_UNITS = {"ttft": "s"}


def figures_of(case: Case, times: Sequence[tuple[float, float]], label: str) -> dict[str, dict[str, Any]]:
    """Each of :func:`rates` with its median and spread.

    Parameters
    ----------
    case : Case
    times : sequence of (float, float)
        Seconds to the first and to the last token, of each repetition.
    label : str
    """
    found = [rates(case, first, last) for first, last in times]
    return {
        name: figure([one[name] for one in found], _UNITS.get(name, "tokens/s"), label) for name in found[0]
    }
