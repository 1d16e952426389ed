# SPDX-License-Identifier: Apache-2.0
"""A routed component: its clock, and the path that limits it."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.build.synth import synthesise


class Sum(wiring.Component):
    """An adder between registers."""

    def __init__(self):
        super().__init__({"i": In(8), "o": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        before = Signal(8)
        m.d.sync += [before.eq(self.i), self.o.eq(before * 5 + self.o)]
        return m


def test_the_longest_path_ends_in_registers():
    found = synthesise(Sum(), name="sum", seeds=(1,))
    assert found.fmax_mhz > (0,)
    ((begin, end),) = found.longest_paths
    assert begin.startswith(("before_TRELLIS_FF", "o_TRELLIS_FF"))
    assert end.startswith("o_TRELLIS_FF")
