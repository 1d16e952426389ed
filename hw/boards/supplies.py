# SPDX-License-Identifier: Apache-2.0
"""Supplies of I/O banks that the chip sets itself, by the density of pulses on pins of other banks."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from .board import BankSupplies

__all__ = ["Supplies", "density"]

_BITS = 16  # of a density
_REFERENCE_V = 0.6  # at which each regulator holds its feedback node
_PIN_V = 3.3
_INTO, _FEEDBACK, _TO_GROUND = 68_000, 53_600, 13_000  # ohms from filtered pulses, output and ground to the node
_FILTER_S = 68_000 * 0.1e-6  # time constant of the pulses' filter
_START_S = 0.001  # of the regulators


def density(volts: float) -> int:
    """Pulses in 2¹⁶ cycles that set an output.

    What flows into the node from output and pulses flows to ground:
    ``(output - 0.6) / 53600 + (pulses - 0.6) / 68000 = 0.6 / 13000``.

    Raises
    ------
    ValueError
        If no density does.
    """
    current = _REFERENCE_V / _TO_GROUND - (volts - _REFERENCE_V) / _FEEDBACK
    pulses = _REFERENCE_V + current * _INTO
    if not 0 <= pulses <= _PIN_V:
        raise ValueError(f"supplies: {volts} V is not within the regulators' range")
    return min(round(pulses / _PIN_V * (1 << _BITS)), (1 << _BITS) - 1)


class Supplies(wiring.Component):
    """A sigma-delta modulator for each supply; regulators are let go when their set points have settled.

    Parameters
    ----------
    supplies : BankSupplies
    clock_hz : int
        Of domain ``sync``.

    Attributes
    ----------
    settling, starting : int
        Cycles until the regulators are let go, and from there until their outputs are there.

    Members
    -------
    supply_pulses : ``Out(len(supplies.volts))``
    supply_on : ``Out(1)``
        Lets the regulators go.
    good : ``Out(1)``
        What is supplied may be used.
    """

    def __init__(self, *, supplies: BankSupplies, clock_hz: int):
        self.densities = tuple(map(density, supplies.volts))
        self.settling = round(8 * _FILTER_S * clock_hz)  # to within e⁻⁸, 1 mV
        self.starting = round(2 * _START_S * clock_hz)
        super().__init__({"supply_pulses": Out(len(self.densities)), "supply_on": Out(1), "good": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waited = Signal(range(self.settling + self.starting + 1))
        with m.If(~self.good):
            m.d.sync += waited.eq(waited + 1)
        with m.If(waited == self.settling):
            m.d.sync += self.supply_on.eq(1)
        with m.If(waited == self.settling + self.starting):
            m.d.sync += self.good.eq(1)
        for wanted, pulse in zip(self.densities, self.supply_pulses, strict=True):
            rest = Signal(_BITS)
            m.d.sync += Cat(rest, pulse).eq(rest + wanted)
        return m
