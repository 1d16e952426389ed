# SPDX-License-Identifier: Apache-2.0
"""A streamed core and what stands between it and its memory, as one core."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped

from .core import StreamedCore

__all__ = ["Joined"]


class Joined(wiring.Component):
    """A core behind a memory adaptor.

    Parameters
    ----------
    core : StreamedCore
    adaptor : Component
        With a member ``memory``, ``In(MemorySignature)``: an AXI master, LiteDRAM's native port, a controller.

    Members
    -------
    The core's but ``memory``, and the adaptor's but ``memory``.
    """

    def __init__(self, *, core: StreamedCore, adaptor: wiring.Component):
        self.core = core
        self.adaptor = adaptor
        self._of = {
            unit: {n: m for n, m in unit.signature.members.items() if n != "memory"}
            for unit in (core, adaptor)
        }
        super().__init__({n: m for members in self._of.values() for n, m in members.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.adaptor = self.adaptor
        connect(m, self.core.memory, self.adaptor.memory)
        for unit, members in self._of.items():
            for name, member in members.items():
                inner, outer = getattr(unit, name), getattr(self, name)
                if member.is_signature:
                    connect(m, inner, flipped(outer))
                elif member.flow is wiring.Out:
                    m.d.comb += outer.eq(inner)
                else:
                    m.d.comb += inner.eq(outer)
        return m
