# SPDX-License-Identifier: Apache-2.0
"""Proof that a SLIP decoder gives what its encoder took, whatever the bytes and whoever waits."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from nomul.hw.link.slip import FrameByte, SlipDecoder, SlipEncoder
from nomul.model.protocol import SLIP_END, SLIP_ESC
from nomul.sim.harness.proof import PROVEN, REFUTED, prove


class RoundTrip(wiring.Component):
    """Encoder and decoder on one line; every input is the prover's to choose in every cycle.

    A byte that is offered stands until it is taken, as streams have it. Asserted: each data item is
    the byte taken last, and given before the next is taken; an end comes after each last byte and
    before the next byte, or after nothing (the END before a frame); no frame is bad. The rest are
    the invariants that make this inductive. With ``noise`` the prover may flip bits on the line.
    """

    def __init__(self, *, noise: bool):
        self.noise = noise
        super().__init__({
            "byte": In(FrameByte), "offer": In(1), "flow": In(1), "take": In(1), "flip": In(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.encoder = encoder = SlipEncoder()
        m.submodules.decoder = decoder = SlipDecoder()
        i, item = encoder.i, decoder.o.payload
        held, waiting = Signal(FrameByte), Signal()
        m.d.comb += [
            i.valid.eq(self.offer | waiting), i.payload.eq(self.byte),
            decoder.i.payload.eq(encoder.o.payload ^ (self.flip if self.noise else 0)),
            decoder.i.valid.eq(encoder.o.valid & self.flow),
            encoder.o.ready.eq(decoder.i.ready & self.flow), decoder.o.ready.eq(self.take),
        ]
        with m.If(waiting):
            m.d.comb += i.payload.eq(held)
        m.d.sync += [waiting.eq(i.valid & ~i.ready), held.eq(i.payload)]

        taken, given = i.valid & i.ready, decoder.o.valid & self.take
        expected, pending = Signal(FrameByte), Signal()
        opened = Signal()  # bytes were given since the last end
        closed = Signal()  # the byte given last was a frame's last
        with m.If(given):
            m.d.sync += [opened.eq(~item.end), closed.eq(~item.end & expected.last)]
            with m.If(~item.end):
                m.d.sync += pending.eq(0)
        with m.If(taken):
            m.d.sync += [expected.eq(i.payload), pending.eq(1)]

        m.d.comb += Assert(~(taken & pending & ~given))
        with m.If(decoder.o.valid & item.end):
            m.d.comb += [Assert(~item.bad), Assert(opened == closed)]
        with m.Elif(decoder.o.valid):
            m.d.comb += [Assert(pending), Assert(item.data == expected.data), Assert(~closed)]

        special = (held.data == SLIP_END) | (held.data == SLIP_ESC)
        end_waits = decoder.o.valid & item.end
        m.d.comb += [
            Assert(~decoder.bad), Assert(decoder.escaped == encoder.escaping),
            Assert(pending == (decoder.o.valid & ~item.end)),
            Assert(~encoder.escaping | (waiting & special)), Assert(opened | ~closed),
        ]
        with m.If(encoder.between):
            m.d.comb += [Assert(~pending), Assert(opened == end_waits), Assert(closed == end_waits)]
            with m.If(~decoder.o.valid):
                m.d.comb += Assert(~opened)
        with m.Elif(encoder.closing):
            m.d.comb += [Assert(expected.last), Assert(pending | closed), Assert(~end_waits)]
        with m.Else():
            m.d.comb += [Assert(~closed), Assert(~pending | ~expected.last)]
            m.d.comb += Assert(~end_waits | ~opened)
        return m


def test_the_decoder_undoes_the_encoder():
    said = prove(RoundTrip(noise=False), name="slip")
    assert PROVEN in said, said[-3000:]


def test_the_proof_can_fail():
    said = prove(RoundTrip(noise=True), name="noise")
    assert REFUTED in said, said[-3000:]
