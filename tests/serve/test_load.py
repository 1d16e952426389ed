# SPDX-License-Identifier: Apache-2.0
"""Under load nothing is lost or mixed up, every text equals golden's, and memory stays flat."""

from __future__ import annotations

from typing import Any

import pytest

from nomul.host.serve.bench_load import load
from nomul.sim.harness import seed


def check(found: dict[str, Any]) -> None:
    assert found["lost"] + found["mixed_up"] + found["wrong"] == 0, found
    assert found["equal"] + found["went_away"] == found["requests"], found
    assert found["lanes"] == 8
    assert found["exit_status"] == 0


def test_some_seconds():
    found = load(clients=24, seconds=5, seed=seed())
    check(found)
    assert found["equal"] > 24


@pytest.mark.sweep
@pytest.mark.timeout(900)
def test_ten_minutes():
    found = load(clients=64, seconds=600, seed=seed())
    check(found)
    assert found["lanes_used"] > 0.9
    # Allocators take some time to settle; after that there is no trend.
    assert max(found["rss_mb"][6:]) - min(found["rss_mb"][2:6]) < 4, found
