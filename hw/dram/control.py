# SPDX-License-Identifier: Apache-2.0
"""A memory controller's registers on the link: the host brings the memory up, no processor on the chip does.

What stands in the region CONTROL is in :mod:`nomul.model.dram_control`.
"""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.boundary import expose
from nomul.hw.core_ports import BusSignature
from nomul.model.dram_control import READY, REGISTERS
from nomul.model.protocol import REGION_SHIFT, Region

from .init import WishboneSignature

__all__ = ["ControlBridge", "Controlled"]

_PATIENCE = 255  # cycles that a register may take


class ControlBridge(wiring.Component):
    """Registers of 32 bits on a Wishbone bus, from accesses of bytes; whatever else goes on to the core.

    An access that the host repeats, because its answer was lost, writes nothing twice: each carries a ticket, and only
    the next one counts. A register that does not answer within 255 cycles is an error of the access.

    Members
    -------
    bus : ``Out(BusSignature())``
        From the link.
    core : ``In(BusSignature())``
        To the core: all regions but CONTROL.
    control : ``Out(WishboneSignature())``
        To the controller.
    ready : ``Out(1)``
        The host says that the memory is up; 0 after a reset.
    """

    def __init__(self) -> None:
        super().__init__({
            "bus": Out(BusSignature()),
            "core": In(BusSignature()),
            "control": Out(WishboneSignature()),
            "ready": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus, core, control = self.bus, self.core, self.control
        mine = bus.address[REGION_SHIFT:] == Region.CONTROL
        place = bus.address[:REGION_SHIFT]
        ticket = Signal(8)
        operation = Signal(56)  # address:3, data:4 of a write
        register = Signal(32)  # as it was when its first byte was read
        waited = Signal(range(_PATIENCE + 1))
        reading, done, error, data = Signal(), Signal(), Signal(), Signal(8)
        position = place[:3]

        m.d.comb += [
            core.address.eq(bus.address),
            core.write_data.eq(bus.write_data),
            core.read.eq(bus.read & ~mine),
            core.write.eq(bus.write & ~mine),
            bus.done.eq(core.done | done),
            bus.error.eq(core.error | error),
            bus.read_data.eq(data | core.read_data),
            control.sel.eq(0xF),
            control.stb.eq(control.cyc),
            control.dat_w.eq(operation[24:]),
        ]
        # What is not answered now reads as 0, so that both answers can be merged.
        with m.If(~core.done):
            m.d.comb += bus.read_data.eq(data)
        m.d.sync += [done.eq(0), error.eq(0), data.eq(0)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += waited.eq(0)
                with m.If(bus.write & mine & ~place[-1]):
                    m.d.sync += done.eq(1)
                    with m.If(position != 7):
                        m.d.sync += operation.word_select(position, 8).eq(bus.write_data)
                    with m.Elif(bus.write_data == (ticket + 1)[:8]):
                        m.d.sync += ticket.eq(bus.write_data)
                        with m.If(operation[:24] == READY):
                            m.d.sync += self.ready.eq(operation[24])
                        with m.Else():
                            m.d.sync += [
                                done.eq(0), control.cyc.eq(1), control.we.eq(1), reading.eq(0),
                                control.adr.eq(operation[2:24]),
                            ]  # fmt: skip
                            m.next = "REGISTER"
                with m.Elif(bus.read & mine & place[-1] & (place[:2] == 0)):
                    m.d.sync += [
                        control.cyc.eq(1), control.we.eq(0), reading.eq(1),
                        control.adr.eq((place & ~REGISTERS)[2:]),
                    ]  # fmt: skip
                    m.next = "REGISTER"
                with m.Elif(bus.read & mine & place[-1]):
                    m.d.sync += [done.eq(1), data.eq(register.word_select(place[:2], 8))]
                with m.Elif(bus.read & mine):
                    m.d.sync += done.eq(1)
                    with m.Switch(place):
                        with m.Case(0):
                            m.d.sync += data.eq(ticket)
                        with m.Case(1):
                            m.d.sync += data.eq(self.ready)
                with m.Elif(bus.write & mine):  # a register, which has no other way in than an operation
                    m.d.sync += [done.eq(1), error.eq(1)]
            with m.State("REGISTER"):
                m.d.sync += waited.eq(waited + 1)
                with m.If(control.ack | control.err | (waited == _PATIENCE)):
                    m.d.sync += [
                        control.cyc.eq(0), done.eq(1), error.eq(~control.ack | control.err),
                        register.eq(control.dat_r),
                    ]  # fmt: skip
                    with m.If(reading):
                        m.d.sync += data.eq(control.dat_r[:8])
                    m.next = "IDLE"
        return m


class Controlled(wiring.Component):
    """A core with the registers of its memory's controller on its bus.

    Parameters
    ----------
    core : Component
        With the ports of :class:`~nomul.hw.core_ports.CorePorts`; ``control``, the registers of its memory's
        controller; and ``enable``, which is high from when the host says that the memory is up.

    Members
    -------
    memory_ready : ``Out(1)``

    The core's others are members of the whole.
    """

    def __init__(self, *, core: wiring.Component):
        self.core = core
        members = core.signature.members
        self.others = [name for name in members if name not in ("bus", "control", "enable")]
        super().__init__({
            "bus": Out(BusSignature()),
            "memory_ready": Out(1),
            **{name: members[name] for name in self.others},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.bridge = bridge = ControlBridge()
        wiring.connect(m, bridge.core, self.core.bus)
        wiring.connect(m, wiring.flipped(self.bus), bridge.bus)
        wiring.connect(m, bridge.control, self.core.control)
        m.d.comb += [self.memory_ready.eq(bridge.ready), self.core.enable.eq(bridge.ready)]
        expose(m, self.core, self, self.others)
        return m
