# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""Core and link: all of a chip but its pins."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .link import Link

__all__ = ["Top"]


class Top(wiring.Component):
    """A core behind its link.

    Parameters
    ----------
    core : Component
        Has the ports of :class:`~nomul.hw.core_ports.CorePorts` and no others.
    link : Link

    Members
    -------
    rx : ``In(stream.Signature(8))``
        Bytes from the host.
    tx : ``Out(stream.Signature(8))``
        Bytes to the host.
    busy : ``Out(1)``
        Something happens inside. While it is low and ``rx`` idle, the clock might as well stand.
    """

    rx: In(stream.Signature(8))
    tx: Out(stream.Signature(8))
    busy: Out(1)

    def __init__(self, *, core: wiring.Component, link: Link):
        self.core = core
        self.link = link
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.link = self.link
        connect(m, self.link.core, self.core)
        connect(m, flipped(self.rx), self.link.rx)
        connect(m, self.link.tx, flipped(self.tx))
        m.d.comb += self.busy.eq(self.link.busy | self.core.busy)
        return m
