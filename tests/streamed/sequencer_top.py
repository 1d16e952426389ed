# SPDX-License-Identifier: Apache-2.0
"""A streamed sequencer as the top of a design: a stream without ``ready`` cannot be a port there."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import Out, connect, flipped

from nomul.hw.streamed.ports import StartLayout
from nomul.hw.streamed.sequencer import StreamedSequencer

__all__ = ["SequencerTop"]


class SequencerTop(wiring.Component):
    """Has the sequencer's ports; ``stream_o.ready`` must be 1."""

    def __init__(self, *, lanes: int):
        self.sequencer = StreamedSequencer(lanes=lanes)
        super().__init__({
            **self.sequencer.signature.members, "stream_o": Out(stream.Signature(StartLayout)),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer = inside = self.sequencer
        for name, member in inside.signature.members.items():
            inner, outer = getattr(inside, name), getattr(self, name)
            if name == "stream_o":
                m.d.comb += [outer.valid.eq(inner.valid), outer.payload.eq(inner.payload)]
            elif member.is_signature:
                connect(m, inner, flipped(outer))
            elif member.flow is Out:
                m.d.comb += outer.eq(inner)
            else:
                m.d.comb += inner.eq(outer)
        return m
