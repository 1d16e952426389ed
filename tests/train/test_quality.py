# SPDX-License-Identifier: Apache-2.0
"""The comparison with Transformers: alike in weights, tuned alike, all figures there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

import torch.nn.functional as F  # noqa: E402

from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.geometry import Geometry  # noqa: E402
from nomul.train import quality  # noqa: E402
from nomul.train.data import Corpus, export_corpus  # noqa: E402
from nomul.train.model import MatMulFreeLM, import_checkpoint  # noqa: E402
from nomul.train.tokens import judged_bits  # noqa: E402
from nomul.train.transformer import TransformerLM  # noqa: E402

SHAPE = Geometry(hidden=24, intermediate=40, layers=2, vocab=31)


@pytest.fixture(autouse=True)
def _seeded(rng: np.random.Generator) -> None:
    torch.manual_seed(int(rng.integers(1 << 32)))


def _matrices(model: torch.nn.Module) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "lower" not in name)


def test_both_have_as_many_weights():
    assert _matrices(TransformerLM(SHAPE)) == _matrices(MatMulFreeLM(SHAPE))


def test_a_token_sees_those_before_it_and_where_they_are():
    model = TransformerLM(SHAPE).eval()
    tokens = torch.randint(0, 31, (1, 12))
    changed = tokens.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 31
    with torch.no_grad():
        before, after = model(tokens), model(changed)
        torch.testing.assert_close(before[:, :7], after[:, :7])
        assert not torch.allclose(before[:, 7:], after[:, 7:])
        swapped = tokens[:, [1, 0, *range(2, 12)]]
        assert tokens[0, 0] == tokens[0, 1] or not torch.allclose(model(swapped)[:, -1], before[:, -1])


def test_the_transformer_learns():
    model = TransformerLM(SHAPE)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    tokens = torch.arange(24).remainder(8).view(1, 24)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


def _corpus(folder: Path) -> Path:
    rng = np.random.default_rng(5)

    def part(documents: int) -> np.ndarray:
        text = "".join("\0" + "".join(f"x{rng.integers(9)} = {rng.integers(99)}\n" for _ in range(30))
                       for _ in range(documents))
        return np.frombuffer(text.encode(), dtype=np.uint8)

    export_corpus(Corpus(library=part(30), tests=part(10), held_out=part(4), python="3.11.0"), folder)
    return folder


def test_the_program_leaves_figures_and_plots(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install matplotlib)")
    status = quality._main(["--corpus", str(_corpus(tmp_path / "corpus")), "--out", str(tmp_path / "out"), "--device",
                            "cpu", "--sizes", "a:8,12,1", "b:16,24,1", "--share", "0.5", "--set", "steps=6", "batch=4",
                            "window=16"])  # fmt: skip
    assert status == 0
    made = json.loads((tmp_path / "out" / "quality.json").read_text())
    assert made["tokens"] == 6 * 4 * 16
    config = quality.TrainConfig(window=16)
    texts = quality.Texts(config, tmp_path / "corpus", tmp_path, quality.Processes(torch.device("cpu"), 0, 1))
    for row in made["rows"]:
        assert row["matmul-free"]["weights"] - row["transformer"]["weights"] in (8, 16)  # the lower bounds
        assert row["gap"] == row["matmul-free"]["held_out_bpb"] - row["transformer"]["held_out_bpb"]
        ours = row["matmul-free"]
        assert ours["held_out_bpb_integer"] == pytest.approx(ours["held_out_bpb_rounded"], rel=0.01)
        assert ours["held_out_bpb_rounded"] == pytest.approx(ours["held_out_bpb"], rel=0.02)
        assert ours["held_out_bpb_rounded"] != ours["held_out_bpb"]
        written = import_checkpoint(tmp_path / "out" / row["size"])
        segments, size = quality._windows_of(texts, 16)
        assert judged_bits(written, segments, 0) / size == pytest.approx(ours["held_out_bpb_rounded"], rel=1e-6)
        for kind in quality.KINDS:
            found = row[kind]
            assert 3 <= len(found["tried"]) <= 4
            assert f"{found['lr']:g}" in found["tried"]
            assert len(found["curve"]) == 6
            assert found["curve"][-1] < found["curve"][0]
    assert set(made["trend"]) == {"bits_per_byte_per_decade", "at_one_weight"}
    for name in ("curves.png", "gap.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def _compared(size: str, weights: int, **changes: Any) -> dict[str, Any]:
    def kind(more: float) -> dict[str, Any]:
        return {"held_out_bpb": more + 1 / weights, "weights": weights, "curve": [3.0, 2.0, 1.0]}

    row = {"size": size, "matmul-free": kind(1.5), "transformer": kind(1.25), "gap": 0.25 / weights}
    made = {"machine": {"gpu": "NVIDIA H200"}, "steps": 3, "tokens": 48, "window": 16, "corpus": "a few packages",
            "bytes_per_token": {"library": 3.5}, "rows": [row], "trend": None}  # fmt: skip
    return {**made, **changes}


def _joined(folder: Path, *parts: dict[str, Any]) -> int:
    files = [folder / f"{number}.json" for number in range(len(parts))]
    for file, part in zip(files, parts, strict=True):
        file.write_text(json.dumps(part))
    return quality._main(["--out", str(folder / "all"), "--join", *map(str, files)])


def test_sizes_of_two_gpus_become_one_comparison(tmp_path: Path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install matplotlib)")
    assert _joined(tmp_path, _compared("b", 1000), _compared("a", 10)) == 0
    made = json.loads((tmp_path / "all" / "quality.json").read_text())
    assert [row["size"] for row in made["rows"]] == ["a", "b"]
    assert made["trend"]["bits_per_byte_per_decade"] == pytest.approx((0.00025 - 0.025) / 2)
    assert (tmp_path / "all" / "gap.png").is_file()


@pytest.mark.parametrize(("changes", "message"), [
    ({"steps": 4}, "1.json: steps is 4, in "),
    ({"corpus": "others"}, "1.json: corpus is others"),
    ({"machine": {"cpu": "no GPU"}}, "1.json: trained on None, "),
])  # fmt: skip
def test_runs_that_do_not_compare(
    tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
):
    assert _joined(tmp_path, _compared("a", 10), _compared("b", 1000, **changes)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "all" / "quality.json").exists()


def test_files_that_are_no_comparisons(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "text.json").write_text("no")
    for name, content in (("list.json", []), ("row.json", {"machine": {}, "rows": [{"size": "a"}]})):
        (tmp_path / name).write_text(json.dumps(content))
    for name, message in (("text.json", "text.json: no JSON"), ("none.json", "none.json: No such file"),
                          ("list.json", "list.json: no comparison"), ("row.json", "row.json: no comparison ('gap')")):
        assert quality._main(["--out", str(tmp_path), "--join", str(tmp_path / name)]) == 1
        assert message in capsys.readouterr().err


def test_bad_calls_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for more, message in ((["--sizes", "a:8"], "'a:8' must be NAME:HIDDEN,INTERMEDIATE,LAYERS"),
                          (["--set", "depth=3"], "no setting 'depth'"),
                          (["--sizes", "a:9,8,1", "--set", "steps=1", "batch=4", "window=16"], "hidden is 9")):
        given = ["--corpus", str(_corpus(tmp_path / "corpus")), "--out", str(tmp_path), "--device", "cpu", *more]
        assert quality._main(given) == 1
        assert message in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert quality._main(["--out", str(tmp_path)]) == 1
        assert "no CUDA GPU here" in capsys.readouterr().err
    with pytest.raises(NomulError, match="steps is 0"):
        quality.compare({}, quality.TrainConfig(), None, tmp_path, torch.device("cpu"))


def test_a_transformer_is_judged_token_by_token():
    model = TransformerLM(SHAPE).eval()
    segments = [np.array([1, 2, 3, 4]), np.array([30])]
    expected = 0.0
    for segment in segments:
        with torch.no_grad():
            logits = model(torch.tensor([[7, *segment[:-1]]]))[0]
        expected -= float(logits.log_softmax(-1)[range(len(segment)), segment].sum()) / np.log(2)
    ours = quality._transformer_bits(model, segments, 7, torch.device("cpu"))
    assert ours == pytest.approx(expected, rel=1e-5)


def test_both_see_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And AdamW decays the same kinds of weights of both, at the same rates."""
    seen: list[Any] = []
    for label, kind in quality.KINDS.items():
        rows: list[Any] = []

        def loss_of(model: torch.nn.Module, device: torch.device, rows: list[Any] = rows, kind: Any = kind) -> Any:
            loss = kind.loss(model, device)
            return lambda inputs, targets: rows.append((inputs, targets)) or loss(inputs, targets)

        config = quality.TrainConfig(hidden=8, intermediate=12, layers=1, steps=5, batch=4, window=16)
        texts = quality.Texts(config, _corpus(tmp_path / label), tmp_path, quality.Processes(torch.device("cpu"), 0, 1))
        quality._train(replace(kind, loss=loss_of), config, texts, torch.device("cpu"), print)
        seen.append(rows)
        groups = {g["kind"]: g for g in quality.make_optimiser(kind.make(config.geometry, torch.device("cpu")), config,
                                                               torch.device("cpu")).param_groups}  # fmt: skip
        assert [sum(p.numel() for p in groups[k]["params"]) for k in ("lr", "lr_embedding")] == [
            4 * 8 * 8 + 3 * 8 * 12 + 256 * 8, 256 * 8]
    assert all(torch.equal(a, b) for left, right in zip(*seen, strict=True) for a, b in zip(left, right, strict=True))


def test_a_loss_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A learning rate that gives none is not chosen; a full run that does is no figure."""
    config = quality.TrainConfig(steps=8, batch=4, window=16)
    texts = quality.Texts(config, _corpus(tmp_path / "corpus"), tmp_path, quality.Processes(torch.device("cpu"), 0, 1))

    def curve(kind: Any, config: quality.TrainConfig, *_: Any) -> Any:
        bad = config.lr > 5e-3 or config.steps == 8
        return None, [float("nan") if bad else 3.0 - config.lr] * config.steps, 1.0

    monkeypatch.setattr(quality, "_train", curve)
    best, tried = quality._tuned(quality.KINDS["matmul-free"], config, texts, torch.device("cpu"), 0.5, print)
    assert best == 4e-3
    assert tried["0.008"] is None
    with pytest.raises(NomulError, match=r"a matmul-free: the loss is no number with lr 0\.004"):
        quality.compare({"a": (8, 12, 1)}, config, texts, tmp_path, torch.device("cpu"), share=0.5)
    assert not (tmp_path / "quality.json").exists()
