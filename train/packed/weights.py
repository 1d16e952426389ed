# SPDX-License-Identifier: Apache-2.0
"""A model's integers on a device: packed matrices, norms, embeddings, the program's constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomul.model import isa
from nomul.model.fold import Embedding, Layer, Matrix, Model, NormVector
from nomul.model.geometry import Geometry
from nomul.model.numbers import product_shift
from nomul.model.program import compile_model
from nomul.model.scalar import Scalar

from .layout import PackedMatrix, pack, random_matrix
from .numbers import constant

__all__ = ["PackedLayer", "PackedWeights", "load_weights", "random_weights"]

_IN_LAYER = 11  # constants of a block: 4 of the gates, 3 of o, 2 of gate and up, 2 of down


@dataclass(frozen=True, kw_only=True)
class PackedLayer:
    """One block.

    Attributes
    ----------
    gates : PackedMatrix
        Rows of the forget, the input and the output gate.
    gate_norms, attn_square : Tensor of int16, shape ``[3, d]`` and ``[d]``
    lower : Tensor of int32, shape ``[d]``
    o, gate_up, down : PackedMatrix
        Rows of gate and up in turns.
    o_norm, o_square, mlp_norm, mlp_square, down_norm : Tensor of int16
        ``mlp_norm`` is ``[1, d]``.
    constants : Tensor of int64, shape ``[11, 2]``
        Scalars of the program in its order.
    """

    gates: PackedMatrix
    gate_norms: Tensor
    attn_square: Tensor
    lower: Tensor
    o: PackedMatrix
    o_norm: Tensor
    o_square: Tensor
    gate_up: PackedMatrix
    mlp_norm: Tensor
    mlp_square: Tensor
    down: PackedMatrix
    down_norm: Tensor
    constants: Tensor


@dataclass(frozen=True, kw_only=True)
class PackedWeights:
    """Everything that a token reads.

    Attributes
    ----------
    geometry : Geometry
    embeddings, embedding_scale : Tensor of int8 and int32, shape ``[V, d]`` and ``[V]``
    embedding_shift, product_shift : int
    layers : tuple of PackedLayer
    head : PackedMatrix
    head_norm, head_square : Tensor of int16, shape ``[1, d]`` and ``[d]``
    constants : Tensor of int64, shape ``[2, 2]``
        Of the head.
    """

    geometry: Geometry
    embeddings: Tensor
    embedding_scale: Tensor
    embedding_shift: int
    product_shift: int
    layers: tuple[PackedLayer, ...]
    head: PackedMatrix
    head_norm: Tensor
    head_square: Tensor
    constants: Tensor

    @property
    def token_bytes(self) -> int:
        """Bytes that one token must read: matrices, norms and one embedding, each once."""
        read = self.head.bytes + sum(
            part.bytes if isinstance(part, PackedMatrix) else part.numel() * part.element_size()
            for layer in self.layers for part in vars(layer).values())
        return read + 2 * self.head_square.numel() * 2 + self.geometry.hidden + 4

    @property
    def resident_bytes(self) -> int:
        """Bytes of all tensors."""
        return self.token_bytes + self.embeddings.numel() + 4 * self.embedding_scale.numel()


def _program(model: Model) -> tuple[list[Scalar], int]:
    """Constants of the compiled program in their order, and the shift of the embeddings."""
    image = compile_model(model, bytes_per_beat=256, tile_outputs=1 << 14)
    constants = [Scalar(i.mantissa, i.exponent) for i in image.program if isinstance(i, isa.Const)]
    (embed,) = (i for i in image.program if isinstance(i, isa.Embed))
    if len(constants) != _IN_LAYER * model.geometry.layers + 2:
        raise AssertionError("the compiler's program has other constants than the kernels know")
    return constants, embed.shift


def _stacked(values: list[Scalar], device: torch.device) -> Tensor:
    return torch.stack([constant(v, device) for v in values])


def load_weights(model: Model, format: str, device: torch.device) -> PackedWeights:
    """A folded model, as a model file holds it, on a device.

    Parameters
    ----------
    model : Model
    format : str
        ``two`` or ``five``.
    device : torch.device
    """
    constants, shift = _program(model)

    def vector(*norms: NormVector) -> Tensor:
        return torch.from_numpy(np.stack([n.values for n in norms])).to(device)

    def matrix(part: Matrix) -> PackedMatrix:
        return pack(part.code, part.inputs, format, device)

    layers = []
    for number, y in enumerate(model.layers):
        gates = [matrix(m) for m in (y.f_proj, y.i_proj, y.g_proj)]
        layers.append(PackedLayer(
            gates=replace(gates[0], words=torch.cat([m.words for m in gates])),
            gate_norms=vector(y.f_norm, y.i_norm, y.g_norm), attn_square=vector(y.attn_square)[0],
            lower=torch.from_numpy(y.lower_bound.astype(np.int32)).to(device),
            o=matrix(y.o_proj), o_norm=vector(y.o_norm)[0], o_square=vector(y.o_square)[0],
            gate_up=matrix(y.gate_up), mlp_norm=vector(y.gate_norm), mlp_square=vector(y.mlp_square)[0],
            down=matrix(y.down_proj), down_norm=vector(y.down_norm)[0],
            constants=_stacked(constants[number * _IN_LAYER : (number + 1) * _IN_LAYER], device),
        ))  # fmt: skip
    return PackedWeights(
        geometry=model.geometry, embeddings=torch.from_numpy(model.embedding.values.copy()).to(device),
        embedding_scale=torch.from_numpy(model.embedding.scale.astype(np.int32)).to(device),
        embedding_shift=shift, product_shift=product_shift(model.geometry.hidden), layers=tuple(layers),
        head=matrix(model.head), head_norm=vector(model.head_norm),
        head_square=vector(model.head_square)[0], constants=_stacked(constants[-2:], device),
    )  # fmt: skip


def _model_of_zeros(geometry: Geometry) -> Model:
    """One block of a shape, for its constants: all trits zero, norms one, the usual scales."""
    def matrix(outputs: int, inputs: int) -> Matrix:
        code = np.broadcast_to(np.zeros(1, np.uint8), (outputs, -(-inputs // 5)))
        return Matrix(code=code, inputs=inputs, scale=0.02)

    d, m = geometry.hidden, geometry.intermediate
    ones = NormVector.of(np.ones(d))
    small = Geometry(hidden=d, intermediate=m, layers=1, vocab=2)
    layer: dict[str, Any] = {name: ones for name, kind in Layer.__annotations__.items() if kind == "NormVector"}
    layer |= {f"{p}_proj": matrix(d, d) for p in "ifgo"}
    layer |= {"gate_up": matrix(2 * m, d), "down_proj": matrix(d, m), "down_norm": NormVector.of(np.ones(m)),
              "lower_bound": np.zeros(d, np.uint16)}
    embedding = Embedding.of(np.full((2, d), 0.02, dtype=np.float32))
    return Model(geometry=small, eps=1e-6, embedding=embedding, layers=(Layer(**layer),),
                 head_square=ones, head_norm=ones, head=matrix(2, d))  # fmt: skip


def random_weights(geometry: Geometry, format: str, device: torch.device, seed: int = 1) -> PackedWeights:
    """Random trits and embeddings of a shape, made in packed form on the device."""
    generator = torch.Generator(device).manual_seed(seed)
    one = load_weights(_model_of_zeros(geometry), format, device)
    d, m, v = geometry.hidden, geometry.intermediate, geometry.vocab

    def matrix(outputs: int, inputs: int) -> PackedMatrix:
        return random_matrix(outputs, inputs, format, device, generator)

    (block,) = one.layers
    layers = tuple(
        replace(block, gates=matrix(3 * d, d), o=matrix(d, d), gate_up=matrix(2 * m, d), down=matrix(d, m),
                **{name: part.clone() for name, part in vars(block).items() if isinstance(part, Tensor)})
        for _ in range(geometry.layers))  # fmt: skip
    values = torch.randint(-127, 128, (v, d), dtype=torch.int8, device=device, generator=generator)
    return replace(one, geometry=geometry, embeddings=values, layers=layers, head=matrix(v, d),
                   embedding_scale=one.embedding_scale[:1].expand(v).contiguous())  # fmt: skip
