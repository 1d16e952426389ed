# SPDX-License-Identifier: Apache-2.0
"""All of a chip whose model lies in memory beside it: the controller makes the clock, the host brings the memory up."""

from __future__ import annotations

from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect

from nomul.hw.boundary import expose
from nomul.hw.build.design import design_hash, identity
from nomul.hw.build.sources import hash_sources
from nomul.hw.dram.control import Controlled
from nomul.hw.dram.controller import Controller, generate, packages
from nomul.hw.dram.wrapper import BoardDram
from nomul.hw.link import Link
from nomul.hw.streamed import StreamedCore
from nomul.hw.streamed.joined import Joined
from nomul.hw.top import Top
from nomul.model.streamed_config import StreamedConfig

from .board import Board
from .constraints import lpf
from .lights import Lights
from .memory_pins import memory_pins, tied_pins
from .pll import Clocks, plan
from .surroundings import button, byte_stream, members, places, show, supply

__all__ = ["MemoryTop", "memory_design"]


def memory_design(board: Board, config: StreamedConfig) -> bytes:
    """8 bytes that change whenever the hardware of a core with a board's memory may.

    The memory's controller is part of it, and the board: what a host needs to bring the memory up goes with both.
    """
    salt = [design_hash(config).hex(), board.name, repr(board.memory), repr(board.link), repr(packages())]
    return hash_sources(MemoryTop.__module__, "nomul.hw.dram.litex", salt="\0".join(salt))[:8]


class MemoryTop(wiring.Component):
    """A streamed core, its memory's controller and PHY, link and lights, all on the controller's clock.

    Clocks of the link's own are another PLL's.

    Parameters
    ----------
    board : Board
        With a memory.
    config : StreamedConfig
        For that memory.

    Attributes
    ----------
    clock_hz : int
        The controller's.
    controller : Controller
    pll : PllPlan or None
        Of the link's own clocks.
    stream : ByteStream
    ports : dict
        Places of all ports.
    verilog : str
        What must be synthesised with it.
    related : tuple of (int, int)
        Pairs of clocks, Hz, between which data go without more ado: the controller's and the PHY's of SDR. Those of
        DDR3 meet in the pads' own registers.

    Members
    -------
    clk, reset, rx_pin, tx_pin, heartbeat, ready, error
        As of :class:`~.top.BoardTop`; ``ready`` when the host has brought the memory up.

    The memory's pins are ports too, ``ddram_dq`` and ``ddram_dqs_p`` (of SDR ``sdram_dq``) both ways; and those that
    stand still.
    """

    def __init__(self, *, board: Board, config: StreamedConfig):
        assert board.memory is not None
        self.board = board
        self.clock_hz = board.memory.clock_hz
        self.controller: Controller = generate(board.memory, model=False)
        self.verilog = self.controller.verilog
        sdr = board.memory.part.kind == "SDR"
        self.related = ((self.clock_hz, board.memory.ratio * self.clock_hz),) if sdr else ()
        self.memory_pins = memory_pins(board)
        self.dram = BoardDram(
            controller=self.controller, pins={name: len(pins.sites) for name, pins in self.memory_pins.items()}
        )
        self.core = Controlled(core=Joined(core=StreamedCore(config=config), adaptor=self.dram))
        said = identity(config, self.clock_hz, hosted=True, design=memory_design(board, config))
        self.top = Top(core=self.core, link=Link(identity=said))
        self.stream = byte_stream(board, self.clock_hz)
        self.domains = self.stream.domains
        self.pll = plan(board.input_hz, [*self.domains.values()]) if self.domains else None
        self.tied = tied_pins(board)
        around = places(board, self.stream)
        self.ports = {**around, **self.memory_pins, **{name: pins for name, (pins, _) in self.tied.items()}}
        super().__init__({
            **members(around, self.stream),
            **{name: Out(len(pins.sites)) for name, (pins, _) in self.tied.items()},
            **{name: self.dram.signature.members[name] for name in self.memory_pins if name not in self.dram.pads},
        })

    def constraints(self) -> str:
        """Pins and the oscillator's clock, as LPF."""
        return lpf(self.ports, {"clk": self.board.input_hz})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        if self.pll is not None:
            for name in self.domains:
                m.domains += ClockDomain(name)
            m.submodules.clocks = clocks = Clocks(pll=self.pll, domains=[*self.domains])
            hold = supply(m, self, self.board, self.clock_hz)
            reset = button(self, self.ports)
            m.d.comb += [clocks.clk.eq(self.clk), clocks.reset.eq(reset if hold is None else reset | hold)]
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
        for name, (pins, level) in self.tied.items():
            m.d.comb += getattr(self, name).eq(level * ((1 << len(pins.sites)) - 1))
        expose(m, self.stream, self, self.stream.pins())
        expose(m, top, self, [name for name in self.memory_pins if name not in self.dram.pads])
        show(m, lights, self, self.board, self.ports)
        return m
