# SPDX-License-Identifier: Apache-2.0
"""All of a chip whose model lies on it: clocks, link, lights, core."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect

from nomul.hw.boundary import expose
from nomul.hw.top import Top

from .board import Board
from .constraints import lpf
from .lights import Lights
from .pll import Clocks, plan
from .surroundings import button, byte_stream, members, places, show, supply

__all__ = ["BoardTop"]


class BoardTop(wiring.Component):
    """A core behind its link on a board, all of it on one clock.

    Parameters
    ----------
    board : Board
    top : Top
        Core and link, whose identity says ``clock_hz``.
    clock_hz : int

    Attributes
    ----------
    pll : PllPlan
    stream : ByteStream
    ports : dict
        Places of all ports.
    verilog : str
        Nothing: all of it is here.
    related : tuple
        No pairs of clocks, Hz, between which data go without more ado.

    Members
    -------
    clk : ``In(1)``
        From the oscillator.
    reset : ``In(1)``
        A button, where the board has one.
    rx_pin, tx_pin : ``In(1)``, ``Out(1)``
        The bridge. In their place the wires of a :class:`~.usb.UsbStream` or :class:`~.ulpi.UlpiStream`.
    heartbeat, ready, error : ``Out(1)``
        LEDs, where the board has them; or ``leds``, ``led_r``, ``led_g``, ``led_b`` of a matrix.
    supply_pulses, supply_on
        Where the board wants them (:class:`~.supplies.Supplies`).
    """

    def __init__(self, *, board: Board, top: Top, clock_hz: int):
        self.board = board
        self.verilog = ""
        self.related: tuple[tuple[int, int], ...] = ()
        self.top = top
        self.clock_hz = clock_hz
        self.stream = byte_stream(board, clock_hz)
        self.domains = {"sync": clock_hz, **self.stream.domains}
        self.pll = plan(board.input_hz, [*self.domains.values()])
        self.ports = places(board, self.stream)
        super().__init__(members(self.ports, self.stream))

    def constraints(self) -> str:
        """Pins and the oscillator's clock, as LPF."""
        return lpf(self.ports, {"clk": self.board.input_hz})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name in self.domains:
            m.domains += ClockDomain(name)
        hold = supply(m, self, self.board, self.clock_hz)
        m.submodules.clocks = clocks = Clocks(pll=self.pll, domains=[*self.domains], held=hold is not None)
        m.submodules.stream = self.stream
        m.submodules.lights = lights = Lights(clock_hz=self.clock_hz)
        m.submodules.top = self.top
        connect(m, self.stream.rx, self.top.rx)
        connect(m, self.top.tx, self.stream.tx)
        m.d.comb += [
            clocks.clk.eq(self.clk),
            clocks.reset.eq(button(self, self.ports)),
            lights.memory_ready.eq(1),
            lights.failed.eq(self.top.failed),
        ]
        if hold is not None:
            m.d.comb += clocks.hold.eq(hold)
        expose(m, self.stream, self, self.stream.pins())
        show(m, lights, self, self.board, self.ports)
        return m
