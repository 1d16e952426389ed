# SPDX-License-Identifier: Apache-2.0
"""The architecture in plain PyTorch, for training, in the published checkpoint layout.

A MatMul-free LM (arXiv 2406.02528): every matrix is a :class:`BitLinear`, whose forward pass is
the deployed one (int8 activations times trits, accumulated exactly) and whose backward pass takes
both roundings for the identity. Matrix products run in the dtype ``exact``: float32 and float64
hold every sum; bfloat16, on the tensor cores, holds every operand and rounds only the finished
sum, which training does not notice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry

from .scan import scan

__all__ = ["BitLinear", "MatMulFreeLM", "export_checkpoint", "import_checkpoint"]

_EPSILON = 1e-6


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + 1e-6) · weight`` over the last axis."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + _EPSILON) * self.weight


def _fill(x: Tensor, rows: int, columns: int) -> Tensor:
    """Zeros below and right of a matrix: tensor cores want rows of whole 16 bytes."""
    down, right = rows - x.shape[-2], columns - x.shape[-1]
    return F.pad(x, (0, right, 0, down)) if down or right else x


class _TernaryProduct(torch.autograd.Function):
    """``y → (q·t)·(a/127)·(1/s)`` with straight-through gradients for ``y`` and the weight."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, exact: torch.dtype) -> Tensor:
        outputs, inputs = weight.shape
        step = 8 if exact == torch.bfloat16 else 1
        n, k = -(-outputs // step) * step, -(-inputs // step) * step
        flat = y.reshape(-1, inputs)
        a = flat.abs().amax(-1, keepdim=True).clamp_min(1e-5)
        q = flat * (127 / a)
        q = (torch.sign(q) * torch.floor(q.abs() + 0.5)).clamp(-127, 127)
        w = weight.float()  # the published code ternarises in float32
        s = 1 / w.abs().mean().clamp_min(1e-5)
        t = torch.round(w * s).clamp(-1, 1)
        q, t = _fill(q.to(exact), len(q), k), _fill(t.to(exact), n, k)
        unit = a / 127
        ctx.save_for_backward(q, t, unit, s)
        ctx.shape = y.shape, weight.shape
        out = (q @ t.T)[:, :outputs].to(y.dtype) * unit * (1 / s).to(y.dtype)
        return out.reshape(*y.shape[:-1], outputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:
        q, t, unit, s = ctx.saved_tensors
        y_shape, (outputs, inputs) = ctx.shape
        scaled = g.reshape(-1, outputs) * unit  # one rounding of g serves both products
        scaled = _fill(scaled.to(q.dtype), len(q), len(t))
        g_weight = (scaled.T @ q)[:outputs, :inputs].float()
        g_y = (scaled @ t)[:, :inputs].to(g.dtype) * (1 / s).to(g.dtype) / unit
        return g_y.reshape(y_shape), g_weight, None


class BitLinear(nn.Module):
    """RMSNorm, int8 activations, ternary weights (model specification, ``BL``).

    Parameters
    ----------
    inputs, outputs : int
        The matrix is ``[outputs, inputs]``.
    """

    exact = torch.float32

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.norm = RMSNorm(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return _TernaryProduct.apply(self.norm(x), self.weight, self.exact)


class _Dropout(nn.Module):
    """Dropout whose share is a buffer, so that a change compiles nothing anew."""

    share: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.register_buffer("share", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not (self.on and self.training):
            return x
        return torch.where(torch.rand_like(x) < self.share, 0.0, x / (1 - self.share))


class _Attention(nn.Module):
    def __init__(self, d: int):
        super().__init__()
        self.i_proj, self.f_proj = BitLinear(d, d), BitLinear(d, d)
        self.g_proj, self.o_proj = BitLinear(d, d), BitLinear(d, d)
        self.g_norm = RMSNorm(d)

    def forward(self, n: Tensor, h: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g = self.i_proj(n), torch.sigmoid(self.f_proj(n)), self.g_proj(n)
        f = bound + (1 - bound) * f
        states = scan(f, F.silu(i) * (1 - f), h)
        return self.o_proj(self.g_norm(g) * F.silu(states)), states[:, -1]


class _Mlp(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.gate_proj, self.down_proj = BitLinear(d, 2 * m), BitLinear(m, d)

    def forward(self, n: Tensor) -> Tensor:
        gate, up = self.gate_proj(n).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class _Block(nn.Module):
    def __init__(self, d: int, m: int):
        super().__init__()
        self.attn_norm, self.attn = RMSNorm(d), _Attention(d)
        self.mlp_norm, self.mlp = RMSNorm(d), _Mlp(d, m)
        self.dropout = _Dropout()

    def forward(self, x: Tensor, h: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
        mixed, h = self.attn(self.attn_norm(x), h, bound)
        x = x + self.dropout(mixed)
        return x + self.dropout(self.mlp(self.mlp_norm(x))), h

    def by(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work(self, *arguments)``, another way to compute the block, which FSDP gathers its weights for."""
        return work(self, *arguments)


class _Backbone(nn.Module):
    def __init__(self, g: Geometry):
        super().__init__()
        self.embeddings = nn.Embedding(g.vocab, g.hidden)
        self.lower_bounds = nn.Parameter(torch.zeros(g.layers, g.hidden))
        self.layers = nn.ModuleList(_Block(g.hidden, g.intermediate) for _ in range(g.layers))
        self.norm = RMSNorm(g.hidden)
        self.dropout = _Dropout()

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        share = self.lower_bounds.softmax(0)
        bounds = share.cumsum(0) - share[0]
        x = self.dropout(self.embeddings(tokens))
        hidden, states = [], []
        for layer, h, bound in zip(self.layers, state, bounds, strict=True):
            x, h = layer(x, h, bound)
            hidden.append(x)
            states.append(h)
        return x, hidden, states


class MatMulFreeLM(nn.Module):
    """The language model; ``state_dict`` has the published keys.

    Parameters
    ----------
    geometry : Geometry
        Sizes.
    spread : float
        Standard deviation of the initial weights.
    """

    def __init__(self, geometry: Geometry, *, spread: float = 0.02):
        super().__init__()
        self.geometry = geometry
        self.model = _Backbone(geometry)
        self.lm_head = BitLinear(geometry.hidden, geometry.vocab)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2 and not name.endswith("lower_bounds"):
                nn.init.normal_(parameter, std=spread)

    def set_exact(self, dtype: torch.dtype) -> MatMulFreeLM:
        """Sets the dtype of the matrix products; returns the model."""
        for module in self.modules():
            if isinstance(module, BitLinear):
                module.exact = dtype
        return self

    def set_dropout(self, p: float) -> None:
        """Sets the dropout of the embeddings and of every residual branch."""
        for module in self.modules():
            if isinstance(module, _Dropout):
                module.on = module.on or p > 0
                module.share.fill_(p)

    def initial_state(self, batch: int) -> Tensor:
        """A state of zeros, shape ``[layers, batch, d]``."""
        bounds = self.model.lower_bounds
        return bounds.new_zeros(self.geometry.layers, batch, self.geometry.hidden)

    def features(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's output, ``[B, T, d]``, and the state after the last token."""
        x, _, states = self.model(tokens, state)
        return x, torch.stack(states)

    def head(self, x: Tensor) -> Tensor:
        """Logits, ``[B, T, V]``, of the last layer's output."""
        return self.lm_head(self.model.norm(x))

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the next token at every position.

        Parameters
        ----------
        tokens : Tensor of int64, shape ``[B, T]``
        state : Tensor, shape ``[layers, B, d]``, or None
            State before the first token; None for zeros.

        Returns
        -------
        logits : Tensor, shape ``[B, T, V]``
        state : Tensor, shape ``[layers, B, d]``
            State after the last token.
        """
        if state is None:
            state = self.initial_state(len(tokens))
        x, state = self.features(tokens, state)
        return self.head(x), state


def export_checkpoint(model: MatMulFreeLM, folder: Path, *, begin: int = 0, end: int = 0) -> None:
    """Writes ``config.json`` and ``model.safetensors`` (bfloat16) in the published layout.

    Parameters
    ----------
    model : MatMulFreeLM
    folder : Path
    begin, end : int
        Tokens before and after every text.
    """
    g = model.geometry
    config = {
        "architectures": ["HGRNBitForCausalLM"],
        "model_type": "hgrn_bit",
        "vocab_size": g.vocab, "hidden_size": g.hidden,
        "intermediate_size": g.intermediate, "num_hidden_layers": g.layers,
        "num_heads": 1, "expand_ratio": 1, "use_short_conv": False, "use_lower_bound": True,
        "hidden_act": "swish", "rms_norm_eps": _EPSILON, "tie_word_embeddings": False,
        "bos_token_id": begin, "eos_token_id": end, "torch_dtype": "bfloat16",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous()
               for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def import_checkpoint(folder: Path) -> MatMulFreeLM:
    """Reads a checkpoint of the published layout as float32, on the CPU; not the sharded ones.

    Raises
    ------
    NomulError
        If a file is missing or does not hold what the architecture has.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        if config["model_type"] != "hgrn_bit":
            raise NomulError(f"{folder}/config.json: model_type is {config['model_type']!r}; "
                             f"it must be 'hgrn_bit'")
        d = config["hidden_size"]
        m = config.get("intermediate_size")
        geometry = Geometry(
            hidden=d, layers=config["num_hidden_layers"], vocab=config["vocab_size"],
            intermediate=m or 256 * -(-int(d * config["hidden_ratio"] * 2 / 3) // 256))
        model = MatMulFreeLM(geometry)
        model.load_state_dict({k: v.float() for k, v in
                               load_file(folder / "model.safetensors").items()})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        line = " ".join(str(error).split())
        raise NomulError(f"{folder}: not a readable hgrn_bit checkpoint: {line}") from error
    return model.eval()
