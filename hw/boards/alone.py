# SPDX-License-Identifier: Apache-2.0
"""What stands in for a core where there is none: a board's link can be tried before its memory or core."""

from amaranth.hdl import Module
from amaranth.lib import wiring

from nomul.hw.core_ports import CorePorts
from nomul.model.protocol import Fault

__all__ = ["NoCore"]


class NoCore(wiring.Component):
    """Refuses: every token fails with ``Fault.PROGRAM``, no address answers."""

    def __init__(self) -> None:
        super().__init__(CorePorts())

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        m.d.sync += [bus.done.eq(bus.read | bus.write), bus.error.eq(bus.read | bus.write)]
        m.d.comb += [
            self.token_i.ready.eq(~self.token_o.valid),
            self.busy.eq(self.token_o.valid),
            self.error.eq(Fault.PROGRAM),
        ]
        with m.If(self.token_i.valid & self.token_i.ready & ~self.abort):
            m.d.sync += self.token_o.valid.eq(1)
        with m.Elif(self.token_o.ready | self.abort):
            m.d.sync += self.token_o.valid.eq(0)
        return m
