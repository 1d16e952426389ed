# SPDX-License-Identifier: Apache-2.0
"""Matrix products: cuBLAS in bfloat16, which holds every operand; every sum is made in float32."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["product", "weight_gradient"]


def product(q: Tensor, t: Tensor) -> Tensor:
    """See :func:`nomul.train.fused.plain.product`."""
    return q @ t.T


def weight_gradient(g: Tensor, q: Tensor) -> Tensor:
    """See :func:`nomul.train.fused.plain.weight_gradient`; float32 without a pass of its own."""
    if g.is_cuda and g.dtype == torch.bfloat16:
        return torch.mm(g.T, q, out_dtype=torch.float32)
    return (g.T @ q).float()
