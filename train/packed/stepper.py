# SPDX-License-Identifier: Apache-2.0
"""Decoding one text token by token with the kernels of one token, replayed as a CUDA graph."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .kernels.decode import ASSEMBLY
from .kernels.token import (
    STATISTICS,
    embed_token,
    gates_token,
    glu_token,
    head_token,
    quantise_token,
    residual_token,
)
from .layout import PackedMatrix
from .numbers import Tables
from .weights import PackedWeights

__all__ = ["TILES", "Stepper"]

#: Outputs of a program and its warps, by kernel.
TILES = {"gates": (8, 4), "o": (8, 4), "gate_up": (32, 4), "down": (8, 4), "head": (64, 4)}
_CHUNK = 512  # activations of a program that does nothing but quantise


class Stepper:
    """Greedy decoding of one text: every step reads the token that the one before chose.

    Values are the golden model's, bit for bit. On CUDA the first :meth:`step` records a graph, the others
    replay it; needs Triton.

    Parameters
    ----------
    weights : PackedWeights
    split : bool
        A kernel of its own quantises a vector once; else every program of the kernel that reads it does
        so for itself.
    overlap : bool
        Kernels load their weights while the one before still runs (programmatic dependent launch); not on
        GPUs before compute capability 9.0.
    tiles : dict, optional
        As :data:`TILES`.

    Attributes
    ----------
    token : Tensor of int64, shape ``[1]``
        Token that the next step reads; a step leaves the arg-max there, the smallest of equals.
    state : Tensor of int32, shape ``[layers, 1, d]``
    logits, scale : Tensor of int32 and int64, shape ``[V]`` and ``[2]``
        Of the latest step.
    """

    def __init__(
        self, weights: PackedWeights, *, split: bool = True, overlap: bool = True,
        tiles: dict[str, tuple[int, int]] | None = None,
    ):  # fmt: skip
        g, device = weights.geometry, weights.embeddings.device
        self.weights, self.tiles, self.tables = weights, tiles or TILES, Tables(device)
        self._split = split
        self._overlap = overlap and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)

        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        self.token = empty(1, dtype=torch.int64)
        self.state = empty(g.layers, 1, g.hidden)
        self.logits, self.scale = empty(g.vocab), empty(2, dtype=torch.int64)
        self._x, self._product = empty(g.hidden), empty(max(g.hidden, g.intermediate))
        self._extra, self._scales = empty(2, dtype=torch.int64), empty(3, 2, dtype=torch.int64)
        self._stats = empty(4 * g.layers + 2, STATISTICS, dtype=torch.int64)  # the last: the best logit
        self._scratch = empty(self._scratch_bytes(), dtype=torch.int8)
        self._graph: Any = None

    def _programs(self, kernel: str, outputs: int) -> int:
        return int(triton.cdiv(outputs, self.tiles[kernel][0]))

    def _scratch_bytes(self) -> int:
        """The activations, unless they are split off one copy a program, for the kernel that takes most."""
        w, y = self.weights, self.weights.layers[0]
        if self._split:
            return max(3 * y.gates.padded, y.down.padded)
        return max(
            3 * y.gates.padded * self._programs("gates", y.gates.outputs // 3),
            y.o.padded * self._programs("o", y.o.outputs),
            y.gate_up.padded * self._programs("gate_up", y.gate_up.outputs),
            y.down.padded * self._programs("down", y.down.outputs),
            w.head.padded * self._programs("head", w.head.outputs))

    def _run(self) -> None:
        w, s, table = self.weights, self._stats, self.tables.inverse
        d, m, layers = w.geometry.hidden, w.geometry.intermediate, w.layers
        scratch = (self._scratch, self._scratch.view(torch.int32), self._scales)
        pdl = {"launch_pdl": True} if self._overlap else {}
        s.zero_()

        def quantise(source: Tensor, norms: Tensor, stats: Tensor, constants: Tensor, matrix: PackedMatrix,
                     *, addend: int = 0) -> None:  # fmt: skip
            if self._split:
                width, count = norms.shape[-1], norms.numel() // norms.shape[-1]
                grid = (1 + triton.cdiv(matrix.padded, _CHUNK), count)
                quantise_token[grid](
                    source, norms, stats, constants, self._extra, self._scratch, self._scales, table, width,
                    matrix.padded, ADDEND=addend, PDL=self._overlap, BLOCK=_CHUNK, num_warps=4, **pdl)

        def launch(kernel: Any, name: str, matrix: PackedMatrix, outputs: int, *arguments: Any,
                   **settings: Any) -> None:  # fmt: skip
            line = matrix.words.shape[1]
            kernel[(self._programs(name, outputs),)](
                matrix.words, *arguments, PLANES=matrix.planes, ASM=ASSEMBLY, PDL=self._overlap, SPLIT=self._split,
                OUT=self.tiles[name][0], LINE=triton.next_power_of_2(line),
                PADDED=triton.next_power_of_2(matrix.padded), num_warps=self.tiles[name][1], **settings, **pdl)

        embed_token[(triton.cdiv(d, 256),)](
            w.embeddings, w.embedding_scale, self.token, self._x, layers[0].gate_norms, layers[0].attn_square,
            s[0], w.embedding_shift, d, COUNT=3, BLOCK=256, PDL=False)
        for n, y in enumerate(layers):
            a, b, c, e, f = (s[4 * n + k] for k in range(5))
            last = n + 1 == len(layers)
            norms, square = (w.head_norm, w.head_square) if last else (
                layers[n + 1].gate_norms, layers[n + 1].attn_square)
            quantise(self._x, y.gate_norms, a, y.constants, y.gates)
            launch(gates_token, "gates", y.gates, d, self._x, y.gate_norms, a, y.constants, y.lower,
                   self.state[n], y.o_norm, y.o_square, self._product, b, self._extra, *scratch,
                   self.tables.sigma, table, d, y.gates.words.shape[1], y.gates.padded, w.product_shift)
            quantise(self._product, y.o_norm, b, y.constants[4:], y.o, addend=2)
            launch(residual_token, "o", y.o, d, self._product, y.o_norm, b, y.constants[4:], self._extra,
                   self._x, y.mlp_norm, y.mlp_square, c, *scratch, table, d, d, y.o.words.shape[1], y.o.padded,
                   ADDEND=2, COUNT=1)
            quantise(self._x, y.mlp_norm, c, y.constants[7:], y.gate_up)
            launch(glu_token, "gate_up", y.gate_up, 2 * m, self._x, y.mlp_norm, c, y.constants[7:],
                   self._product, y.down_norm, e, self._extra, *scratch, self.tables.sigma, table, d, 2 * m,
                   y.gate_up.words.shape[1], y.gate_up.padded, w.product_shift)
            quantise(self._product, y.down_norm, e, y.constants[9:], y.down, addend=1)
            launch(residual_token, "down", y.down, d, self._product, y.down_norm, e, y.constants[9:],
                   self._extra, self._x, norms, square, f, *scratch, table, m, d, y.down.words.shape[1],
                   y.down.padded, ADDEND=1, COUNT=len(norms))
        end = s[4 * len(layers)]
        quantise(self._x, w.head_norm, end, w.constants, w.head)
        launch(head_token, "head", w.head, w.geometry.vocab, self._x, w.head_norm, end, w.constants,
               self.logits, self.scale, s[-1], *scratch, table, d, w.geometry.vocab,
               w.head.words.shape[1], w.head.padded)
        self.token.copy_(1048575 - (s[-1, :1] & 1048575))

    def step(self) -> None:
        """Reads :attr:`token`; logits, state and the next token are ready when the device's work is done."""
        if not self.token.is_cuda:
            self._run()
            return
        if self._graph is None:
            kept = self.token.clone(), self.state.clone()
            self._run()  # compiles
            torch.cuda.synchronize()
            self.token.copy_(kept[0])
            self.state.copy_(kept[1])
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run()
        self._graph.replay()
