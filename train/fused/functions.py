# SPDX-License-Identifier: Apache-2.0
"""The blocks of the model as three autograd functions that keep little and compute the rest again.

Between forward and backward a BitLinear holds the block's input (one copy in the dtype of the
products, shared by what reads it), one value a row and one a matrix. Normalised and quantised
activations, trits, recurrent states and σ are computed again; so are the sums of the first product of
each block where ``lean`` asks for it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Head", "Mixer", "Mlp"]


class Mixer(torch.autograd.Function):
    """Token mixing with its residual: ``x + o(RMS(g(n))·silu(h))``, ``n = RMS(x)``.

    Takes ops, exact, lean; x ``[N, d]``, h0 ``[B, d]``, bound ``[d]``; the block's norm; norm and weight of
    the projections i, f, g and o; the norm of g. Gives the stream after it and the state after the last token.
    """

    @staticmethod
    def forward(
        ctx: Any, ops: ModuleType, exact: torch.dtype, lean: bool, x: Tensor, h0: Tensor, bound: Tensor,
        block: Tensor, *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        norms, matrices, g_norm = weights[0:8:2], weights[1:8:2], weights[8]
        narrow = x.to(exact)
        q, units = ops.norm_quantise(narrow, block, norms[:3])
        sums, scales = [], []
        for k in range(3):
            t, scale = ops.ternarise(matrices[k], exact)
            sums.append(ops.product(q[k], t))
            scales.append(scale)
        h, last = ops.mix(sums[0], sums[1], units[:2], scales[:2], bound, h0)
        q_o, unit_o = ops.swish_quantise(sums[2], units[2], scales[2], h, g_norm, norms[3])
        t, scale = ops.ternarise(matrices[3], exact)
        out = ops.add(x, ops.product(q_o, t), unit_o, scale)
        ctx.ops, ctx.lean = ops, lean
        ctx.save_for_backward(narrow, units, h0, bound, block, *weights, *scales, scale, *(() if lean else sums))
        return out, last

    @staticmethod
    def backward(ctx: Any, of_out: Tensor, of_last: Tensor) -> tuple[Tensor | None, ...]:
        ops = ctx.ops
        narrow, units, h0, bound, block, *rest = ctx.saved_tensors
        weights, scales, sums = rest[:9], rest[9:13], rest[13:]
        norms, matrices, g_norm = weights[0:8:2], weights[1:8:2], weights[8]
        exact = narrow.dtype
        q, _ = ops.norm_quantise(narrow, block, norms[:3])
        if ctx.lean:
            sums = [ops.product(q[k], ops.ternarise(matrices[k], exact, scales[k])[0]) for k in range(3)]
        h, _ = ops.mix(sums[0], sums[1], units[:2], scales[:2], bound, h0)
        q_o, unit_o = ops.swish_quantise(sums[2], units[2], scales[2], h, g_norm, norms[3])
        g = ops.scaled(of_out, unit_o, exact)
        of_matrices: list[Tensor] = [ops.weight_gradient(g, q_o)]
        back = g @ ops.ternarise(matrices[3], exact, scales[3])[0]
        g_g, of_h, of_g_norm, of_o_norm = ops.swish_quantise_backward(
            back, unit_o, scales[3], sums[2], units[2], scales[2], h, g_norm, norms[3])
        del q_o, back, h
        g_i, g_f, of_bound, of_h0 = ops.mix_backward(
            of_h, of_last, sums[0], sums[1], units[:2], scales[:2], bound, h0)
        del of_h, sums
        backs = []
        for k, g in enumerate((g_i, g_f, g_g)):
            of_matrices.insert(k, ops.weight_gradient(g, q[k]))
            backs.append(g @ ops.ternarise(matrices[k], exact, scales[k])[0])
        del q, g, g_i, g_f, g_g
        of_x, of_block, of_norms = ops.norm_quantise_backward(
            backs, units, scales[:3], narrow, block, norms[:3], of_out)
        of_norms.append(of_o_norm)
        pairs = [p for pair in zip(of_norms, of_matrices, strict=True) for p in pair]
        return None, None, None, of_x, of_h0, of_bound, of_block, *pairs, of_g_norm


class Mlp(torch.autograd.Function):
    """The gated unit with its residual: ``x + down(silu(gate(n))·up(n))``, ``n = RMS(x)``.

    Takes ops, exact, lean, x ``[N, d]``, the block's norm, norm and weight of gate_proj and of down_proj.
    """

    @staticmethod
    def forward(
        ctx: Any, ops: ModuleType, exact: torch.dtype, lean: bool, x: Tensor, block: Tensor,
        norm: Tensor, matrix: Tensor, down_norm: Tensor, down: Tensor,
    ) -> Tensor:  # fmt: skip
        narrow = x.to(exact)
        q, units = ops.norm_quantise(narrow, block, (norm,))
        t, scale = ops.ternarise(matrix, exact)
        sums = ops.product(q[0], t)
        del q, t
        q_d, unit_d = ops.glu_quantise(sums, units[0], scale, down_norm)
        t, scale_d = ops.ternarise(down, exact)
        out = ops.add(x, ops.product(q_d, t), unit_d, scale_d)
        ctx.ops = ops
        ctx.save_for_backward(narrow, units, block, norm, matrix, down_norm, down, scale, scale_d,
                              None if lean else sums)
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        ops = ctx.ops
        narrow, units, block, norm, matrix, down_norm, down, scale, scale_d, sums = ctx.saved_tensors
        exact, unit = narrow.dtype, units[0]
        q, _ = ops.norm_quantise(narrow, block, (norm,))
        if sums is None:
            sums = ops.product(q[0], ops.ternarise(matrix, exact, scale)[0])
        q_d, unit_d = ops.glu_quantise(sums, unit, scale, down_norm)
        g = ops.scaled(of_out, unit_d, exact)
        of_down = ops.weight_gradient(g, q_d)
        back = g @ ops.ternarise(down, exact, scale_d)[0]
        del q_d, g
        g, of_down_norm = ops.glu_quantise_backward(back, unit_d, scale_d, sums, unit, scale, down_norm)
        del back, sums
        of_matrix = ops.weight_gradient(g, q[0])
        back = g @ ops.ternarise(matrix, exact, scale)[0]
        del q, g
        of_x, of_block, of_norms = ops.norm_quantise_backward(
            [back], units, [scale], narrow, block, (norm,), of_out)
        return None, None, None, of_x, of_block, of_norms[0], of_matrix, of_down_norm, of_down


class Head(torch.autograd.Function):
    """Mean cross-entropy of the logits, ``chunk`` rows of them at a time; gradients are made in passing.

    Takes ops, exact, chunk, x ``[N, d]``, targets ``[N]``, the final norm, norm and weight of lm_head.
    """

    @staticmethod
    def forward(
        ctx: Any, ops: ModuleType, exact: torch.dtype, chunk: int, x: Tensor, targets: Tensor,
        block: Tensor, norm: Tensor, matrix: Tensor,
    ) -> Tensor:  # fmt: skip
        narrow = x.to(exact)
        q, units = ops.norm_quantise(narrow, block, (norm,))
        t, scale = ops.ternarise(matrix, exact)
        losses, of_matrix, back = [], None, torch.empty_like(narrow)
        for n in range(0, len(x), chunk):
            rows = slice(n, n + chunk)
            sums = ops.product(q[0, rows], t)
            losses.append(ops.cross_entropy(sums, units[0, rows], scale, targets[rows], 1 / len(x)))
            if not ctx.needs_input_grad[3]:
                continue
            torch.mm(sums, t, out=back[rows])
            part = ops.weight_gradient(sums, q[0, rows])
            of_matrix = part if of_matrix is None else of_matrix.add_(part)
        ctx.ops = ops
        ctx.save_for_backward(narrow, units, block, norm, scale, back, of_matrix)
        return torch.cat(losses).mean()

    @staticmethod
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor | None, ...]:
        narrow, units, block, norm, scale, back, of_matrix = ctx.saved_tensors
        # The gradients exist already, for a loss that counts once.
        of_x, of_block, of_norms = ctx.ops.norm_quantise_backward(
            [back], units, [scale * of_loss], narrow, block, (norm,), torch.zeros_like(narrow, dtype=of_loss.dtype))
        return None, None, None, of_x, None, of_block, of_norms[0], of_matrix * of_loss
