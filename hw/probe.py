# SPDX-License-Identifier: Apache-2.0
"""What a unit shows of its inside to a simulation; on a chip nobody looks, and it costs nothing."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, Value

__all__ = ["Probe"]


class Probe:
    """A value that is right in the cycles of its strobe.

    Attributes
    ----------
    strobe, value : Signal
        Driven by the unit; read from anywhere above it.
    """

    def __init__(self, shape: Shape, *, name: str):
        self.strobe = Signal(name=f"{name}_strobe")
        self.value = Signal(shape, name=f"{name}_value")

    def drive(self, m: Module, strobe: Value, value: Value) -> None:
        """Says in the unit's module what is seen."""
        m.d.comb += [self.strobe.eq(strobe), self.value.eq(value)]
