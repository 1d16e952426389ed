# SPDX-License-Identifier: Apache-2.0
"""Proof that the AXI master keeps the rules of the handshake, whatever both sides do."""

from __future__ import annotations

import pytest
from amaranth.hdl import Assert, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from nomul.hw.axi import PAGE_BYTES, AxiMaster
from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout
from nomul.sim.harness.proof import PROVEN, REFUTED, prove

OUTSTANDING = 2


def within(burst) -> Value:
    """The burst is as the memory port's contract has it."""
    return burst.address % BURST_WORDS + burst.last < BURST_WORDS


class Rules(wiring.Component):
    """A master between a client that keeps to the memory port's contract, and any AXI slave.

    The slave answers only what was asked, in any number of words. ``spare``: bursts that the master
    believes it may have on their way, beyond what it may; ``cross``: the client's bursts may cross
    multiples of the longest; ``hasty``: a write is to count as acknowledged while its answer is told.
    """

    def __init__(self, *, word_bytes: int, spare: int = 0, cross: bool = False, hasty: bool = False):
        self.word_bytes = word_bytes
        self.spare = spare
        self.cross = cross
        self.hasty = hasty
        super().__init__({
            "command": In(MemoryCommandLayout), "offer": In(1), "give": In(1),
            "arready": In(1), "awready": In(1), "wready": In(1),
            "rvalid": In(1), "rlast": In(1), "bvalid": In(1), "bresp": In(2),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = AxiMaster(
            word_bytes=self.word_bytes, address_bits=40, outstanding=OUTSTANDING)
        dut.outstanding += self.spare
        axi = dut.axi

        # The client: an offer stands until it is taken.
        i = dut.memory.command
        held, waiting = Signal(MemoryCommandLayout), Signal()
        offset = self.command.address[: (BURST_WORDS - 1).bit_length()]
        room = BURST_WORDS - 1 - offset
        m.d.comb += [i.valid.eq(self.offer | waiting), i.payload.eq(self.command)]
        if not self.cross:
            m.d.comb += i.payload.last.eq(
                Mux(self.command.last > room, room, self.command.last))
        with m.If(waiting):
            m.d.comb += i.payload.eq(held)
        m.d.sync += [waiting.eq(i.valid & ~i.ready), held.eq(i.payload)]
        m.d.comb += [
            dut.memory.write.valid.eq(self.give),
            axi.arready.eq(self.arready), axi.awready.eq(self.awready), axi.wready.eq(self.wready),
        ]

        # An offer stands unchanged until it is taken.
        new = {}
        for channel, fields in (("ar", ("id", "addr", "len", "size", "burst", "cache", "prot")),
                                ("aw", ("id", "addr", "len", "size", "burst", "cache", "prot")),
                                ("w", ("data", "strb", "last"))):
            valid, ready = getattr(axi, f"{channel}valid"), getattr(axi, f"{channel}ready")
            payload = Cat(getattr(axi, channel + field) for field in fields)
            stalled, before = Signal(), Signal.like(payload)
            m.d.sync += [stalled.eq(valid & ~ready), before.eq(payload)]
            new[channel] = valid & ~stalled
            with m.If(stalled):
                m.d.comb += [Assert(valid), Assert(payload == before)]

        # No burst crosses a page.
        for channel in ("ar", "aw"):
            address, length = getattr(axi, f"{channel}addr"), getattr(axi, f"{channel}len")
            with m.If(getattr(axi, f"{channel}valid")):
                m.d.comb += Assert(
                    address[:12] + (length + 1) * self.word_bytes <= PAGE_BYTES)

        # Bursts on their way: never too many, and no read begins while a write is.
        reads, writes = Signal(4), Signal(4)
        m.d.comb += [
            axi.rvalid.eq(self.rvalid & (reads != 0)), axi.rlast.eq(self.rlast),
            axi.bvalid.eq(self.bvalid & (writes != 0)), axi.bresp.eq(self.bresp),
        ]
        m.d.sync += [
            reads.eq(reads + (axi.arvalid & axi.arready) - (axi.rvalid & axi.rlast)),
            writes.eq(writes + (axi.awvalid & axi.awready) - axi.bvalid),
        ]
        m.d.comb += [Assert(reads <= OUTSTANDING), Assert(writes <= OUTSTANDING)]
        with m.If(new["ar"]):
            m.d.comb += [Assert(writes == 0), Assert(~axi.awvalid)]

        # The words of a burst follow its address, as many as it said, the last one marked.
        lengths, bursts, beats = [Signal(8, name=f"length{k}") for k in range(2)], Signal(2), Signal(8)
        fired = axi.wvalid & axi.wready
        ended = fired & axi.wlast
        m.d.sync += [bursts.eq(bursts + new["aw"] - ended), beats.eq(Mux(ended, 0, beats + fired))]
        with m.If(ended):
            m.d.sync += lengths[0].eq(lengths[1])
        with m.If(new["aw"]):
            m.d.sync += lengths[1].eq(axi.awlen)
            with m.If(bursts - ended == 0):
                m.d.sync += lengths[0].eq(axi.awlen)
        with m.If(axi.wvalid):
            m.d.comb += [Assert(bursts != 0), Assert(axi.wlast == (beats == lengths[0]))]

        with m.If(waiting):
            m.d.comb += Assert(self.cross | within(held))
        self.invariants(m, dut, reads, writes)

        # Unacknowledged: commands of writes whose words were not all announced, and bursts until their answer is told.
        fires = i.valid & i.ready & i.payload.write
        owed, answered = Signal(12), Signal()  # words; an answer came a cycle ago
        m.d.sync += [
            owed.eq(owed + Mux(fires, i.payload.last + 1, 0) - Mux(new["aw"], axi.awlen + 1, 0)),
            answered.eq(axi.bvalid),
        ]
        unacknowledged = dut.memory.unacknowledged
        telling = Const(0) if self.hasty else answered
        m.d.comb += [
            Assert(unacknowledged == ((owed != 0) | (writes != 0) | axi.awvalid | telling)),
            Assert(unacknowledged | ~dut.memory.write_error),
            Assert(answered == dut.write_ends),
        ]
        offered, behind = dut.commands.o.payload, MemoryCommandLayout(dut.commands.skid.held)
        rest = offered.last
        if dut.pages is not None:  # of a burst whose first part has gone
            end = (offered.address % dut.page_words + offered.last) % dut.page_words
            rest = Mux(dut.pages.second, end, offered.last)
        m.d.comb += Assert(
            owed == Mux(dut.commands.o.valid & offered.write, rest + 1, 0)
            + Mux(~dut.commands.skid.free & behind.write, behind.last + 1, 0)
            + Mux(new["aw"], axi.awlen + 1, 0))
        waits = axi.wvalid & axi.wlast  # the last word of a burst; it may be of the one before
        length = Mux(new["aw"], axi.awlen, Mux(bursts == 2, lengths[1], lengths[0]))
        m.d.comb += Assert(bursts + new["aw"] == dut.writing + waits)
        with m.If(waits):
            m.d.comb += Assert(~dut.writing | (dut.left == length))
        with m.Elif(axi.wvalid):
            m.d.comb += [Assert(dut.writing), Assert(beats + 1 + dut.left == length)]
        with m.Else():
            m.d.comb += Assert(Mux(dut.writing, beats + dut.left == length, beats == 0))
        return m

    def invariants(self, m: Module, dut: AxiMaster, reads: Value, writes: Value) -> None:
        """What makes it inductive: the master's counters, and that it holds proper bursts."""
        axi, commands = dut.axi, dut.commands
        m.d.comb += [
            Assert(dut.reads == reads + axi.arvalid + dut.read_ends),
            Assert(dut.writes == writes + axi.awvalid + dut.write_ends),
            Assert(dut.reads <= OUTSTANDING), Assert(dut.writes <= OUTSTANDING),
        ]
        if self.cross:
            return
        offered = commands.o.payload
        behind = MemoryCommandLayout(commands.skid.held)
        for valid, burst in ((commands.o.valid, offered), (~commands.skid.free, behind)):
            with m.If(valid):
                m.d.comb += Assert(within(burst))
        if dut.pages is not None:
            with m.If(dut.pages.second):
                m.d.comb += [
                    Assert(commands.o.valid),
                    Assert(offered.address % dut.page_words + offered.last >= dut.page_words),
                ]


@pytest.mark.parametrize("word_bytes", [8, 64, 128])
def test_keeps_the_rules(word_bytes):
    said = prove(Rules(word_bytes=word_bytes), name=f"axi{word_bytes}")
    assert PROVEN in said, said[-3000:]


@pytest.mark.parametrize("fault", [{"spare": 1}, {"cross": True}, {"hasty": True}])
def test_the_proof_sees_a_fault(fault):
    said = prove(Rules(word_bytes=64, **fault), name="axifault", steps=12)
    assert REFUTED in said, said[-3000:]
