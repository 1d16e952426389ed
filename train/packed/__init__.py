# SPDX-License-Identifier: Apache-2.0
"""Inference from packed ternary weights on a GPU, in the integers of the golden model."""

from .model import PackedLM, packed_backend
from .weights import PackedWeights, load_weights, random_weights

__all__ = ["PackedLM", "PackedWeights", "load_weights", "packed_backend", "random_weights"]
