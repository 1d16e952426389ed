# SPDX-License-Identifier: Apache-2.0
"""The functions of :mod:`nomul.train.fused.plain` as Triton kernels: float32 inside, one pass over memory each.

Rows, weights and row values are float32 or bfloat16 as they come; importing this needs Triton.
"""

from .elementwise import add, cross_entropy, scaled, ternarise
from .gated import glu_quantise, glu_quantise_backward, swish_quantise, swish_quantise_backward
from .normed import norm_quantise, norm_quantise_backward
from .products import product, weight_gradient
from .recurrence import mix, mix_backward

__all__ = [
    "add", "cross_entropy", "glu_quantise", "glu_quantise_backward", "mix", "mix_backward", "norm_quantise",
    "norm_quantise_backward", "product", "scaled", "swish_quantise", "swish_quantise_backward",
    "ternarise", "weight_gradient",
]  # fmt: skip
