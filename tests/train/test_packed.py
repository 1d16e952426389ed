# SPDX-License-Identifier: Apache-2.0
"""Packed inference is the golden model, bit for bit; its kernels are its plain form."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install 'nomul[train]')")

from nomul.model import scalar  # noqa: E402
from nomul.model.checkpoint import read_checkpoint  # noqa: E402
from nomul.model.errors import NomulError  # noqa: E402
from nomul.model.fold import Model, fold  # noqa: E402
from nomul.model.geometry import Geometry  # noqa: E402
from nomul.model.program import compile_model  # noqa: E402
from nomul.model.ternary import pack as pack_model  # noqa: E402
from nomul.sim.golden import Golden  # noqa: E402
from nomul.train.packed import PackedLM, layout, load_weights, numbers, plain, random_weights  # noqa: E402  # noqa: E402

FIXTURE = Path(__file__).parents[1] / "fixtures" / "upstream-a"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
@pytest.fixture(autouse=True)
def _seeded(rng: np.random.Generator) -> None:
    """All randomness from the one seed."""
    random.seed(int(rng.integers(1 << 32)))
    torch.manual_seed(int(rng.integers(1 << 32)))


SMALL = Geometry(hidden=20, intermediate=28, layers=2, vocab=23)


@pytest.fixture(scope="module")
def model() -> Model:
    return fold(read_checkpoint(FIXTURE))


def _golden(model: Model, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits ``[B, T, V]``, their scales, and the state ``[B, layers·d]``."""
    core = Golden(compile_model(model, bytes_per_beat=8, tile_outputs=64), lanes=len(tokens))
    logits, scales = [], []
    for column in tokens.T:
        core.step(column)
        logits.append(core.logits.copy())
        scales.append(list(core.logit_scale))
    return np.stack(logits, 1), np.stack(scales, 1), core.vectors.state.copy()


@pytest.mark.parametrize("format", list(layout.FORMATS))
def test_every_logit_is_the_golden_model_s(model: Model, format: str):
    tokens = np.array([[random.randrange(256) for _ in range(11)] for _ in range(3)])
    expected, scales, state = _golden(model, tokens)
    ours = PackedLM(load_weights(model, format, DEVICE), batch=3)
    given = torch.from_numpy(tokens).to(DEVICE)
    logits, scale = ours(given, last=False)
    np.testing.assert_array_equal(logits.cpu().numpy(), expected)
    mantissa, exponent = scale.cpu().unbind(-1)
    np.testing.assert_array_equal((mantissa * 2.0**exponent).numpy(), scales)
    flat = ours.state.permute(1, 0, 2).flatten(1).cpu()
    np.testing.assert_array_equal(flat.numpy(), state)

    ours.reset()  # in windows, as prefill and decoding do it
    for window in given.split([4, 1, 6], 1):
        logits, _ = ours(window)
    np.testing.assert_array_equal(logits.cpu().numpy(), expected[:, -1])


@pytest.mark.parametrize("format", list(layout.FORMATS))
@pytest.mark.parametrize("inputs", [1, 16, 39, 80])
def test_words_hold_the_trits(format: str, inputs: int):
    trits = np.array([[random.randrange(-1, 2) for _ in range(inputs)] for _ in range(7)], np.int8)
    packed = layout.pack(pack_model(trits), inputs, format, torch.device("cpu"))
    np.testing.assert_array_equal(layout.unpack(packed)[:, :inputs].numpy(), trits)
    assert packed.words.shape == (7, -(-inputs // (4 * packed.planes)))
    q = torch.zeros(1, 2, packed.padded, dtype=torch.int8)
    q[..., :inputs] = torch.randint(-127, 128, (2, inputs))
    expected = q[0, :, :inputs].numpy().astype(np.int64) @ trits.T
    np.testing.assert_array_equal(plain.products(q, packed).numpy(), expected)


def test_every_byte_of_five_trits_decodes():
    trits = np.stack(np.meshgrid(*[[-1, 0, 1]] * 5, indexing="ij"), -1).reshape(-1, 5).astype(np.int8)
    rows = np.repeat(trits, 4, axis=1)  # a word a row: its four bytes are equal
    packed = layout.pack(pack_model(rows), 20, "five", torch.device("cpu"))
    np.testing.assert_array_equal(layout.unpack(packed).numpy(), rows)


def test_an_unknown_format_is_refused():
    with pytest.raises(NomulError, match="no format 'three'; there are two, five"):
        random_weights(SMALL, "three", torch.device("cpu"))


def test_other_batches_and_tokens_are_refused():
    ours = PackedLM(random_weights(SMALL, "two", torch.device("cpu")), batch=2)
    with pytest.raises(NomulError, match="tokens of 3 texts, the model holds 2"):
        ours(torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(NomulError, match="outside the vocabulary of 23"):
        ours(torch.full((2, 1), 23))


def _some_scalars(count: int) -> list[scalar.Scalar]:
    made = [scalar.ZERO, scalar.Scalar(1 << 17, 511), scalar.Scalar((1 << 18) - 1, -512)]
    return made + [scalar.Scalar(random.randrange(1 << 17, 1 << 18), random.randrange(-60, 60))
                   for _ in range(count)]


def test_scalars_are_the_contract_s():
    tables = numbers.Tables(torch.device("cpu"))
    left, right = _some_scalars(300), _some_scalars(300)[::-1]
    a, b = torch.tensor(left), torch.tensor(right)
    for ours, theirs in ((numbers.mul(a, b), scalar.mul), (numbers.add(a, b), scalar.add)):
        assert ours.tolist() == [list(theirs(x, y)) for x, y in zip(left, right, strict=True)]
    assert numbers.recip(a, tables).tolist() == [list(scalar.recip(x)) for x in left]
    assert numbers.rsqrt(a, tables).tolist() == [list(scalar.rsqrt(x)) for x in left]
    values = [0, 1, 2, (1 << 18) - 1, 1 << 18, (1 << 62) + 12345, (1 << 63) - 1]
    values += [random.randrange(1 << random.randrange(1, 63)) for _ in range(200)]
    assert numbers.from_int(torch.tensor(values)).tolist() == [list(scalar.from_int(v)) for v in values]


def test_sums_of_squares_may_exceed_64_bits():
    rows = [[1 << 31] * 40, [0, 0, 1, 2], [random.randrange(1 << 31) for _ in range(64)], [65536, 65535]]
    for row in rows:
        ours = numbers.sum_of_squares(torch.tensor([row])).tolist()
        assert ours == [list(scalar.from_int(sum(v * v for v in row)))]


@pytest.mark.parametrize("format", list(layout.FORMATS))
def test_the_kernels_are_the_plain_form(format: str):
    kernels = pytest.importorskip("nomul.train.packed.kernels", reason="Triton is not installed")
    weights = random_weights(SMALL, format, DEVICE)
    tokens = torch.randint(0, SMALL.vocab, (2, 3), device=DEVICE)
    expected, ours = PackedLM(weights, 2), PackedLM(weights, 2)
    expected._ops, ours._ops = plain, kernels
    for left, right in zip(expected(tokens, last=False), ours(tokens, last=False), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(expected.state, ours.state)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("format", list(layout.FORMATS))
def test_the_kernels_of_one_token_are_the_plain_form(format: str, split: bool):
    pytest.importorskip("triton", reason="Triton is not installed")
    from nomul.train.packed.stepper import Stepper

    weights = random_weights(SMALL, format, DEVICE)
    expected, ours = PackedLM(weights), Stepper(weights, split=split)
    expected._ops = plain
    token = torch.full((1, 1), 7, device=DEVICE)
    ours.token.fill_(7)
    for _ in range(2 if DEVICE.type == "cpu" else 20):
        logits, scale = expected(token)
        ours.step()
        assert torch.equal(logits[0], ours.logits)
        assert torch.equal(scale[0], ours.scale)
        assert torch.equal(expected.state, ours.state)
        token = logits.argmax(1, keepdim=True)
        assert int(ours.token) == int(np.argmax(logits[0].cpu().numpy()))


@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA GPU here")
@pytest.mark.parametrize("format", list(layout.FORMATS))
@pytest.mark.parametrize("geometry", [
    Geometry(hidden=1024, intermediate=2816, layers=2, vocab=3200),
    Geometry(hidden=5120, intermediate=13824, layers=1, vocab=512)])
def test_the_kernels_on_large_shapes(format: str, geometry: Geometry):
    from nomul.train.packed.stepper import Stepper

    weights = random_weights(geometry, format, DEVICE)
    tokens = torch.randint(0, geometry.vocab, (64, 3), device=DEVICE)
    expected, ours = PackedLM(weights, 64), PackedLM(weights, 64)
    expected._ops = plain
    for window in (tokens[:, :2], tokens[:, 2:]):
        for left, right in zip(expected(window, last=False), ours(window, last=False), strict=True):
            assert torch.equal(left, right)
    one = PackedLM(weights)
    one._ops = plain
    steppers = [Stepper(weights, split=split, overlap=overlap)
                for split, overlap in ((False, False), (True, False), (True, True))]
    for token in tokens[:8, 0]:
        logits, _ = one(token.view(1, 1))
        for stepper in steppers:
            stepper.token.copy_(token)
            stepper.step()
            assert torch.equal(logits[0], stepper.logits)
            assert torch.equal(one.state, stepper.state)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA GPU here")
def test_a_barrier_is_waited_for():
    from nomul.train.packed.kernels.barrier import barrier_seconds

    found = barrier_seconds(DEVICE, 2000, 16, warps=4)  # which fails if a vector comes too late
    assert 0 < found["alone"] < found["with vector"] < 1e-3
