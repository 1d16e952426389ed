# SPDX-License-Identifier: Apache-2.0
"""What has to be written to a controller's registers before it works."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RegisterWriter", "WishboneSignature", "model_sequence"]

_HARDWARE = 1  # in sdram_dfii_control: the controller drives the PHY, not the registers


class WishboneSignature(wiring.Signature):
    """Wishbone, 32 bits, seen from the initiator; ``adr`` in words."""

    def __init__(self) -> None:
        super().__init__({
            "adr": Out(30),
            "dat_w": Out(32),
            "dat_r": In(32),
            "sel": Out(4),
            "cyc": Out(1),
            "stb": Out(1),
            "ack": In(1),
            "we": Out(1),
            "cti": Out(3),
            "bte": Out(2),
            "err": In(1),
        })


def model_sequence(registers: dict[str, int]) -> list[tuple[int, int]]:
    """Byte addresses and words that make the simulated memory answer.

    A real one wants more: reset, clock enable, mode registers, ZQ calibration and read levelling.
    """
    return [(registers["sdram_dfii_control"], _HARDWARE)]


class RegisterWriter(wiring.Component):
    """Writes words to a bus, one after the other, once after reset.

    Parameters
    ----------
    sequence : sequence of (int, int)
        Byte address, a multiple of 4, and word of 32 bits; at least one.

    Members
    -------
    bus : ``Out(WishboneSignature())``
    done : ``Out(1)``
        High from the cycle after the last acknowledgement on.
    """

    def __init__(self, *, sequence: Sequence[tuple[int, int]]):
        if not sequence:
            raise ValueError("RegisterWriter: sequence is empty")
        for address, word in sequence:
            if address % 4 or not 0 <= address < 1 << 32:
                raise ValueError(f"RegisterWriter: address is {address:#x}; a multiple of 4 below 2^32")
            if not 0 <= word < 1 << 32:
                raise ValueError(f"RegisterWriter: word is {word:#x}; 32 bits")
        self.sequence = tuple(sequence)
        super().__init__({"bus": Out(WishboneSignature()), "done": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, step = self.bus, Signal(range(len(self.sequence) + 1))
        addresses = Array(Const(address // 4, 30) for address, _ in self.sequence)
        words = Array(Const(word, 32) for _, word in self.sequence)
        # Between two accesses the bus rests for a cycle.
        m.d.sync += bus.cyc.eq(~self.done & ~(bus.cyc & bus.ack))
        m.d.comb += [
            bus.stb.eq(bus.cyc),
            bus.we.eq(1),
            bus.sel.eq(0xF),
            bus.adr.eq(addresses[step]),
            bus.dat_w.eq(words[step]),
        ]
        with m.If(bus.cyc & bus.ack):
            with m.If(step == len(self.sequence) - 1):
                m.d.sync += self.done.eq(1)
            with m.Else():
                m.d.sync += step.eq(step + 1)
        return m
