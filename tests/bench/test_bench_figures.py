# SPDX-License-Identifier: Apache-2.0
"""Medians, spread, rates, and how figures are written."""

from __future__ import annotations

import math
import random
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.host.bench.figures import LABELS, Spread, brief, figure, shown
from nomul.host.bench.measure import Case, cases, figures_of, prompts_of, rates, request_rows, serve
from nomul.host.bench.peers import KINDS, peers
from nomul.model.errors import NomulError
from nomul.sim.harness import seed

times = st.floats(1e-9, 1e6)


@given(st.lists(times, min_size=1, max_size=30))
def test_spread(values: list[float]):
    s = Spread.of(values)
    assert s.least <= s.q1 <= s.median <= s.q3 <= s.most
    assert (s.least, s.most, s.count) == (min(values), max(values), len(values))
    assert s.median == pytest.approx(statistics.median(values))
    if len(values) > 1:
        q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
        assert (s.q1, s.q3) == (pytest.approx(q1), pytest.approx(q3))
    shuffled = values[:]
    random.Random(seed()).shuffle(shuffled)
    assert Spread.of(shuffled) == s
    twice = Spread.of([2 * v for v in values])
    assert (twice.median, twice.q1, twice.q3) == tuple(pytest.approx(2 * v) for v in (s.median, s.q1, s.q3))


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_no_spread_of_nothing(values: list[float]):
    with pytest.raises(ValueError, match="finite"):
        Spread.of(values)


def test_figures_have_a_known_label():
    assert figure(3, "s", "measured") == {"value": 3, "unit": "s", "label": "measured"}
    with pytest.raises(ValueError, match="label 'guessed'"):
        figure(3, "s", "guessed")


@given(st.integers(1, 500), st.integers(2, 500), st.integers(1, 16), times, times)
def test_rates(prompt: int, output: int, users: int, first: float, more: float):
    case = Case(prompt=prompt, output=output, users=users)
    found = rates(case, first, first + more)
    assert found["ttft"] == first
    assert found["prefill"] * first == pytest.approx(prompt)
    if first < 1e3 * more:  # else the difference of the two has lost digits
        assert found["decode"] * more == pytest.approx(output - 1, rel=1e-6)
    for name in ("prefill", "decode"):
        assert found[f"{name}_summed"] == pytest.approx(users * found[name])


def test_figures_are_medians_of_rates_not_rates_of_medians():
    case = Case(prompt=4, output=3)
    found = figures_of(case, [(1.0, 3.0), (2.0, 3.0), (4.0, 5.0)], "measured")
    assert found["ttft"]["value"] == 2.0
    assert found["decode"]["value"] == 2.0
    assert (found["decode"]["least"], found["decode"]["most"]) == (1.0, 2.0)
    assert found["ttft"]["unit"] == "s"
    assert found["decode"]["unit"] == "tokens/s"


@pytest.mark.parametrize("lengths", [(0, 2, 1), (1, 1, 1), (1, 2, 0)])
def test_lengths_that_cannot_be(lengths: tuple[int, int, int]):
    with pytest.raises(NomulError, match="must be at least"):
        Case(prompt=lengths[0], output=lengths[1], users=lengths[2])


def test_cases_and_prompts():
    assert [(c.users, c.prompt, c.output) for c in cases((3, 5), (2,), 4)] == [
        (1, 3, 2), (1, 5, 2), (4, 3, 2), (4, 5, 2)
    ]  # fmt: skip
    assert len(cases((3,), (2,), 1)) == 1
    many = prompts_of(Case(prompt=9, output=2, users=3), 50, 7)
    assert [len(text) for text in many] == [9, 9, 9]
    assert many[0] == prompts_of(Case(prompt=9, output=5), 50, 7)[0]
    assert many[0] != many[1]
    assert many != prompts_of(Case(prompt=9, output=2, users=3), 50, 8)
    assert all(0 <= token < 50 for text in many for token in text)


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 4), st.integers(2, 6))
def test_requests_step_by_step(length: int, lanes: int, users: int, output: int):
    """Against a machine that answers with the sum of what its text held so far."""
    users = users if lanes >= users else 1
    prompts = [[user + k for k in range(length)] for user in range(users)]
    texts: dict[int, list[int]] = {}

    def step(row):
        found = []
        for entry in row:
            if entry.fresh:
                texts[entry.slot] = []
            texts[entry.slot].append(entry.token)
            found.append(sum(texts[entry.slot]) % 1000)
        return found

    got = list(serve(prompts, output, lanes, step))
    assert len(got) == output
    for user, prompt in enumerate(prompts):
        text = list(prompt)
        for tokens in got:
            assert tokens[user] == sum(text) % 1000
            text.append(tokens[user])
    rows = request_rows(prompts, lanes)
    assert len(rows) == (-(-length // lanes) if users == 1 else length)
    assert sum(entry.fresh for row in rows for entry in row) == users


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00137, "s", "1.37 ms"), (63e-6, "J", "63 µJ"), (600e6, "B/s", "600 MB/s"), (12566.4, "", "12,566"),
        (0.33, "", "0.33"), (1.0, "s", "1 s"), (0.9999, "s", "1 s"), (0, "s", "0 s"), (2e-13, "s", "0.2 ps"),
        (8.29, "tokens/s", "8.29 tokens/s"),
    ],
)  # fmt: skip
def test_shown(value: float, unit: str, text: str):
    assert shown(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12.34, "12.3"), (99_949, "99,949"), (99_950, "100 k"), (3e6, "3 M"), (48.25e6, "48.2 M")]
)
def test_brief(value: float, text: str):
    assert brief(value) == text


PEER = {
    "name", "device", "model", "weights", "tokens_per_second", "speed_kind", "joules_per_token", "energy_kind", "note",
    "source",
}  # fmt: skip


def test_peers_say_where_from_and_how():
    assert len(peers()) >= 8
    for peer in peers():
        assert peer["speed_kind"] in KINDS
        assert ("joules_per_token" in peer) == ("energy_kind" in peer)
        assert peer.get("energy_kind", "M") in KINDS
        assert peer["source"].startswith("arXiv:") or "." in peer["source"].split("/")[0]
        assert peer["weights"] > 0
        assert peer["tokens_per_second"] > 0
        assert set(peer) <= PEER, "a key that nobody reads"
    assert len({(peer["name"], peer["device"], peer["model"]) for peer in peers()}) == len(peers())


def test_the_page_of_documentation_has_all_labels():
    text = (Path(__file__).parents[2] / "docs/bench.md").read_text()
    for label, meaning in LABELS.items():
        assert f"| {label} | {meaning} |" in text
