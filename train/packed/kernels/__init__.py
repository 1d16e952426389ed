# SPDX-License-Identifier: Apache-2.0
"""The functions of :mod:`nomul.train.packed.plain` as Triton kernels; importing this needs Triton."""

from .products import products
from .rows import embed, glu, mix, output, residual

__all__ = ["embed", "glu", "mix", "output", "products", "residual"]
