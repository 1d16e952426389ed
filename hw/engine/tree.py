# SPDX-License-Identifier: Apache-2.0
"""Pipelined adder trees."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Module, Shape, Signal, Value

__all__ = ["adder_tree", "delay", "tree_stages"]


def delay(m: Module, value: Value) -> Signal:
    """``value`` a cycle later."""
    later = Signal(Shape.cast(value.shape()), reset_less=True)
    m.d.sync += later.eq(value)
    return later


def _halve(terms: Sequence[Value]) -> list[Value]:
    """Sums of neighbours; an odd last term stays."""
    pairs = [a + b for a, b in zip(terms[::2], terms[1::2], strict=False)]
    return pairs + ([terms[-1]] if len(terms) % 2 else [])


def tree_stages(terms: int, *, levels: int, remain: int = 1) -> int:
    """Register stages of :func:`adder_tree`."""
    stages = 0
    while terms > remain:
        for _ in range(levels):
            if terms > remain:
                terms = -(-terms // 2)
        stages += 1
    return stages


def adder_tree(
    m: Module, terms: Sequence[Value], *, levels: int, remain: int = 1
) -> list[Value]:
    """Adds signed terms pairwise until ``remain`` are left, exactly: widths grow as needed.

    A register follows every ``levels`` levels; :func:`tree_stages` says how many that makes.
    """
    left = [*terms]
    while len(left) > remain:
        for _ in range(levels):
            if len(left) > remain:
                left = _halve(left)
        left = [delay(m, term) for term in left]
    return left
