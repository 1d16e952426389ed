# SPDX-License-Identifier: Apache-2.0
"""Proof that a reader's queue never overflows, whoever starts it and whenever words come."""

from __future__ import annotations

from amaranth.hdl import Assert, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from nomul.hw.streamed.reader import Reader
from nomul.sim.harness.proof import PROVEN, REFUTED, prove

DEPTH, BURST = 8, 4


class Credit(wiring.Component):
    """A reader before a memory that gives only words that were asked for; ``spare`` bursts too many on credit."""

    def __init__(self, *, spare: int = 0):
        self.spare = BURST * spare
        super().__init__({
            "start": In(1), "address": In(32), "words": In(33), "take": In(1),
            "accept": In(1), "give": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = Reader(word_bytes=1, depth=DEPTH, burst=BURST)
        dut.room = Signal(range(2 * DEPTH), init=DEPTH + self.spare)
        command = dut.memory.command
        m.d.comb += [
            dut.start.eq(self.start), dut.address.eq(self.address),
            dut.words.eq(Mux(self.words[32], 1 << 32, self.words)),
            dut.o.ready.eq(self.take), command.ready.eq(self.accept),
        ]
        owed, asked = Signal(8), command.payload.last + 1
        m.d.comb += dut.memory.read_valid.eq(self.give & (owed != 0))
        m.d.sync += owed.eq(
            owed + Mux(command.valid & command.ready, asked, 0) - dut.memory.read_valid)

        # An offer stands, and stays within a block.
        stalled, before = Signal(), Signal.like(command.payload)
        m.d.sync += [stalled.eq(command.valid & ~command.ready), before.eq(command.payload)]
        with m.If(stalled):
            m.d.comb += [Assert(command.valid), Assert(command.payload == before)]
        for valid, burst in ((command.valid, command.payload), (dut.known, dut.next)):
            with m.If(valid):
                m.d.comb += Assert(burst.address % BURST + burst.last < BURST)
        with m.If(dut.running & dut.final):
            m.d.comb += Assert(dut.first <= dut.last)
        with m.If(dut.begun & (dut.blocks == 0)):
            m.d.comb += Assert(dut.first <= dut.last)

        queued, coming = Signal(len(dut.put)), Signal(len(owed) + 1)
        m.d.comb += [
            queued.eq(dut.put - dut.get),
            # Every word on its way has its place.
            Assert(coming - dut.drop + queued + dut.arrived <= DEPTH),
            # What makes it inductive: each place is free, promised or taken.
            coming.eq(owed + Mux(command.valid, asked, 0)),
            Assert(dut.coming + dut.asked == coming), Assert(coming < 2 * DEPTH),
            Assert(dut.drop <= coming), Assert((dut.drop < DEPTH) | (dut.drop == coming)),
            Assert(dut.asked <= dut.room),
            Assert(~dut.may | (dut.room >= BURST) & (dut.asked == 0) & (dut.drop < DEPTH)),
            Assert(coming - dut.drop + queued + dut.arrived + dut.freed + dut.room - dut.asked
                   == DEPTH + self.spare),
        ]
        return m


def test_the_queue_never_overflows():
    said = prove(Credit(), name="reader", steps=8)
    assert PROVEN in said, said[-3000:]


def test_the_proof_sees_a_credit_too_many():
    said = prove(Credit(spare=1), name="readerfault", steps=24)
    assert REFUTED in said, said[-3000:]
