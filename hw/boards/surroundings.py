# SPDX-License-Identifier: Apache-2.0
"""What the tops of all boards have in common: oscillator, reset button, byte stream, lights."""

from __future__ import annotations

from amaranth.hdl import Module, Value
from amaranth.lib import wiring

from .board import Board, Pins, UartLink
from .lights import Lights
from .serial import SerialStream
from .usb import UsbStream

__all__ = ["INPUTS", "button", "byte_stream", "places", "show"]

INPUTS = ("clk", "reset", "rx_pin")  #: ports that go into the chip
_LIGHTS = ("heartbeat", "ready", "error")


def byte_stream(board: Board, clock_hz: int) -> SerialStream | UsbStream:
    """The board's end of the link, for a domain ``sync`` of ``clock_hz``."""
    kind = SerialStream if isinstance(board.link, UartLink) else UsbStream
    return kind(board=board, clock_hz=clock_hz)


def places(board: Board, stream: SerialStream | UsbStream) -> dict[str, Pins]:
    """Ports that a top has on a board, with their places."""
    ports = {"clk": board.clock, "reset": board.reset, **stream.pins(), **stream.pads}
    for name in _LIGHTS:
        ports[name] = board.led(getattr(board, name))
    return {name: pins for name, pins in ports.items() if pins is not None}


def show(m: Module, lights: Lights, top: wiring.Component, ports: dict[str, Pins]) -> None:
    """Joins the lights to the ports of the LEDs that there are, in whose module this stands."""
    for name in _LIGHTS:
        if name in ports:
            level = getattr(lights, name)
            m.d.comb += getattr(top, name).eq(~level if ports[name].invert else level)


def button(top: wiring.Component, ports: dict[str, Pins]) -> Value | int:
    """High while the reset button is pressed; 0 where there is none."""
    if "reset" not in ports:
        return 0
    level: Value = top.reset
    return ~level if ports["reset"].invert else level
