# SPDX-License-Identifier: Apache-2.0
"""The byte stream of boards with a ULPI transceiver: LUNA's serial device at high speed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from amaranth.hdl import ClockSignal, Instance, IOPort, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .board import Board, Pins, UlpiLink
from .usb import LunaDevice, across

__all__ = ["UlpiStream"]

_PACKET = 512  # of bulk endpoints at high speed


class UlpiStream(wiring.Component):
    """A USB device behind a transceiver that takes its clock of 60 MHz from the chip.

    It wants a domain ``usb`` of 60 MHz beside ``sync``, whose reset is the transceiver's too.

    Parameters
    ----------
    board : Board
        Its link is a :class:`~.board.UlpiLink`.
    clock_hz : int
        Of domain ``sync``; any.

    Attributes
    ----------
    domains, pads, baud
        As of :class:`~.usb.UsbStream`.

    Members
    -------
    ulpi_clk, ulpi_stp, ulpi_rst : ``Out(1)``
    ulpi_dir, ulpi_nxt : ``In(1)``
        The transceiver; its eight data wires are pads.
    rx, tx
        The bytes, as of :class:`~nomul.hw.top.Top`, from the other side.
    """

    def __init__(self, *, board: Board, clock_hz: int):
        assert isinstance(board.link, UlpiLink)
        self.domains = {"usb": 60_000_000}
        self.baud = 0
        self.board = board
        self.pads = {"ulpi_data": self._pins("data")}
        super().__init__({
            "ulpi_clk": Out(1),
            "ulpi_stp": Out(1),
            "ulpi_rst": Out(1),
            "ulpi_dir": In(1),
            "ulpi_nxt": In(1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def _pins(self, part: str) -> Pins:
        link = self.board.link
        assert isinstance(link, UlpiLink)
        pins = self.board.pins(link.resource, part)
        return replace(pins, attributes={**pins.attributes, **link.attributes})

    def pins(self) -> dict[str, Pins]:
        """Where the wires are that go one way."""
        return {f"ulpi_{part}": self._pins(part) for part in ("clk", "stp", "rst", "dir", "nxt")}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        data = SimpleNamespace(i=Signal(8), o=Signal(8), oe=Signal())
        bus = SimpleNamespace(
            data=data,
            clk=SimpleNamespace(o=Signal()),  # LUNA's is a wire; the pin gets the same through a register of its own
            dir=SimpleNamespace(i=self.ulpi_dir),
            nxt=SimpleNamespace(i=self.ulpi_nxt),
            stp=SimpleNamespace(o=self.ulpi_stp),
            rst=SimpleNamespace(o=Signal()),
        )
        m.d.comb += self.ulpi_rst.eq(~bus.rst.o if self._pins("rst").invert else bus.rst.o)
        m.submodules.clock = Instance(
            "ODDRX1F", i_SCLK=ClockSignal("usb"), i_RST=0, i_D0=1, i_D1=0, o_Q=self.ulpi_clk
        )
        pad = IOPort(8, name="ulpi_data")
        for k in range(8):
            m.submodules[f"data_{k}"] = Instance("BB", i_T=~data.oe, i_I=data.o[k], o_O=data.i[k], io_B=pad[k])
        m.submodules.device = luna = LunaDevice(bus, packet=_PACKET)
        across(m, self, luna.device)
        return m
