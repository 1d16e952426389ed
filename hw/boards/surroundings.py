# SPDX-License-Identifier: Apache-2.0
"""What the tops of all boards have in common: oscillator, reset button, byte stream, supplies, lights."""

from __future__ import annotations

from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Member, Out

from nomul.hw.boundary import expose

from .board import Board, Pins, UartLink, UlpiLink
from .lights import LightMatrix, Lights
from .serial import SerialStream
from .supplies import Supplies
from .ulpi import UlpiStream
from .usb import UsbStream

__all__ = ["ByteStream", "button", "byte_stream", "members", "places", "show", "supply"]

ByteStream = SerialStream | UsbStream | UlpiStream
_LIGHTS = ("heartbeat", "ready", "error")
_SUPPLIES = {"supply_pulses": "pdm", "supply_on": "en"}


def byte_stream(board: Board, clock_hz: int) -> ByteStream:
    """The board's end of the link, for a domain ``sync`` of ``clock_hz``."""
    kinds: dict[type, type[ByteStream]] = {UartLink: SerialStream, UlpiLink: UlpiStream}
    return kinds.get(type(board.link), UsbStream)(board=board, clock_hz=clock_hz)


def places(board: Board, stream: ByteStream) -> dict[str, Pins]:
    """Ports that a top has on a board, with their places."""
    ports = {"clk": board.clock, "reset": board.reset, **stream.pins(), **stream.pads}
    if board.supplies is not None:
        ports |= {name: board.pins(board.supplies.resource, part) for name, part in _SUPPLIES.items()}
    if board.matrix is not None:
        ports["leds"] = board.pins(board.matrix.resource, "leds")
        ports |= {f"led_{colour}": board.pins(board.matrix.resource, colour) for colour in "rgb"}
    else:
        ports |= {name: board.led(getattr(board, name)) for name in _LIGHTS}
    return {name: pins for name, pins in ports.items() if pins is not None}


def members(ports: dict[str, Pins], stream: ByteStream) -> dict[str, Member]:
    """Members of a top for these ports, but for pads, which are ports without."""
    found = {}
    for name, pins in ports.items():
        if name in stream.signature.members:
            found[name] = stream.signature.members[name]
        elif name not in stream.pads:
            found[name] = In(1) if name in ("clk", "reset") else Out(max(len(pins.sites), 1))
    return found


def show(m: Module, lights: Lights, top: wiring.Component, board: Board, ports: dict[str, Pins]) -> None:
    """Joins the lights to the ports of the LEDs that there are, in whose module this stands."""
    if board.matrix is not None:
        m.submodules.matrix = matrix = LightMatrix(matrix=board.matrix, leds=len(ports["leds"].sites))
        m.d.comb += [getattr(matrix, name).eq(getattr(lights, name)) for name in _LIGHTS]
        expose(m, matrix, top, ["leds", "led_r", "led_g", "led_b"])
        return
    for name in _LIGHTS:
        if name in ports:
            level = getattr(lights, name)
            m.d.comb += getattr(top, name).eq(~level if ports[name].invert else level)


def supply(m: Module, top: wiring.Component, board: Board, clock_hz: int) -> Value | None:
    """Sets the supplies of a board, in whose module this stands; high while the link must wait for them, None if there
    are none to be set."""
    if board.supplies is None:
        return None
    m.submodules.supplies = supplies = Supplies(supplies=board.supplies, clock_hz=clock_hz)
    expose(m, supplies, top, _SUPPLIES)
    waits: Value = ~supplies.good
    return waits


def button(top: wiring.Component, ports: dict[str, Pins]) -> Value | int:
    """High while the reset button is pressed; 0 where there is none."""
    if "reset" not in ports:
        return 0
    level: Value = top.reset
    return ~level if ports["reset"].invert else level
