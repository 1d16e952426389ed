# SPDX-License-Identifier: Apache-2.0
"""A controller as a component with a memory port: over a model of its memory, or with the pins of a board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import ClockSignal, Instance, IOPort, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.ports import MemorySignature

from .controller import Controller
from .init import RegisterWriter, WishboneSignature, model_sequence
from .native import NativePort, NativeSignature

__all__ = ["BoardDram", "DramController"]


def _ports(controller: Controller, port: NativePort, control: wiring.PureInterface) -> dict[str, Any]:
    """Connections of an instance: the native port, and the bus to the registers."""
    native = NativeSignature(address_bits=controller.address_bits, word_bytes=controller.word_bytes)
    found: dict[str, Any] = {}
    for prefix, signature, side in (
        ("user_port", native, port.native), ("wb_ctrl", WishboneSignature(), control),
    ):  # fmt: skip
        for name, member in signature.members.items():
            direction = "i" if member.flow is Out else "o"
            found[f"{direction}_{prefix}_{name}"] = getattr(side, name)
    return found


class DramController(wiring.Component):
    """The simulated memory behind its controller; what runs on a board beside it is :class:`BoardDram`.

    The Verilog of the component has an instance of ``controller.module``, whose text is
    ``controller.verilog``: give a simulator both, and ``sim/dram/memory.h`` for the contents. Clock and reset
    are those of domain ``sync``, which runs at the board's system clock.

    Parameters
    ----------
    controller : Controller
        Made with ``model=True``.
    hosted : bool
        A host brings the memory up, as on a board; else it is initialised after reset.

    Attributes
    ----------
    word_bytes : int

    Members
    -------
    memory : ``In(MemorySignature(word_bytes=word_bytes))``
        Takes a command before ``ready`` too, and serves it afterwards. Addresses wrap at the memory's end.
    ready : ``Out(1)``
        The memory is initialised. Not with ``hosted``.
    control, enable : ``In(WishboneSignature())``, ``In(1)``
        With ``hosted``: the registers, and whether the memory may be used.
    """

    def __init__(self, *, controller: Controller, hosted: bool = False):
        if controller.module != "nomul_dram_model":
            raise ValueError(f"DramController: {controller.module} is no model; generate(model=True)")
        self.controller = controller
        self.hosted = hosted
        self.word_bytes = controller.word_bytes
        super().__init__({
            "memory": In(MemorySignature(word_bytes=controller.word_bytes)),
            **({"control": In(WishboneSignature()), "enable": In(1)} if hosted else {"ready": Out(1)}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        made = self.controller
        m.submodules.port = port = NativePort(
            word_bytes=made.word_bytes, address_bits=made.address_bits
        )
        connect(m, flipped(self.memory), port.memory)
        if self.hosted:
            control = self.control
            m.d.comb += port.enable.eq(self.enable)
        else:
            m.submodules.init = init = RegisterWriter(sequence=model_sequence(made.registers))
            control = init.bus
            m.d.comb += [port.enable.eq(init.done), self.ready.eq(init.done)]
        m.submodules.dram = Instance(
            made.module, i_clk=ClockSignal(), i_rst=ResetSignal(), **_ports(made, port, control)
        )
        return m


class BoardDram(wiring.Component):
    """A board's memory behind its controller, which also makes the clock of domain ``sync``.

    The Verilog of the component has an instance of ``controller.module``: synthesise ``controller.verilog`` with it.

    Parameters
    ----------
    controller : Controller
        Made with ``model=False``.
    pins : mapping of int
        Bits of the memory's pins by the controller's names, as ``ddram_a``.

    Attributes
    ----------
    pads : tuple of str
        Pins that go both ways; they are ports of the top, whatever is between.

    Members
    -------
    memory : ``In(MemorySignature(word_bytes=controller.word_bytes))``
    control, enable : ``In(WishboneSignature())``, ``In(1)``
        The registers, and whether the memory may be used.
    oscillator, button : ``In(1)``
        The board's clock; resets everything while it is high.

    The pins that go one way are members by their names.
    """

    def __init__(self, *, controller: Controller, pins: Mapping[str, int]):
        if controller.module == "nomul_dram_model":
            raise ValueError(f"BoardDram: {controller.module} is a model; generate(model=False)")
        self.controller = controller
        self.pins = dict(pins)
        self.pads = tuple(name for name in pins if name.endswith(("_dq", "_dqs_p")))
        super().__init__({
            "memory": In(MemorySignature(word_bytes=controller.word_bytes)),
            "control": In(WishboneSignature()),
            "enable": In(1),
            "oscillator": In(1),
            "button": In(1),
            **{name: Out(bits) for name, bits in self.pins.items() if name not in self.pads},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        made = self.controller
        m.submodules.port = port = NativePort(
            word_bytes=made.word_bytes, address_bits=made.address_bits
        )
        connect(m, flipped(self.memory), port.memory)
        m.d.comb += port.enable.eq(self.enable)
        connections = _ports(made, port, self.control)
        for name, bits in self.pins.items():
            if name in self.pads:
                connections[f"io_{name}"] = IOPort(bits, name=name)
            else:
                connections[f"o_{name}"] = getattr(self, name)
        m.submodules.dram = Instance(
            made.module, i_clk=self.oscillator, i_rst=self.button, o_user_clk=ClockSignal(), o_user_rst=ResetSignal(),
            **connections,
        )  # fmt: skip
        return m
