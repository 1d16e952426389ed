# SPDX-License-Identifier: Apache-2.0
"""Core and link: all of a chip but its pins."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .boundary import expose, join
from .core_ports import CorePorts
from .link import Link

__all__ = ["Top"]


class Top(wiring.Component):
    """A core behind its link.

    Parameters
    ----------
    core : Component
        Has the ports of :class:`~nomul.hw.core_ports.CorePorts`, and perhaps others: those of its memory.
    link : Link

    Members
    -------
    rx : ``In(stream.Signature(8))``
        Bytes from the host.
    tx : ``Out(stream.Signature(8))``
        Bytes to the host.
    busy : ``Out(1)``
        Something happens inside. While it is low and ``rx`` idle, the clock might as well stand.
    failed : ``Out(1)``
        The last job failed.

    The core's other ports are ports of the whole.
    """

    def __init__(self, *, core: wiring.Component, link: Link):
        self.core = core
        self.link = link
        self.inner = [*CorePorts().members]
        members = core.signature.members
        self.others = [name for name in members if name not in self.inner]
        super().__init__({
            "rx": In(stream.Signature(8)),
            "tx": Out(stream.Signature(8)),
            "busy": Out(1),
            "failed": Out(1),
            **{name: members[name] for name in self.others},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.link = self.link
        join(m, self.core, self.link.core, self.inner)
        expose(m, self.core, self, self.others)
        connect(m, flipped(self.rx), self.link.rx)
        connect(m, self.link.tx, flipped(self.tx))
        m.d.comb += [
            self.busy.eq(self.link.busy | self.core.busy),
            self.failed.eq(self.link.failed),
        ]
        return m
