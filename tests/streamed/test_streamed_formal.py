# SPDX-License-Identifier: Apache-2.0
"""Proofs: a gearbox keeps the order of bytes, an arbiter who asked and who writes, a writer the limits of bursts."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Array, Assert, Cat, Module, Mux, ResetInserter, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.ports import BURST_WORDS, MemorySignature
from nomul.hw.streamed import arbiter
from nomul.hw.streamed.gearbox import Gearbox
from nomul.hw.streamed.writer import PieceLayout, Writer
from nomul.sim.harness.proof import PROVEN, REFUTED, prove


class Numbered(wiring.Component):
    """A gearbox whose input is numbered, byte by byte.

    ``skip``: the prover may leave numbers out, so that the proof has something to find.
    """

    def __init__(self, *, i_bytes: int, o_bytes: int, skip: bool = False):
        self.dut = Gearbox(i_bytes=i_bytes, o_bytes=o_bytes)
        self.may_skip = skip
        super().__init__({"offer": In(1), "take": In(1), "skip": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        i, o = dut.i, dut.o
        taken, given = Signal(8), Signal(8)  # bytes
        m.d.comb += [
            i.valid.eq(self.offer), o.ready.eq(self.take),
            i.payload.eq(Cat((taken + k)[:8] for k in range(dut.i_bytes))),
        ]  # fmt: skip
        with m.If(i.valid & i.ready):
            m.d.sync += taken.eq(taken + dut.i_bytes + (self.skip if self.may_skip else 0))
        with m.If(o.valid & o.ready):
            m.d.sync += given.eq(given + dut.o_bytes)

        def numbered(bits: Any, first: Any) -> Any:
            return Cat(bits.word_select(k, 8) == (first + k)[:8] for k in range(len(bits) // 8)).all()

        with m.If(o.valid):
            m.d.comb += Assert(numbered(o.payload, given))
        # What makes it inductive: what is held.
        if dut.i_bytes > dut.o_bytes:
            m.d.comb += Assert((taken - given)[:8] == dut.left * dut.o_bytes)
            m.d.comb += Assert(dut.left <= dut.i_bytes // dut.o_bytes)
            for k in range(dut.i_bytes // dut.o_bytes):
                piece = dut.word.word_select(k, 8 * dut.o_bytes)
                with m.If(dut.left > k):
                    m.d.comb += Assert(numbered(piece, given + k * dut.o_bytes))
        else:
            pieces = dut.o_bytes // dut.i_bytes
            m.d.comb += Assert((taken - given)[:8] == dut.place * dut.i_bytes + Mux(o.valid, dut.o_bytes, 0))
            for k in range(1, pieces):  # the k-th latest
                piece = dut.held.word_select(pieces - 1 - k, 8 * dut.i_bytes)
                with m.If(dut.place >= k):
                    m.d.comb += Assert(numbered(piece, taken - k * dut.i_bytes))
        return m


@pytest.mark.parametrize(("i_bytes", "o_bytes"), [(4, 1), (8, 4), (1, 4), (4, 8)])
def test_a_gearbox_keeps_the_order_of_bytes(i_bytes: int, o_bytes: int):
    said = prove(Numbered(i_bytes=i_bytes, o_bytes=o_bytes), name=f"gearbox{i_bytes}to{o_bytes}")
    assert PROVEN in said, said[-3000:]


@pytest.mark.parametrize(("i_bytes", "o_bytes"), [(4, 1), (1, 4)])
def test_the_proof_sees_a_missing_byte(i_bytes: int, o_bytes: int):
    said = prove(Numbered(i_bytes=i_bytes, o_bytes=o_bytes, skip=True), name=f"skip{i_bytes}to{o_bytes}", steps=12)
    assert REFUTED in said, said[-3000:]


class Queue(wiring.Component):
    """What the library's FIFO is to who uses it, in registers that a proof can see; the oldest first."""

    def __init__(self, *, width: int, depth: int):
        self.entries = [Signal(width, name=f"entry_{k}") for k in range(depth)]
        self.level = Signal(range(depth + 1))
        super().__init__({
            "w_data": In(width), "w_en": In(1), "w_rdy": Out(1),
            "r_data": Out(width), "r_en": In(1), "r_rdy": Out(1),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        depth = len(self.entries)
        m.d.comb += [
            self.w_rdy.eq(self.level != depth), self.r_rdy.eq(self.level != 0), self.r_data.eq(self.entries[0]),
        ]
        put, get = self.w_en & self.w_rdy, self.r_en & self.r_rdy
        m.d.sync += self.level.eq(self.level + put - get)
        for k, entry in enumerate(self.entries):
            behind = self.entries[k + 1] if k + 1 < depth else entry
            with m.If(put & (self.level - get == k)):
                m.d.sync += entry.eq(self.w_data)
            with m.Elif(get):
                m.d.sync += entry.eq(behind)
        return m


CLIENTS = ("a", "b", "c")
READS = 3


class Watched(wiring.Component):
    """An arbiter whose clients and memory are the prover's, beside what was asked and not answered.

    Memory acknowledges writes when the prover likes, at most 3 of them are on their way, and it may claim to owe more.
    ``forget`` names what the prover may make this forget: a burst of reads, a word of a write, or memory what it
    has not acknowledged.
    """

    def __init__(self, *, forget: str = ""):
        self.dut = arbiter.Arbiter(clients=CLIENTS, word_bytes=1, patience=16)
        self.may_forget = forget
        super().__init__({
            **{name: In(MemorySignature(word_bytes=1)) for name in CLIENTS},
            "memory": Out(MemorySignature(word_bytes=1)),
            "acknowledge": In(1), "forget": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        memory = self.memory
        ports = [getattr(self, name) for name in CLIENTS]
        for name, port in zip(CLIENTS, ports, strict=True):
            connect(m, flipped(port), getattr(dut, name))
        connect(m, dut.memory.write, flipped(memory.write))
        below = Signal(2)  # writes that memory has not acknowledged
        acknowledged = self.acknowledge & (below != 0)
        m.d.comb += [
            memory.command.valid.eq(dut.memory.command.valid),
            memory.command.payload.eq(dut.memory.command.payload),
            dut.memory.command.ready.eq(memory.command.ready & ~(memory.command.payload.write & (below == 3))),
            dut.memory.read_valid.eq(memory.read_valid),
            dut.memory.read_data.eq(memory.read_data),
            dut.memory.read_error.eq(memory.read_error),
            dut.memory.write_error.eq(memory.write_error & acknowledged),
            dut.memory.unacknowledged.eq((below != 0) | memory.unacknowledged),
        ]
        if self.may_forget == "acknowledgement":
            with m.If(self.forget):
                m.d.comb += dut.memory.unacknowledged.eq(0)
        ready = dut.memory.command.ready
        to_memory = memory.command.valid & memory.command.payload.write
        m.d.sync += below.eq(below + (to_memory & ready) - acknowledged)
        fires = [p.command.valid & p.command.ready for p in ports]
        m.d.comb += Assert(sum(fires) <= 1)
        command = Signal(memory.command.payload.shape())
        number = Signal(range(len(CLIENTS)))
        for k, port in enumerate(ports):
            with m.If(fires[k]):
                m.d.comb += [command.eq(port.command.payload), number.eq(k)]
        asks = Cat(fires).any()

        # Bursts of reads, oldest first: client and words left.
        asked = Queue(width=len(number) + len(command.last), depth=READS)
        m.submodules.asked = ResetInserter(dut.lost)(asked)
        owner, last = asked.r_data[: len(number)], asked.r_data[len(number) :]
        word = Signal(range(BURST_WORDS))
        forgets = self.forget if self.may_forget == "burst" else 0
        comes = memory.read_valid & asked.r_rdy
        m.d.comb += [
            asked.w_en.eq(asks & ~command.write),
            asked.w_data.eq(Cat(number, command.last)),
            asked.r_en.eq(comes & (word == last) | forgets),
        ]
        m.d.comb += Assert(~asked.w_en | asked.w_rdy)  # never more on their way
        data_before = Signal(8)
        m.d.sync += data_before.eq(memory.read_data)
        with m.If(comes):
            m.d.sync += word.eq(Mux(word == last, 0, word + 1))
        for k, port in enumerate(ports):
            due = Signal(name=f"due_{k}")
            m.d.sync += due.eq(comes & (owner == k) & ~dut.lost)
            m.d.comb += Assert(port.read_valid == due)
            with m.If(due):
                m.d.comb += Assert(port.read_data == data_before)
        with m.If(dut.lost):
            m.d.sync += word.eq(0)

        # Commands reach memory one by one, unchanged.
        waiting, held = Signal(), Signal.like(command)
        m.d.comb += Assert(memory.command.valid == waiting)
        with m.If(waiting):
            m.d.comb += Assert(memory.command.payload == held)
        m.d.sync += waiting.eq(asks | waiting & ~ready)
        with m.If(asks):
            m.d.comb += Assert(~waiting | ready)
            m.d.sync += held.eq(command)

        # Words of the one burst of writes.
        owed, writer, orphan = Signal(range(BURST_WORDS + 1)), Signal.like(number), Signal()
        wrote = memory.write.valid & memory.write.ready
        loses = (self.forget if self.may_forget == "word" else 0) & (owed != 0)
        m.d.sync += owed.eq(owed - wrote - (loses & ~wrote))
        with m.If(asks & command.write):
            m.d.comb += Assert(owed == 0)
            m.d.sync += [owed.eq(command.last + 1), writer.eq(number), orphan.eq(0)]
        with m.Elif(dut.lost):
            m.d.sync += orphan.eq(1)
        takes = Cat(p.write.ready for p in ports)
        with m.If(owed == 0):
            m.d.comb += Assert(~memory.write.valid & ~takes.any())
        with m.Elif(orphan):
            m.d.comb += Assert(memory.write.valid & ~takes.any())
        with m.Else():
            m.d.comb += [
                Assert(memory.write.valid == Array(p.write.valid for p in ports)[writer]),
                Assert(memory.write.payload == Array(p.write.payload for p in ports)[writer]),
                Assert(takes == memory.write.ready << writer),
            ]
        # Writes of which clients do not know whether they failed: they see so without a gap, hear of errors of these
        # before it ends, and of no others.
        unknown, told = Signal(3), Signal()
        m.d.sync += [
            unknown.eq(unknown + (asks & command.write) - (acknowledged & (unknown != 0))),
            told.eq(dut.memory.write_error & (unknown != 0) & ~dut.lost),
        ]
        with m.If(dut.lost):
            m.d.sync += unknown.eq(0)
        for port in ports:
            m.d.comb += [
                Assert(port.unacknowledged | (unknown == 0)),
                Assert(port.unacknowledged | ~port.write_error),
                Assert(port.write_error == told),
            ]
        m.d.comb += Assert(unknown == Mux(dut.quiet == 0, below + to_memory, 0))

        # What makes it inductive.
        m.d.comb += [
            Assert(dut.tags.level == asked.level), Assert(dut.word == word),
            Assert(dut.writing == (owed != 0)), Assert(asked.level <= READS), Assert(owed <= BURST_WORDS),
        ]
        for k in range(READS):
            tag = data.View(dut.tag, dut.tags.entries[k])
            with m.If(asked.level > k):
                m.d.comb += Assert(Cat(tag.client, tag.last) == asked.entries[k])
                m.d.comb += Assert(tag.client < len(CLIENTS))
        with m.If(owed != 0):
            m.d.comb += [
                Assert(dut.to_write == owed - 1), Assert(dut.orphan == orphan),
                Assert(dut.writer == writer), Assert(writer < len(CLIENTS)),
            ]  # fmt: skip
        with m.Else():
            m.d.comb += Assert(~dut.orphan)
        return m


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbiter, "SyncFIFO", Queue)
    monkeypatch.setattr(arbiter, "_READS", READS)


def test_an_arbiter_brings_answers_to_who_asked_and_never_mixes_writers(visible: None):
    said = prove(Watched(), name="arbiter")
    assert PROVEN in said, said[-3000:]


@pytest.mark.parametrize("forget", ["burst", "word", "acknowledgement"])
def test_the_proof_sees_what_is_forgotten(visible: None, forget: str):
    said = prove(Watched(forget=forget), name=f"forgets-{forget}")
    assert REFUTED in said, said[-3000:]


class Bursts(wiring.Component):
    """A writer whose runs and memory are the prover's; none of its bursts crosses a multiple of ``limit`` words."""

    def __init__(self, *, word_bytes: int, limit: int = 16):
        self.dut = Writer(word_bytes=word_bytes)
        self.limit = limit
        super().__init__({
            "piece": In(PieceLayout), "offer": In(1),
            "command_ready": In(1), "write_ready": In(1),
        })  # fmt: skip

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = self.dut
        memory = dut.memory
        m.d.comb += [
            dut.i.valid.eq(self.offer), dut.i.payload.eq(self.piece),
            memory.command.ready.eq(self.command_ready), memory.write.ready.eq(self.write_ready),
        ]  # fmt: skip
        command, level = memory.command.payload, dut.words.level
        bits = self.limit.bit_length() - 1
        owed = Signal(range(17))
        with m.If(memory.command.valid & memory.command.ready):
            m.d.sync += owed.eq(command.last + 1)
        with m.If(memory.write.valid & memory.write.ready):
            m.d.sync += owed.eq(owed - 1)
        m.d.comb += Assert(memory.write.valid == (owed != 0))  # a burst's words are there, one a cycle
        with m.If(memory.command.valid):
            m.d.comb += [
                Assert(command.write), Assert(owed == 0), Assert(level == command.last + 1),
                Assert(command.address[:bits] + command.last < self.limit),
            ]  # fmt: skip
        # What makes it inductive.
        at_work = memory.command.valid | (owed != 0)
        m.d.comb += [
            Assert(dut.to_write == owed),
            Assert(~at_work | (dut.count == 0)),
            Assert(dut.inside | (dut.count == 0)),
            Assert(dut.begin[:4] + dut.count < 16),
        ]
        with m.If(owed != 0):
            m.d.comb += Assert(level == owed)
        with m.Elif(~memory.command.valid):
            m.d.comb += Assert(level == dut.count)
        return m


@pytest.mark.parametrize("word_bytes", [4, 8])
def test_a_writer_s_bursts_keep_their_limits(word_bytes: int):
    said = prove(Bursts(word_bytes=word_bytes), name=f"writer{word_bytes}")
    assert PROVEN in said, said[-3000:]


def test_the_proof_sees_a_limit_that_is_not_kept():
    said = prove(Bursts(word_bytes=4, limit=8), name="limit", steps=10)
    assert REFUTED in said, said[-3000:]
