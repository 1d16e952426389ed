# SPDX-License-Identifier: Apache-2.0
"""Proofs: skid and slice hand on every beat once, in order; a fetch never overruns its queue."""

from __future__ import annotations

import pytest
from amaranth.hdl import Assert, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from nomul.hw.fetch import Fetch
from nomul.hw.memory import Skid, Slice
from nomul.sim.harness.proof import PROVEN, REFUTED, prove

WIDTH = 4


class Order(wiring.Component):
    """A stream primitive beside the two beats that it may hold, oldest first.

    ``forget``: the prover may drop one of those, so that the proof has something to find.
    """

    def __init__(self, kind: type[Skid] | type[Slice], *, forget: bool = False):
        self.kind = kind
        self.forget = forget
        super().__init__({
            "beat": In(WIDTH), "offer": In(1), "take": In(1), "drop": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.kind(shape=unsigned(WIDTH))
        held, waiting = Signal(WIDTH), Signal()
        i, o = dut.i, dut.o
        m.d.comb += [
            i.valid.eq(self.offer | waiting),
            i.payload.eq(Mux(waiting, held, self.beat)),
            o.ready.eq(self.take),
        ]
        m.d.sync += [waiting.eq(i.valid & ~i.ready), held.eq(i.payload)]

        # What was taken and not given, in the order of taking.
        first, second, count = Signal(WIDTH), Signal(WIDTH), Signal(2)
        taken, given = i.valid & i.ready, o.valid & o.ready
        passing = taken & given & (count == 0)
        lost = self.drop if self.forget else 0
        m.d.sync += count.eq(count + taken - given - (lost & (count != 0)))
        with m.If(given & (count != 0)):
            m.d.sync += first.eq(second)
        with m.If(taken & ~passing):
            with m.If(count - given == 0):
                m.d.sync += first.eq(i.payload)
            with m.Else():
                m.d.sync += second.eq(i.payload)
        m.d.comb += Assert(count <= 2)
        with m.If(o.valid):
            m.d.comb += Assert(o.payload == Mux(count == 0, i.payload, first))
        with m.Else():
            m.d.comb += Assert(count == 0)  # what is there is offered
        # What makes it inductive: the skid holds the youngest.
        skid = dut.skid if self.kind is Slice else dut
        behind = dut.o.valid if self.kind is Slice else 0
        if self.kind is Slice:
            with m.If(dut.o.valid):
                m.d.comb += Assert(dut.o.payload == first)
        m.d.comb += Assert(count == behind + ~skid.free)
        with m.If(~skid.free):
            m.d.comb += Assert(skid.held == Mux(count == 2, second, first))
        return m


@pytest.mark.parametrize("kind", [Skid, Slice])
def test_every_beat_once_and_in_order(kind: type[Skid] | type[Slice]):
    said = prove(Order(kind), name=kind.__name__.lower())
    assert PROVEN in said, said[-3000:]


def test_the_proof_sees_a_lost_beat():
    said = prove(Order(Slice, forget=True), name="forgetful")
    assert REFUTED in said, said[-3000:]


class Credit(wiring.Component):
    """A fetch whose instructions and receiver are the prover's; ``spare`` too many on credit."""

    def __init__(self, *, spare: int):
        self.spare = spare
        super().__init__({"data": In(64), "take": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = Fetch(words=5)
        dut.room = Signal(len(dut.room), init=dut.room.init + self.spare)
        m.d.comb += [dut.program.data.eq(self.data), dut.o.ready.eq(self.take)]
        on_its_way = sum(dut.coming[k] for k in range(len(dut.coming)))
        m.d.comb += [
            Assert(~dut.queue.w_en | dut.queue.w_rdy),
            Assert(dut.room + on_its_way + dut.queue.level + dut.freed == dut.queue.depth),
        ]
        return m


def test_fetch_never_overruns_its_queue():
    said = prove(Credit(spare=0), name="fetch")
    assert PROVEN in said, said[-3000:]


def test_the_proof_sees_a_credit_too_many():
    said = prove(Credit(spare=1), name="credit")
    assert REFUTED in said, said[-3000:]
