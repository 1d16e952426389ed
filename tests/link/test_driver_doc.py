# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/driver.md run on the simulated board."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from nomul.host.bridge import Bridge
from nomul.host.transport import SerialTransport
from nomul.hw.build.design import design_verilog
from nomul.model.core_config import CoreConfig
from nomul.model.store import load
from nomul.model.tokenizer import ByteTokenizer
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.golden import Golden

ROOT = Path(__file__).parents[2]
ADDRESS = "tcp://127.0.0.1:5010"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/driver.md").read_text(), re.M | re.S)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "build").mkdir()
    (tmp_path / "models").symlink_to(ROOT / "models")
    program = build_board(design_verilog(CoreConfig()))
    monkeypatch.chdir(tmp_path)
    assert len(EXAMPLES) == 5
    names: dict[str, Any] = {}
    with (
        BoardProcess(program) as process,
        Bridge(lambda: SerialTransport(process.port), "127.0.0.1:0") as bridge,
    ):
        for example in EXAMPLES:
            exec(compile(example.replace(ADDRESS, bridge.name), "docs/driver.md", "exec"), names)
    golden, token = Golden(names["image"]), 0
    for given in names["prompt"]:
        token = int(golden.step(given)[0])
    expected = []
    for _ in range(12):
        expected.append(token)
        token = int(golden.step(token)[0])
    assert names["greedy"] == expected
    assert "def read(" not in (shown := capsys.readouterr().out)
    assert ByteTokenizer().decode(expected) in shown
    assert all(len(tokens) == 6 for tokens in names["texts"].values())
    assert len(names["more"]) == 8
    assert load(Path("models/stdlib-1m3/model.nomul"))[0].geometry.vocab == names["deployment"].vocab
