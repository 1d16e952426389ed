# SPDX-License-Identifier: Apache-2.0
"""The shipped model for boards with DRAM: what it says, and what its files say of it."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from nomul.host.cli.common import Loaded, load_any, streamed_config, tokenizer_for
from nomul.model.program import compile_model
from nomul.sim.golden import Golden

FOLDER = Path(__file__).parents[2] / "models/python-33m"
PROMPT = "def read_lines(path):"
IDS = [302, 1309, 64, 971, 9, 530, 291]
NEXT = [446, 4, 483, 605, 81, 304, 627, 8, 84, 2359, 84, 261]


@pytest.fixture(scope="module")
def larger() -> Loaded:
    return load_any(str(FOLDER))  # a folder's model file


def test_a_known_prompt_gives_known_tokens(larger: Loaded):
    coder = tokenizer_for(larger)
    assert coder.encode(PROMPT).tolist() == IDS
    golden = Golden(compile_model(larger.model, bytes_per_beat=8, tile_outputs=256))
    token, out = 0, []
    for given in (coder.begin, *IDS):
        token = int(golden.step(np.array([given]))[0])
    for _ in NEXT:
        out.append(token)
        token = int(golden.step(np.array([token]))[0])
    assert out == NEXT
    assert coder.decode(out) == "\n\n        # Strip the file's contents\n        "


def test_its_files_belong_together(larger: Loaded):
    run = json.loads((FOLDER / "run.json").read_text())
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    settings = tomllib.loads((FOLDER / "config.toml").read_text())
    geometry = larger.model.geometry
    assert settings == run["config"]
    assert (geometry.hidden, geometry.layers, geometry.vocab) == (
        settings["hidden"], settings["layers"], settings["vocab"])
    assert geometry.ternary_weights == run["ternary_weights"]
    assert run["corpus"]["parts"] == manifest["parts"]
    listed = [f"{p['name']}=={p['version']}" for p in manifest["packages"]]
    assert (FOLDER / "packages.txt").read_text().split() == listed
    assert sum(p["files"] for p in manifest["packages"]) == manifest["parts"]["packages"]["documents"]
    card = (FOLDER / "README.md").read_text()
    for figure in (f"{run['held_out_bpb']:.4f}", f"{run['held_out_bpb_integer']:.4f}",
                   manifest["parts"]["packages"]["sha256"]):
        assert figure in card
    other = json.loads((FOLDER.parent / "stdlib-1m3" / "run.json").read_text())
    assert manifest["parts"]["held_out"]["sha256"] == other["corpus"]["parts"]["held_out"]["sha256"]
    assert run["held_out_bpb"] < 0.95 * other["held_out_bpb"]
    assert run["held_out_bpb_integer"] == pytest.approx(run["held_out_bpb"], rel=0.005)
    digest = hashlib.sha256((FOLDER / "model.nomul").read_bytes()).hexdigest()
    assert digest in card


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_the_streamed_core_says_the_same(larger: Loaded):
    """In Verilog, with ideal memory; compiling it takes minutes."""
    from nomul.sim.streamed import Lane, StreamedSimulation

    config = streamed_config(larger.model.geometry, port="native", bytes_per_beat=8, lanes=1)
    steps = [[Lane(token=token, fresh=k == 0)] for k, token in enumerate((0, *IDS, NEXT[0]))]
    results = StreamedSimulation(config).run(config.compile(larger.model), steps, cycles_max=2_000_000)
    assert [result.best[0] for result in results[-2:]] == NEXT[:2]
    assert results[-1].cycles == 840_940
