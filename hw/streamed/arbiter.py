# SPDX-License-Identifier: Apache-2.0
"""One memory for many: takes turns by rank, brings answers to who asked, and notices silence."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import BURST_WORDS, MemorySignature

__all__ = ["Arbiter"]

_READS = 32  # bursts that may be on their way
_QUIET = 4096  # cycles without an answer after which nothing late is feared


class Arbiter(wiring.Component):
    """Joins clients to a memory, the first of them foremost, a burst at a time.

    A command takes a cycle to memory, an answer a cycle to the client. At most 32 bursts of reads are on
    their way, and words of one burst of writes.

    When memory makes no progress for ``patience`` cycles, ``lost`` strikes: everything on its way is
    forgotten, and clients must forget it too. Memory that owes nothing but acknowledgements makes none. Memory
    gets what it was promised all the same: a command that is offered stays, and words of a write that are missing
    are zeros. After that nothing is asked until memory has taken and acknowledged all of it and said nothing for
    4096 cycles, so that a late answer meets nobody. Until it has, it is lost again ``patience`` cycles after
    a client asks, and not while none does.

    Parameters
    ----------
    clients : sequence of str
        Their names, by rank.
    word_bytes : int
    patience : int

    Members
    -------
    NAME : ``In(MemorySignature(word_bytes))``
        Of each client. ``write_error`` and ``unacknowledged`` are of all clients' writes, a cycle late. After a loss
        those before it count no more.
    memory : ``Out(MemorySignature(word_bytes))``
    failed : ``Out(1)``
        A strobe: memory gave a wrong word, or could not write one.
    lost : ``Out(1)``
        A strobe: memory does not answer.
    unacknowledged : ``Out(1)``
        As every client sees it.
    """

    def __init__(self, *, clients: Sequence[str], word_bytes: int, patience: int = 1 << 20):
        if not clients:
            raise ValueError("Arbiter: clients is empty; it must name at least 1")
        if patience < 16:
            raise ValueError(f"Arbiter: patience is {patience}; it must be at least 16 cycles")
        self.clients = tuple(clients)
        self.word_bytes = word_bytes
        self.patience = patience
        who = range(max(2, len(clients)))
        self.tag = data.StructLayout({"client": who, "last": range(BURST_WORDS)})
        self.tags = SyncFIFO(width=self.tag.size, depth=_READS)  # of the bursts of reads on their way
        self.word = Signal(range(BURST_WORDS))  # that comes next of the first of these
        self.writing = Signal()  # words of a burst are to come,
        self.writer = Signal(who)  # from this client,
        self.to_write = Signal(range(BURST_WORDS))  # so many, less one;
        self.orphan = Signal()  # or from nobody
        self.quiet = Signal(range(_QUIET + 1))  # cycles until something is asked again
        super().__init__({
            **{name: In(MemorySignature(word_bytes=word_bytes)) for name in clients},
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
            "failed": Out(1),
            "lost": Out(1),
            "unacknowledged": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory = self.memory
        ports = [getattr(self, name) for name in self.clients]
        tag, tags, word = self.tag, self.tags, self.word
        writing, writer, to_write, orphan = self.writing, self.writer, self.to_write, self.orphan

        # Whose turn. A write waits until the words of the one before have gone.
        m.submodules.tags = ResetInserter(self.lost)(tags)
        quiet = self.quiet
        current = Signal()  # what memory says is of what was asked since the last loss
        free = ~memory.command.valid | memory.command.ready
        may_read, may_write = Signal(), Signal()
        m.d.comb += [
            current.eq((quiet == 0) & ~self.lost),
            may_read.eq(free & tags.w_rdy & current),
            may_write.eq(free & ~writing & current),
        ]
        with m.If(memory.command.ready):
            m.d.sync += memory.command.valid.eq(0)
        taken = Signal(len(ports))
        higher: Value | int = 0
        for k, port in enumerate(ports):
            ask = port.command.valid & Mux(port.command.payload.write, may_write, may_read)
            m.d.comb += [taken[k].eq(ask & ~higher), port.command.ready.eq(taken[k])]
            higher = higher | port.command.valid  # who waits is not overtaken
            with m.If(taken[k]):
                m.d.sync += [
                    memory.command.valid.eq(1),
                    memory.command.payload.eq(port.command.payload),
                ]
                with m.If(port.command.payload.write):
                    m.d.sync += [
                        writing.eq(1), writer.eq(k), to_write.eq(port.command.payload.last),
                    ]  # fmt: skip
        view = Signal(tag)
        for k, port in enumerate(ports):
            with m.If(taken[k]):
                m.d.comb += [
                    view.client.eq(k),
                    view.last.eq(port.command.payload.last),
                    tags.w_en.eq(~port.command.payload.write),
                ]
        m.d.comb += tags.w_data.eq(view)

        # Words of a write.
        m.d.comb += [
            memory.write.valid.eq(writing & (orphan | Array(p.write.valid for p in ports)[writer])),
            memory.write.payload.eq(Mux(orphan, 0, Array(p.write.payload for p in ports)[writer])),
        ]
        for k, port in enumerate(ports):
            m.d.comb += port.write.ready.eq(
                writing & ~orphan & (writer == k) & memory.write.ready
            )
        wrote = memory.write.valid & memory.write.ready
        with m.If(wrote):
            m.d.sync += to_write.eq(to_write - 1)
            with m.If(to_write == 0):
                m.d.sync += [writing.eq(0), orphan.eq(0)]

        # Answers.
        head = data.View(tag, tags.r_data)
        arrived = memory.read_valid & tags.r_rdy
        ends = word == head.last
        m.d.comb += tags.r_en.eq(arrived & ends)
        with m.If(arrived):
            m.d.sync += word.eq(Mux(ends, 0, word + 1))
        read_data = Signal(8 * self.word_bytes, reset_less=True)
        read_error = Signal(reset_less=True)
        m.d.sync += [read_data.eq(memory.read_data), read_error.eq(memory.read_error)]
        for k, port in enumerate(ports):
            valid = Signal(name=f"valid_{self.clients[k]}")
            m.d.sync += valid.eq(arrived & (head.client == k) & ~self.lost)
            m.d.comb += [
                port.read_valid.eq(valid),
                port.read_data.eq(read_data),
                port.read_error.eq(read_error),
            ]

        # Failures. Errors of writes concern everybody. The gap between a command's being taken here and by memory
        # is closed.
        write_error = Signal()
        begins = Cat(taken[k] & port.command.payload.write for k, port in enumerate(ports)).any()
        promised = writing | memory.command.valid & memory.command.payload.write
        m.d.sync += [
            write_error.eq(memory.write_error & current),
            self.failed.eq(arrived & memory.read_error | memory.write_error & current),
            self.unacknowledged.eq((memory.unacknowledged | promised | begins) & current),
        ]
        for port in ports:
            m.d.comb += [
                port.write_error.eq(write_error), port.unacknowledged.eq(self.unacknowledged),
            ]  # fmt: skip
        patience = Signal(range(self.patience + 1))
        asks = Signal()
        m.d.sync += asks.eq(Cat(port.command.valid for port in ports).any())
        owes = writing | memory.command.valid | memory.unacknowledged
        waits = tags.r_rdy | owes & ((quiet == 0) | asks)
        moves = Cat(memory.read_valid, wrote, memory.command.valid & memory.command.ready).any()
        m.d.sync += [
            patience.eq(Mux(waits & ~moves, patience + 1, 0)),
            self.lost.eq(patience == self.patience),
        ]
        with m.If((memory.read_valid | owes) & (quiet != 0)):
            m.d.sync += quiet.eq(_QUIET)
        with m.Elif(quiet != 0):
            m.d.sync += quiet.eq(quiet - 1)
        with m.If(self.lost):
            m.d.sync += [
                quiet.eq(_QUIET), word.eq(0), patience.eq(0),
                orphan.eq(writing & ~(wrote & (to_write == 0))),
            ]  # fmt: skip
        return m
