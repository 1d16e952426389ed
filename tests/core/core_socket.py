# SPDX-License-Identifier: Apache-2.0
"""A core whose ``abort`` is called ``give_up``: Verilator keeps the words of C++ to itself."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from nomul.hw.core import Core
from nomul.hw.core_ports import CorePorts
from nomul.model.core_config import CoreConfig

__all__ = ["CoreSocket"]


class CoreSocket(wiring.Component):
    """A core of a configuration."""

    def __init__(self, *, config: CoreConfig):
        self.core = Core(config=config)
        ports = {
            "give_up" if name == "abort" else name: member
            for name, member in CorePorts().members.items()
        }
        assert ports["give_up"] == In(1)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = core = self.core
        connect(m, flipped(self.token_i), core.token_i)
        connect(m, core.token_o, flipped(self.token_o))
        connect(m, flipped(self.bus), core.bus)
        m.d.comb += [core.abort.eq(self.give_up), self.busy.eq(core.busy), self.error.eq(core.error)]
        return m
