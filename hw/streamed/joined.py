# SPDX-License-Identifier: Apache-2.0
"""A streamed core and what stands between it and its memory, as one core."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect

from nomul.hw.boundary import expose

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
            unit: [name for name in unit.signature.members if name != "memory"]
            for unit in (core, adaptor)
        }
        super().__init__({n: u.signature.members[n] for u, names in self._of.items() for n in names})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.adaptor = self.adaptor
        connect(m, self.core.memory, self.adaptor.memory)
        for unit, names in self._of.items():
            expose(m, unit, self, names)
        return m
