# SPDX-License-Identifier: Apache-2.0
"""A serial transceiver: bytes on two wires, 8 data bits, no parity, one stop bit."""

from __future__ import annotations

from fractions import Fraction

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from nomul.model.errors import NomulError

__all__ = ["Uart", "uart_rate"]

_LEAST_DIVISOR = 8  # cycles of a bit: the edge of a start bit is seen to a cycle
_DATA_BITS = 8


def uart_rate(clock_hz: int, base_hz: int) -> int:
    """The highest rate of a USB bridge that divides a clock without a rest.

    FTDI's bridges divide their base clock by 1, 1.5, or from 2 on in steps of an eighth (FTDI, AN120, "Aliasing
    VCP Baud Rates").

    Parameters
    ----------
    clock_hz : int
        Of the transceiver.
    base_hz : int
        Of the bridge: 3 MHz of FT232R and FT231X, 12 MHz of FT2232H and its kin.

    Raises
    ------
    NomulError
        If there is none.
    """
    eighths = [8, 12, *range(16, 8 * 16385)]
    for step in eighths:
        rate = Fraction(8 * base_hz, step)
        if rate.denominator == 1 and clock_hz % int(rate) == 0 and clock_hz // rate >= _LEAST_DIVISOR:
            return int(rate)
    raise NomulError(
        f"UART: no rate of a bridge with {base_hz / 1e6:g} MHz divides a clock of {clock_hz / 1e6:g} MHz: "
        f"take another clock"
    )


class Uart(wiring.Component):
    """Bytes to and from two wires.

    A byte takes ``10 · divisor`` cycles on a wire, and one more until the next is taken. A received byte is
    offered in the middle of its stop bit and waits there; the next one is lost if it still does: frames have
    checksums. A byte with a wrong stop bit is dropped. The other end's clock may differ by 3 %.

    Parameters
    ----------
    divisor : int
        Cycles of a bit, at least 8.

    Members
    -------
    rx_pin : ``In(1)``
        From the other end; synchronised here.
    tx_pin : ``Out(1)``
    rx : ``Out(stream.Signature(8))``
        Bytes received.
    tx : ``In(stream.Signature(8))``
        Bytes to send.
    """

    def __init__(self, *, divisor: int):
        if divisor < _LEAST_DIVISOR:
            raise ValueError(f"Uart: divisor is {divisor}; at least {_LEAST_DIVISOR} cycles a bit")
        self.divisor = divisor
        super().__init__({
            "rx_pin": In(1),
            "tx_pin": Out(1, init=1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._receive(m)
        self._send(m)
        return m

    def _receive(self, m: Module) -> None:
        pin = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx_pin, pin, init=1)
        timer = Signal(range(self.divisor + self.divisor // 2 + 1))
        bits = Signal(range(_DATA_BITS + 2))
        shift = Signal(_DATA_BITS)
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += self.rx.valid.eq(0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [timer.eq(self.divisor // 2 - 1), bits.eq(_DATA_BITS + 1)]
                with m.If(~pin):
                    m.next = "BITS"
            with m.State("BITS"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(timer == 0):
                    m.d.sync += [timer.eq(self.divisor - 1), bits.eq(bits - 1)]
                    with m.If(bits == 0):  # the stop bit
                        with m.If(pin):
                            with m.If(~self.rx.valid | self.rx.ready):
                                m.d.sync += [self.rx.valid.eq(1), self.rx.payload.eq(shift)]
                            m.next = "IDLE"
                        with m.Else():
                            m.next = "BREAK"
                    with m.Else():
                        m.d.sync += shift.eq(Cat(shift[1:], pin))
                    with m.If((bits == _DATA_BITS + 1) & pin):  # no start bit
                        m.next = "IDLE"
            with m.State("BREAK"), m.If(pin):
                m.next = "IDLE"

    def _send(self, m: Module) -> None:
        timer = Signal(range(self.divisor))
        bits = Signal(range(_DATA_BITS + 3))
        shift = Signal(_DATA_BITS + 2, init=-1)
        m.d.comb += [self.tx.ready.eq(bits == 0), self.tx_pin.eq(shift[0])]
        with m.If(bits == 0), m.If(self.tx.valid):
            m.d.sync += [
                shift.eq(Cat(Const(0, 1), self.tx.payload, Const(1, 1))),
                bits.eq(_DATA_BITS + 2),
                timer.eq(self.divisor - 1),
            ]
        with m.Else():
            m.d.sync += timer.eq(timer - 1)
            with m.If(timer == 0):
                m.d.sync += [
                    timer.eq(self.divisor - 1),
                    bits.eq(bits - 1),
                    shift.eq(Cat(shift[1:], Const(1, 1))),
                ]
