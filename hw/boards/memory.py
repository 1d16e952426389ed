# SPDX-License-Identifier: Apache-2.0
"""All of a chip whose model lies in DDR3 beside it: the controller makes the clock, the host brings the memory up."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from nomul.hw.boundary import expose
from nomul.hw.build.design import identity
from nomul.hw.dram.control import Controlled
from nomul.hw.dram.controller import Controller, generate
from nomul.hw.dram.wrapper import BoardDram
from nomul.hw.link import Link
from nomul.hw.streamed import StreamedCore
from nomul.hw.streamed.joined import Joined
from nomul.hw.top import Top
from nomul.model.streamed_config import StreamedConfig

from .board import Board, Pins
from .constraints import lpf
from .lights import Lights
from .serial import SerialStream
from .surroundings import INPUTS, button, places, show

__all__ = ["MemoryTop", "memory_pins"]

#: Parts of the resource ``ddr3`` by the names of the controller's pins. Not all boards have all.
_PARTS = {
    "a": "a", "ba": "ba", "cas_n": "cas", "cke": "clk_en", "clk_p": "clk", "cs_n": "cs", "dm": "dm", "dq": "dq",
    "dqs_p": "dqs", "odt": "odt", "ras_n": "ras", "reset_n": "rst", "we_n": "we",
}  # fmt: skip


def memory_pins(board: Board) -> dict[str, Pins]:
    """Where the controller's pins are on a board, those that it has."""
    return {
        f"ddram_{name}": board.pins("ddr3", part)
        for name, part in _PARTS.items()
        if board.has("ddr3", part)
    }


class MemoryTop(wiring.Component):
    """A streamed core, its memory's controller and PHY, link and lights, all on the controller's clock.

    Parameters
    ----------
    board : Board
        With a memory and a USB bridge.
    config : StreamedConfig
        For that memory.

    Attributes
    ----------
    clock_hz : int
        The controller's.
    controller : Controller
    stream : SerialStream
    ports : dict
        Places of all ports.
    verilog : str
        What must be synthesised with it.

    Members
    -------
    clk, reset, rx_pin, tx_pin, heartbeat, ready, error
        As of :class:`~.top.BoardTop`; ``ready`` when the host has brought the memory up.

    The memory's pins are ports too, ``ddram_dq`` and ``ddram_dqs_p`` both ways.
    """

    def __init__(self, *, board: Board, config: StreamedConfig):
        assert board.memory is not None
        self.board = board
        self.clock_hz = board.memory.clock_hz
        self.controller: Controller = generate(board.memory, model=False)
        self.verilog = self.controller.verilog
        self.memory_pins = memory_pins(board)
        self.dram = BoardDram(
            controller=self.controller, pins={name: len(pins.sites) for name, pins in self.memory_pins.items()}
        )
        self.core = Controlled(core=Joined(core=StreamedCore(config=config), adaptor=self.dram))
        self.top = Top(core=self.core, link=Link(identity=identity(config, self.clock_hz, hosted=True)))
        self.stream = SerialStream(board=board, clock_hz=self.clock_hz)
        self.ports = {**places(board, self.stream), **self.memory_pins}
        outputs = {name: self.dram.signature.members[name] for name in self.memory_pins if name not in self.dram.pads}
        super().__init__({
            **{name: In(1) if name in INPUTS else Out(1)
               for name in self.ports if name not in self.memory_pins},
            **outputs,
        })  # fmt: skip

    def constraints(self) -> str:
        """Pins and the oscillator's clock, as LPF."""
        return lpf(self.ports, {"clk": self.board.input_hz})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.stream = self.stream
        m.submodules.lights = lights = Lights(clock_hz=self.clock_hz)
        m.submodules.top = top = self.top
        connect(m, self.stream.rx, top.rx)
        connect(m, top.tx, self.stream.tx)
        m.d.comb += [
            top.oscillator.eq(self.clk),
            top.button.eq(button(self, self.ports)),
            lights.memory_ready.eq(top.memory_ready),
            lights.failed.eq(top.failed),
        ]
        expose(m, self.stream, self, self.stream.pins())
        expose(m, top, self, [name for name in self.memory_pins if name not in self.dram.pads])
        show(m, lights, self, self.ports)
        return m
