# SPDX-License-Identifier: Apache-2.0
"""What the training page says that a GPU did is what the benchmark programs wrote there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/training.md").read_text()


def _results(name: str) -> Any:
    return json.loads((ROOT / "train/results" / name).read_text())


def _row(start: str) -> list[str]:
    """Cells of the one row of a table that begins so."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip(" *") for cell in line.split("|")[2:-1]]


def _shown(value: float, shown: str) -> bool:
    """Whether ``shown`` is ``value``, rounded to as many places."""
    places = len(shown.partition(".")[2])
    return abs(float(shown) - value) <= 0.5000001 * 10**-places


def test_fused_training():
    steps = {(s["size"], s["batch"], s["version"]): s for s in _results("h200-fused.json")["steps"]}
    assert not any("failed" in step for step in steps.values())
    for size, batch in {key[:2] for key in steps}:
        *cells, less = _row(f"{size}, batch {batch}")
        of = [steps[size, batch, version] for version in ("plain", "fused", "lean")]
        for step, cell in zip(of, cells, strict=True):
            gigabytes, milliseconds = re.fullmatch(r"([\d.]+) GB, (\d+) ms", cell).groups()  # type: ignore[union-attr]
            assert _shown(step["peak_bytes"] / 1e9, gigabytes), cell
            assert _shown(step["seconds"] * 1e3, milliseconds), cell
        for key, share in zip(("peak_bytes", "seconds"), re.findall(r"(\d+) %", less), strict=True):
            assert _shown(100 - 100 * of[1][key] / of[0][key], share), (size, batch, key)


def test_gradients_and_curves_of_fused_training():
    made = _results("h200-fused.json")
    for version in ("plain", "fused"):
        found = re.search(rf"{version} ([\d.]+)\s+and ([\d.]+) %", PAGE)
        assert found, version
        for key, shown in zip(("median", "worst"), found.groups(), strict=True):
            assert _shown(100 * made["gradients"][key][version], shown), (version, key)
    curves = made["curves"]
    assert curves["steps"] >= 200
    for key in ("largest_of_20", "last_50"):
        for pair in ("fused_to_plain", "seed_to_seed"):
            assert f"{curves[pair][key]:.3f}" in PAGE


def test_models_against_transformers():
    rows = _results("h200-quality.json")["rows"]
    ours, theirs = ([row[kind] for row in rows] for kind in ("matmul-free", "transformer"))
    table = {
        "MatMul-free, held-out bits per byte": [kind["held_out_bpb"] for kind in ours],
        "the same in integers": [kind["held_out_bpb_integer"] for kind in ours],
        "Transformer": [kind["held_out_bpb"] for kind in theirs], "gap": [row["gap"] for row in rows],
    }  # fmt: skip
    for start, values in table.items():
        assert [f"{value:.3f}" for value in values] == _row(start)
    assert [f"{kind['weights'] / 1e6:.1f} M" for kind in ours] == _row("weights, embeddings included")
    chosen = _row("learning rates chosen, MatMul-free and Transformer")
    assert [f"{left['lr']:g}, {right['lr']:g}" for left, right in zip(ours, theirs, strict=True)] == chosen
    more = [100 * (kind["held_out_bpb_integer"] / kind["held_out_bpb"] - 1) for kind in ours]
    assert f"{min(more):.1f} to {sorted(more)[-2]:.1f} % more, and {max(more):.1f} %" in PAGE
    for row in rows:
        for kind in (row["matmul-free"], row["transformer"]):
            assert len(kind["curve"]) == 2000
            assert kind["tried"][f"{kind['lr']:g}"] == min(kind["tried"].values())


def test_the_results_still_join(tmp_path: Path):
    """Files that older versions of the program wrote, too."""
    pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")
    from nomul.train import quality

    file = ROOT / "train/results/h200-quality.json"
    made = quality.join([file], tmp_path)
    assert made["trend"] == pytest.approx(_results("h200-quality.json")["trend"])
    assert made["rows"] == _results("h200-quality.json")["rows"]
