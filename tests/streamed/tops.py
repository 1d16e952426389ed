# SPDX-License-Identifier: Apache-2.0
"""Units as the top of a design, with ports that Amaranth and Verilator take there."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.boundary import expose
from nomul.hw.streamed import StreamedCore
from nomul.hw.streamed.ports import StartLayout
from nomul.hw.streamed.sequencer import StreamedSequencer
from nomul.model.streamed_config import StreamedConfig

__all__ = ["CoreTop", "SequencerTop"]


class _Top(wiring.Component):
    """Has the ports of what is inside; those in ``instead`` are of other names or kinds."""

    def __init__(self, inside: wiring.Component, instead: dict[str, dict[str, wiring.Member]]):
        self.inside, self.instead = inside, instead
        ports = {n: m for n, m in inside.signature.members.items() if n not in instead}
        for members in instead.values():
            ports.update(members)
        super().__init__(ports)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inside = self.inside
        names = self.inside.signature.members
        expose(m, self.inside, self, [name for name in names if name not in self.instead])
        return m


class SequencerTop(_Top):
    """A streamed sequencer whose ``stream_o`` has a ``ready``, which must be 1."""

    def __init__(self, *, lanes: int):
        instead = {"stream_o": {"stream_o": Out(stream.Signature(StartLayout))}}
        super().__init__(StreamedSequencer(lanes=lanes), instead)

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        inner = self.inside.stream_o
        m.d.comb += [self.stream_o.valid.eq(inner.valid), self.stream_o.payload.eq(inner.payload)]
        return m


class CoreTop(_Top):
    """A streamed core whose ``abort`` is called ``give_up``: Verilator keeps the words of C++ to itself."""

    def __init__(self, *, config: StreamedConfig, patience: int):
        super().__init__(StreamedCore(config=config, patience=patience), {"abort": {"give_up": In(1)}})

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += self.inside.abort.eq(self.give_up)
        return m
