# SPDX-License-Identifier: Apache-2.0
"""The PyTorch model against the reference implementation's outputs, and its gradients."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from safetensors.torch import load_file, save_file  # noqa: E402

from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.geometry import Geometry  # noqa: E402
from nomul.model.ternary import ternarise  # noqa: E402
from nomul.train.model import (  # noqa: E402
    BitLinear,
    MatMulFreeLM,
    export_checkpoint,
    import_checkpoint,
)
from nomul.train.scan import scan, scan_plain, use_kernel  # noqa: E402

FIXTURE = Path(__file__).parents[1] / "fixtures" / "upstream-a"
ODD = Geometry(hidden=12, intermediate=20, layers=2, vocab=17)


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reproduces_the_reference(dtype: torch.dtype):
    expected = load_file(FIXTURE / "expected.safetensors")
    model = import_checkpoint(FIXTURE).to(dtype).set_exact(dtype)
    tokens = expected["input_ids"].long()[None]
    with torch.no_grad():
        logits, _ = model(tokens)
        _, hidden, _ = model.model(tokens, model.initial_state(1))
    assert _relative(logits[0], expected["logits"].to(dtype)) < 1e-5
    for ours, theirs in zip(hidden, expected["hidden"].to(dtype), strict=True):
        assert _relative(ours[0], theirs) < 1e-5


def test_a_stream_in_pieces_is_the_stream():
    torch.manual_seed(1)
    model = MatMulFreeLM(ODD).eval().double().set_exact(torch.float64)
    tokens = torch.randint(0, ODD.vocab, (3, 23))
    whole, end = model(tokens)
    state, parts = None, []
    for piece in tokens.split([1, 9, 13], 1):
        logits, state = model(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 65])
def test_scan_is_the_recurrence(length: int):
    torch.manual_seed(length)
    f = torch.rand(2, length, 3, dtype=torch.float64)
    b = torch.randn(2, length, 3, dtype=torch.float64)
    h = h0 = torch.randn(2, 3, dtype=torch.float64)
    steps = []
    for t in range(length):
        h = f[:, t] * h + b[:, t]
        steps.append(h)
    torch.testing.assert_close(scan(f, b, h0), torch.stack(steps, 1))
    torch.testing.assert_close(scan_plain(f, b, h0), torch.stack(steps, 1))


def test_scan_has_the_recurrence_s_gradients():
    torch.manual_seed(0)
    arguments = [torch.rand(2, 11, 3, dtype=torch.float64),
                 torch.randn(2, 11, 3, dtype=torch.float64),
                 torch.randn(2, 3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(scan, [a.requires_grad_() for a in arguments])


def test_the_kernel_says_why_it_is_off():
    assert use_kernel(torch.device("cpu")) == "the device is cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
def test_the_kernel_equals_the_plain_form():
    assert use_kernel(torch.device("cuda")) is None


def test_bit_linear_passes_gradients_straight_through():
    """The backward pass is that of ``y @ W_q.T`` with the quantised operands taken as they are."""
    torch.manual_seed(0)
    layer = BitLinear(10, 7).double()
    layer.exact = torch.float64
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(5, 10, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 7, dtype=torch.float64)
    layer(x).backward(g)

    trits = ternarise(layer.weight.detach().float().numpy())
    w_q = torch.from_numpy(trits.trits).double() * trits.scale
    again = x.detach().clone().requires_grad_()
    y = again * torch.rsqrt(again.square().mean(-1, keepdim=True) + 1e-6)
    (y @ w_q.T).backward(g)
    torch.testing.assert_close(x.grad, again.grad, rtol=1e-6, atol=1e-9)
    a = y.detach().abs().amax(-1, keepdim=True)
    y_q = torch.round(y.detach() * 127 / a) * a / 127
    torch.testing.assert_close(layer.weight.grad, (g.T @ y_q), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(layer(x), y_q @ w_q.T, rtol=1e-6, atol=1e-9)


def test_bfloat16_products_differ_by_their_last_rounding_only():
    torch.manual_seed(3)
    layer = BitLinear(36, 21)  # neither is a multiple of 8: filled up inside
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(4, 6, 36)
    exact = layer(x)
    layer.exact = torch.bfloat16
    torch.testing.assert_close(layer(x), exact, rtol=2**-8, atol=1e-6)


def test_export_and_import_round_trip(tmp_path: Path):
    torch.manual_seed(2)
    model = MatMulFreeLM(ODD).eval()
    model.load_state_dict({k: v.bfloat16().float() for k, v in model.state_dict().items()})
    export_checkpoint(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert len(tensors) == 15 * ODD.layers + 5
    assert sum(t.numel() for t in tensors.values()) == ODD.parameters
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    again = import_checkpoint(tmp_path)
    assert again.geometry == ODD
    tokens = torch.randint(0, ODD.vocab, (2, 9))
    assert torch.equal(again(tokens)[0], model(tokens)[0])


def test_the_keys_are_the_published_ones():
    model = MatMulFreeLM(Geometry(hidden=128, intermediate=512, layers=3, vocab=256))
    assert set(model.state_dict()) == set(load_file(FIXTURE / "model.safetensors"))


@pytest.mark.parametrize(("file", "content"), [
    ("config.json", b"{"), ("config.json", b"{}"), ("model.safetensors", b"short"),
    ("config.json", b'{"model_type": "llama"}'),
])
def test_refuses_a_broken_checkpoint(tmp_path: Path, file: str, content: bytes):
    export_checkpoint(MatMulFreeLM(ODD), tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(NomulError, match=str(tmp_path)):
        import_checkpoint(tmp_path)


def test_refuses_a_missing_tensor(tmp_path: Path):
    export_checkpoint(MatMulFreeLM(ODD), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(NomulError, match=r"model\.norm\.weight"):
        import_checkpoint(tmp_path)
