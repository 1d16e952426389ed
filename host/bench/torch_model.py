# SPDX-License-Identifier: Apache-2.0
"""A checkpoint in PyTorch as an inference program would have it. Needs the extra ``train``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from nomul.model.checkpoint import Checkpoint
from nomul.model.ternary import ternarise
from nomul.train.model import BitLinear, MatMulFreeLM

__all__ = ["Deployed", "deployed", "torch_version"]


def torch_version() -> str:
    """Of the installed PyTorch."""
    return str(torch.__version__)


class _Ternary(torch.nn.Module):
    """A BitLinear whose weights are ternarised already.

    Parameters
    ----------
    checkpoint : Checkpoint
    name : str
        Of the layer.
    dtype : torch.dtype
        Of the products.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, dtype: torch.dtype):
        super().__init__()
        ternary = ternarise(checkpoint.tensor(f"{name}.weight"))
        self.trits = torch.from_numpy(ternary.trits).to(dtype)
        self.scale = ternary.scale
        self.norm = torch.from_numpy(checkpoint.tensor(f"{name}.norm.weight"))
        self.eps = checkpoint.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.norm
        a = y.abs().amax(-1, keepdim=True).clamp_min(1e-5)
        q = torch.round(y * (127 / a)).clamp(-127, 127).to(self.trits.dtype)
        return torch.nn.functional.linear(q, self.trits).float() * (a / 127 * self.scale)


class _Rows(torch.nn.Module):
    """Embeddings, kept in the dtype of the products."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype):
        super().__init__()
        self.rows = torch.from_numpy(checkpoint.tensor("model.embeddings.weight")).to(dtype)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.embedding(tokens, self.rows).float()


class Deployed:
    """A model ready to generate.

    Parameters
    ----------
    model : MatMulFreeLM
        With its products replaced.

    Attributes
    ----------
    geometry : Geometry
    """

    def __init__(self, model: MatMulFreeLM):
        self._model = model
        self.geometry = model.geometry

    def step(self, tokens: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The next token ``[B]`` after tokens ``[B, T]``, and the state ``[layers, B, d]`` after them."""
        x, state = self._model.features(tokens, state)
        return self._model.head(x[:, -1:])[:, 0].argmax(-1), state

    def state(self, batch: int) -> torch.Tensor:
        """Zeros ``[layers, B, d]``."""
        return torch.zeros(self._model.geometry.layers, batch, self._model.geometry.hidden)

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], count: int) -> Iterator[list[int]]:
        """Yields the next token of each prompt, ``count`` times; prompts are of equal lengths."""
        token, state = self.step(torch.tensor(prompts), self.state(len(prompts)))
        yield token.tolist()
        for _ in range(count - 1):
            token, state = self.step(token[:, None], state)
            yield token.tolist()


def deployed(checkpoint: Checkpoint, *, threads: int, dtype: str = "float32") -> Deployed:
    """The model of a checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
    threads : int
        That PyTorch may use.
    dtype : str
        Of products and embeddings.
    """
    kind = getattr(torch, dtype)
    torch.set_num_threads(threads)
    with torch.device("meta"):
        model = MatMulFreeLM(checkpoint.geometry)
    for name, module in list(model.named_modules()):
        if isinstance(module, BitLinear):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _Ternary(checkpoint, name, kind))
    model.model.embeddings = _Rows(checkpoint, kind)
    for name, _ in list(model.named_parameters()):
        values = torch.from_numpy(checkpoint.tensor(name))
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, torch.nn.Parameter(values, requires_grad=False))
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:
                module.register_buffer(name, torch.zeros(()), persistent=False)
    return Deployed(model.eval())
