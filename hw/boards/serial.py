# SPDX-License-Identifier: Apache-2.0
"""The byte stream of boards with a USB bridge."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.link.uart import Uart, uart_rate

from .board import Board, Pins, UartLink

__all__ = ["SerialStream"]


class SerialStream(wiring.Component):
    """A transceiver at the highest rate that the bridge and the clock have in common.

    Parameters
    ----------
    board : Board
        Its link is a :class:`~.board.UartLink`.
    clock_hz : int
        Of domain ``sync``.

    Attributes
    ----------
    baud : int
    domains, pads : dict
        None: see :class:`~.usb.UsbStream`.

    Members
    -------
    rx_pin, tx_pin
        The wires.
    rx, tx
        The bytes, as of :class:`~nomul.hw.top.Top`, from the other side.
    """

    def __init__(self, *, board: Board, clock_hz: int):
        self.domains: dict[str, int] = {}
        self.pads: dict[str, Pins] = {}
        assert isinstance(board.link, UartLink)
        self.board = board
        self.baud = uart_rate(clock_hz, board.link.base_hz)
        self.uart = Uart(divisor=clock_hz // self.baud)
        super().__init__({
            "rx_pin": In(1),
            "tx_pin": Out(1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def pins(self) -> dict[str, Pins]:
        """Where the wires are on the board."""
        return {"rx_pin": self.board.pins("uart", "rx"), "tx_pin": self.board.pins("uart", "tx")}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.uart = uart = self.uart
        m.d.comb += [uart.rx_pin.eq(self.rx_pin), self.tx_pin.eq(uart.tx_pin)]
        connect(m, uart.rx, flipped(self.rx))
        connect(m, flipped(self.tx), uart.tx)
        return m
