# SPDX-License-Identifier: Apache-2.0
"""Who is not beaten in everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["dominates", "front"]

T = TypeVar("T")


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere larger than ``b`` and somewhere smaller; the less the better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(items: Sequence[T], cost: Callable[[T], tuple[float, float]]) -> list[T]:
    """Those that no other dominates in two costs, by the first cost; of equals the first."""
    found: list[T] = []
    best = float("inf")
    for item in sorted(items, key=cost):
        second = cost(item)[1]
        if second < best:
            found.append(item)
            best = second
    return found
