# SPDX-License-Identifier: Apache-2.0
"""What all tests share: the one seed, the command line, and interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from outcome import Nomul, Outcome

from nomul.sim.harness import seed

# Triton reads it when a kernel is defined, which may be in any test that imports the training half.
if not Path("/proc/driver/nvidia").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# One seed drives hypothesis too; its database would make a run depend on the ones before.
hypothesis.settings.register_profile("nomul", database=None, deadline=None)
hypothesis.settings.load_profile("nomul")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(seed())
    # A component asked only for its widths or cycles is not a mistake.
    config.addinivalue_line("filterwarnings", "ignore::amaranth.hdl.UnusedElaboratable")


def pytest_report_header() -> str:
    return f"NOMUL_SEED={seed()}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of one test, from the one seed and the test's name."""
    return np.random.default_rng([seed(), *request.node.nodeid.encode()])


@pytest.fixture
def nomul(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Nomul:
    """``nomul("info", path)``: the command line's entry point."""

    from nomul.host.cli import main

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr("sys.argv", ["nomul", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(status, out, err)

    return call


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal: whoever runs tests in the background has interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
