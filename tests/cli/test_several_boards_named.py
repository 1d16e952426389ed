# SPDX-License-Identifier: Apache-2.0
"""Several boards at the command line: two simulated ones, and what is refused before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest
from outcome import Nomul


def test_a_model_over_two_simulated_boards(nomul: Nomul, two_layers: Path):
    ids = ["--ids", "0 102 111 114", "--tokens", 24, "--model", two_layers, "--json"]
    alone = nomul("run", *ids, "--board", "golden").json
    shared = nomul("run", *ids, "--board", "sim,sim", "--port", "native").json
    assert shared["ids"] == alone["ids"]
    first, second = shared["cycles_per_token_by_board"]
    assert shared["cycles_per_token"] == first + second
    assert min(first, second) > 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--board", "sim,sim"], "boards: 2 of them; a core with its weights on the chip runs whole models only"),
        (["--board", "sim,sim,sim,sim", "--port", "native"], "boards: 4 for 3 layers; each holds at least one"),
        (["--board", "/dev/a,,/dev/b", "--port", "native"], "--board /dev/a,,/dev/b: a name is empty"),
        (["--board", "/dev/a,/dev/a", "--port", "native"], "--board /dev/a,/dev/a: /dev/a is named twice"),
        (["--board", "/dev/a,/dev/b", "--port", "native"], "/dev/a: "),
    ],
)
def test_run_refuses(nomul: Nomul, arguments: list[str], message: str):
    assert message in nomul("run", "x", *arguments).failed()


def test_serve_refuses(nomul: Nomul):
    said = nomul("serve", "--port", "0", "--board", "golden,golden", "--weights", "native").failed()
    assert "golden is named twice" in said


def test_no_dram_of_real_boards(nomul: Nomul):
    done = nomul("run", "x", "--board", "sim,/dev/a", "--port", "native", "--dram", "ecpix5-85f")
    assert done.status == 2
    assert "it is for the simulated board" in done.err
