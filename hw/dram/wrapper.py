# SPDX-License-Identifier: Apache-2.0
"""A controller as a component with a memory port."""

from __future__ import annotations

from amaranth.hdl import ClockSignal, Instance, Module, ResetSignal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.ports import MemorySignature

from .controller import Controller
from .init import RegisterWriter, model_sequence
from .native import NativePort, NativeSignature

__all__ = ["DramController"]


class DramController(wiring.Component):
    """The simulated memory behind its controller; what runs on a board beside it is not made here.

    The Verilog of the component has an instance of ``controller.module``, whose text is
    ``controller.verilog``: give a simulator both, and ``sim/dram/memory.h`` for the contents. Clock and reset
    are those of domain ``sync``, which runs at the board's system clock.

    Parameters
    ----------
    controller : Controller
        Made with ``model=True``.

    Attributes
    ----------
    word_bytes : int

    Members
    -------
    memory : ``In(MemorySignature(word_bytes=word_bytes))``
        Takes a command before ``ready`` too, and serves it afterwards. Addresses wrap at the memory's end.
    ready : ``Out(1)``
        The memory is initialised.
    """

    def __init__(self, *, controller: Controller):
        if controller.module != "nomul_dram_model":
            raise ValueError(f"DramController: {controller.module} is no model; generate(model=True)")
        self.controller = controller
        self.word_bytes = controller.word_bytes
        super().__init__({
            "memory": In(MemorySignature(word_bytes=controller.word_bytes)),
            "ready": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        made = self.controller
        m.submodules.init = init = RegisterWriter(sequence=model_sequence(made.registers))
        m.submodules.port = port = NativePort(
            word_bytes=made.word_bytes, address_bits=made.address_bits
        )
        connect(m, flipped(self.memory), port.memory)
        m.d.comb += [port.enable.eq(init.done), self.ready.eq(init.done)]
        native = NativeSignature(address_bits=made.address_bits, word_bytes=made.word_bytes)
        pins: dict[str, Value] = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        for name, member in native.members.items():
            direction = "i" if member.flow is Out else "o"
            pins[f"{direction}_user_port_{name}"] = getattr(port.native, name)
        for name, member in init.bus.signature.members.items():
            direction = "i" if member.flow is Out else "o"
            pins[f"{direction}_wb_ctrl_{name}"] = getattr(init.bus, name)
        m.submodules.dram = Instance(made.module, **pins)
        return m
