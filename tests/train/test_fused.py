# SPDX-License-Identifier: Apache-2.0
"""The fused path is the plain model: loss, state and every gradient, in float64; its kernels are its plain form."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

import torch.nn.functional as F  # noqa: E402

from nomul.model.geometry import Geometry  # noqa: E402
from nomul.train import bench_fused  # noqa: E402
from nomul.train.bench_fused import straight_through  # noqa: E402
from nomul.train.fused import FusedLM, fused_backend, plain  # noqa: E402
from nomul.train.fused import model as fused_model  # noqa: E402
from nomul.train.model import MatMulFreeLM  # noqa: E402
from nomul.train.packed.model import packed_backend  # noqa: E402

ODD = Geometry(hidden=12, intermediate=20, layers=3, vocab=17)
Result = tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]


def _model(geometry: Geometry = ODD, dtype: torch.dtype = torch.float64) -> MatMulFreeLM:
    """Random weights, norms and lower bounds."""
    torch.manual_seed(4)
    model = MatMulFreeLM(geometry).to(dtype).set_exact(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lower" in name:
                parameter.normal_()
            elif parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return model


def _batch(model: MatMulFreeLM, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = model.geometry
    tokens, targets = torch.randint(0, g.vocab, (2, 2, length))
    return tokens, targets, torch.randn(g.layers, 2, g.hidden, dtype=model.lm_head.weight.dtype)


def _plain(model: MatMulFreeLM, tokens: torch.Tensor, targets: torch.Tensor, state: torch.Tensor) -> Result:
    """Loss, gradient of the state before, gradients; the state after counts too."""
    model.zero_grad()
    state = state.clone().requires_grad_()
    logits, end = model(tokens, state)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten()) + end.square().mean()
    loss.backward()
    assert state.grad is not None
    return loss.detach(), state.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _fused(model: MatMulFreeLM, batch: tuple[torch.Tensor, ...], **options: object) -> Result:
    model.zero_grad()
    state = batch[2].clone().requires_grad_()
    loss, end = FusedLM(model, **options)(batch[0], batch[1], state)  # type: ignore[arg-type]
    loss = loss + end.square().mean()
    loss.backward()
    assert state.grad is not None
    return loss.detach(), state.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def _assert_equal(ours: Result, expected: Result, rtol: float) -> None:
    torch.testing.assert_close(ours[0], expected[0], rtol=rtol, atol=0)
    assert float((ours[1] - expected[1]).norm()) <= rtol * float(expected[1].norm())
    assert ours[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        assert float((ours[2][name] - gradient).norm()) <= rtol * float(gradient.norm()), name


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("chunk", [5, 64])
def test_loss_and_gradients_are_the_model_s(lean: bool, chunk: int):
    model = _model()
    batch = _batch(model, 9)
    expected = _plain(model, *batch)
    # 1/s is made in float32, in another order: 1e-7
    _assert_equal(_fused(model, batch, lean=lean, chunk=chunk), expected, rtol=1e-6)


def test_loss_and_gradients_are_those_of_plain_operations():
    """Against the straight-through form that autograd differentiates by itself."""
    model = _model()
    batch = _batch(model, 6)
    ours = {name: g.clone() for name, g in _fused(model, batch)[2].items()}
    loss, _, expected = _plain(straight_through(model), *batch)
    for name, gradient in expected.items():
        assert float((ours[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name
    assert loss.isfinite()


def test_a_window_goes_on_from_the_state_before():
    model = _model()
    fused = FusedLM(model)
    tokens, _, state = _batch(model, 11)
    whole, end = fused.features(tokens, state)
    first, middle = fused.features(tokens[:, :4], state)
    second, last = fused.features(tokens[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)


def test_it_learns():
    torch.manual_seed(0)
    model = MatMulFreeLM(Geometry(hidden=16, intermediate=24, layers=2, vocab=8))
    fused = FusedLM(model)
    optimiser = torch.optim.AdamW(fused.parameters(), lr=0.02)
    tokens = torch.arange(24).remainder(8).view(1, 24)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss, _ = fused(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_little_is_kept_between_forward_and_backward():
    """Bytes that autograd holds, weights aside, against the plain operations of the same model."""
    geometry = Geometry(hidden=64, intermediate=192, layers=2, vocab=32)
    tokens, targets = torch.randint(0, 32, (2, 2, 64))

    def held(model: MatMulFreeLM, fused: bool | None) -> int:
        own = {p.data_ptr() for p in model.parameters()}
        seen: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            if x.data_ptr() not in own:
                storage = x.untyped_storage()
                seen[storage.data_ptr()] = storage.nbytes()
                if fused is not None and x.numel() > 64 and x.is_floating_point():
                    whole = bool((x == x.round()).all())
                    # whole numbers are sums, not activations of 8 bits or trits; but for zeros: the state before
                    assert not whole or not x.any() or (not fused and float(x.abs().max()) > 127)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            if fused is None:
                F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())
            else:
                FusedLM(model, lean=fused)(tokens, targets)
        return sum(seen.values())

    plain_bytes = held(straight_through(_model(geometry, torch.float32)), None)
    ours, lean = (held(_model(geometry, torch.float32), fused) for fused in (False, True))
    assert ours < 0.3 * plain_bytes
    assert lean < 0.5 * ours


def test_the_backend_says_why_it_is_plain():
    ops, line = fused_backend(torch.device("cpu"))
    assert ops is plain
    assert line == "plain PyTorch (the device is cpu)"


@pytest.mark.parametrize(("case", "message"), [
    ("9B:1", "no size '9B'; there are 370M,"), ("370M", "'370M' must be SIZE:BATCH,BATCH"),
    ("1.3B:8,x", "'1.3B:8,x' must be"), ("1.3B:0", "must be"),
])  # fmt: skip
def test_cases_that_the_benchmark_does_not_know(
    case: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert bench_fused._main(["-o", str(tmp_path / "out.json"), "--cases", case]) == 1
    assert message in capsys.readouterr().err


def test_without_triton_it_is_plain_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch):
    for package, backend in (("fused", fused_backend), ("packed", packed_backend)):
        monkeypatch.setitem(sys.modules, f"nomul.train.{package}.kernels", None)
        monkeypatch.delattr(importlib.import_module(f"nomul.train.{package}"), "kernels", raising=False)
        ops, line = backend(torch.device("cuda"))
        assert ops.__name__ == f"nomul.train.{package}.plain"
        assert line == "plain PyTorch (Triton is not installed: pip install triton)"


@pytest.mark.parametrize("lean", [False, True])
def test_the_kernels_are_the_plain_form(lean: bool, monkeypatch: pytest.MonkeyPatch):
    if torch.cuda.is_available():
        pytest.skip("on a GPU the kernels run in bfloat16; bench_fused compares their gradients")
    kernels: ModuleType = pytest.importorskip("nomul.train.fused.kernels", reason="Triton is not installed")
    model = _model(Geometry(hidden=20, intermediate=28, layers=1, vocab=19), torch.float32)
    batch = _batch(model, 5)
    _, gradient, expected = _fused(model, batch, lean=lean)
    expected = {name: g.clone() for name, g in expected.items()}
    monkeypatch.setattr(fused_model, "fused_backend", lambda device: (kernels, "kernels"))
    loss, ours_gradient, ours = _fused(model, batch, lean=lean)
    torch.testing.assert_close(ours_gradient, gradient, rtol=1e-4, atol=1e-6)
    for name, g in expected.items():
        assert float((ours[name] - g).norm()) <= 1e-4 * float(g.norm()), name
    assert loss.isfinite()
