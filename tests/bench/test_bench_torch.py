# SPDX-License-Identifier: Apache-2.0
"""The model that a bench runs in PyTorch is the checkpoint's: its logits, its state, its tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nomul.model.checkpoint import read_checkpoint, write_checkpoint
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.golden import Golden
from nomul.sim.harness import seed

torch = pytest.importorskip("torch")

from nomul.host.bench.torch_model import Deployed, deployed  # noqa: E402
from nomul.train.model import MatMulFreeLM, import_checkpoint  # noqa: E402

GEOMETRY = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
PROMPT, OUTPUT, USERS = 9, 12, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    source = random_checkpoint(GEOMETRY, seed())
    write_checkpoint(place, source.config, source._tensors)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> MatMulFreeLM:
    return import_checkpoint(folder).eval().set_exact(torch.float32)


@pytest.fixture(scope="module")
def ours(folder: Path) -> Deployed:
    return deployed(read_checkpoint(folder), threads=torch.get_num_threads())


@pytest.fixture
def prompts(rng: np.random.Generator) -> list[list[int]]:
    return rng.integers(0, GEOMETRY.vocab, (USERS, PROMPT)).tolist()


def near(logits: torch.Tensor, tokens: torch.Tensor, share: float) -> torch.Tensor:
    """Whether each token's logit is as high as the highest, but for a share of their spread."""
    short = logits.max(-1).values - logits.gather(-1, tokens[..., None])[..., 0]
    return short <= share * (logits.max(-1).values - logits.min(-1).values)


@torch.inference_mode()
def test_logits_are_those_of_the_model(model: MatMulFreeLM, ours: Deployed, prompts: list[list[int]]):
    tokens = torch.tensor(prompts)
    expected, state = model(tokens)
    features, own = ours._model.features(tokens, ours.state(USERS))
    logits = ours._model.head(features)
    spread = expected.max() - expected.min()
    assert (logits - expected).abs().max() < 1e-3 * spread
    torch.testing.assert_close(own, state, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_tokens_are_those_of_the_model(model: MatMulFreeLM, ours: Deployed, prompts: list[list[int]]):
    """Each is the highest of the whole text's logits: prompt at once, then one after the other with a state."""
    columns = [*ours.generate(prompts, OUTPUT)]
    assert len(columns) == OUTPUT
    texts = torch.cat([torch.tensor(prompts), torch.tensor(columns).T], 1)
    expected = model(texts)[0][:, PROMPT - 1 : -1]
    assert near(expected, torch.tensor(columns).T, 1e-3).all()
    alone = [[token for (token,) in ours.generate([prompt], OUTPUT)] for prompt in prompts]
    agree = np.mean(np.array(alone) == np.array(columns).T)
    assert agree > 0.9  # sums of another order may round otherwise


@torch.inference_mode()
def test_the_golden_model_s_tokens_are_as_good(
    folder: Path, model: MatMulFreeLM, ours: Deployed, prompts: list[list[int]]
):
    """The integer model has fixed-point norms and gates: on the same text its token is PyTorch's, or next to it."""
    image = StreamedConfig.for_geometry(GEOMETRY, memory_bytes=1 << 20).compile(fold(read_checkpoint(folder)))
    columns = [*ours.generate(prompts, OUTPUT)]
    texts = np.concatenate([np.array(prompts), np.array(columns).T], 1)
    golden = Golden(image, lanes=USERS)
    found = np.array([golden.step(texts[:, k]) for k in range(texts.shape[1] - 1)]).T
    expected = model(torch.from_numpy(texts[:, :-1]))[0]
    assert near(expected, torch.from_numpy(found.astype(np.int64)), 0.05).all()
    assert (expected.argmax(-1).numpy() == found).mean() > 0.8
