# SPDX-License-Identifier: Apache-2.0
"""Runs commands as a shell would, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from outcome import Nomul, Outcome

from nomul.host.cli import main
from nomul.model.checkpoint import write_checkpoint
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint


@pytest.fixture
def nomul(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Nomul:
    """``nomul("info", path)``: the command line's entry point."""

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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a random byte model that fits the released core."""
    folder = tmp_path_factory.mktemp("tiny")
    source = random_checkpoint(Geometry(hidden=24, intermediate=20, layers=1, vocab=256), 9)
    write_checkpoint(folder, source.config, source._tensors)
    return folder
