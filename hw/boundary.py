# SPDX-License-Identifier: Apache-2.0
"""Ports of a part that are ports of the whole."""

from __future__ import annotations

from collections.abc import Iterable

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

__all__ = ["expose", "join"]


def expose(
    m: Module, inner: wiring.Component, outer: wiring.Component, names: Iterable[str]
) -> None:
    """Joins members of ``inner`` to those of the same names of ``outer``, in whose module this stands."""
    for name in names:
        member, here, there = inner.signature.members[name], getattr(inner, name), getattr(outer, name)
        if member.is_signature:
            connect(m, here, flipped(there))
        elif member.flow is Out:
            m.d.comb += there.eq(here)
        else:
            m.d.comb += here.eq(there)


def join(
    m: Module, one: wiring.Component, other: wiring.PureInterface, names: Iterable[str]
) -> None:
    """Joins members of a component to those of the same names, facing them, of an interface beside it."""
    for name in names:
        member, here, there = one.signature.members[name], getattr(one, name), getattr(other, name)
        if member.is_signature:
            connect(m, here, there)
        elif member.flow is Out:
            m.d.comb += there.eq(here)
        else:
            m.d.comb += here.eq(there)
