# SPDX-License-Identifier: Apache-2.0
"""Training without what backward can compute again: fused BitLinear, recurrence and loss."""

from .model import FusedLM, fused_backend

__all__ = ["FusedLM", "fused_backend"]
