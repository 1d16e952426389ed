# SPDX-License-Identifier: Apache-2.0
"""Clocks, and supplies for which the second domain waits: as on a board whose transceiver's bank the chip supplies."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.boards.board import BankSupplies
from nomul.hw.boards.pll import Clocks, plan
from nomul.hw.boards.supplies import Supplies

SUPPLIES = BankSupplies(resource="vccio_ctrl", volts=(1.8,))
CLOCK_HZ = 2000  #: so that supplies are there within few cycles


class Held(wiring.Component):
    """``first`` and ``second`` are high when their domains are out of reset."""

    def __init__(self) -> None:
        self.supplies = Supplies(supplies=SUPPLIES, clock_hz=CLOCK_HZ)
        super().__init__({
            "clk": In(1), "button": In(1), "first": Out(1), "second": Out(1), "supply_on": Out(1), "good": Out(1),
            "supply_pulses": Out(1),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.domains.usb = ClockDomain()
        pll = plan(30_000_000, [90_000_000, 60_000_000])
        m.submodules.clocks = clocks = Clocks(pll=pll, domains=["sync", "usb"], held=True)
        m.submodules.supplies = supplies = self.supplies
        m.d.sync += self.first.eq(1)
        m.d.usb += self.second.eq(1)
        m.d.comb += [
            clocks.clk.eq(self.clk), clocks.reset.eq(self.button), clocks.hold.eq(~supplies.good),
            self.supply_on.eq(supplies.supply_on), self.good.eq(supplies.good),
            self.supply_pulses.eq(supplies.supply_pulses),
        ]  # fmt: skip
        return m
