# SPDX-License-Identifier: Apache-2.0
"""The vector unit: everything between two matrices, elementwise and in passing."""

from .unit import VectorUnit

__all__ = ["VectorUnit"]
