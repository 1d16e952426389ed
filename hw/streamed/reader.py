# SPDX-License-Identifier: Apache-2.0
"""Reads memory ahead: a run of words as a stream, in order, at the rate of the memory."""

from __future__ import annotations

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.memory import Skid, block_ram
from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout, MemorySignature

__all__ = ["Reader"]

_ADDRESS_BITS = MemoryCommandLayout["address"].width


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


class Reader(wiring.Component):
    """Streams ``words`` words from ``address`` on, fetched ahead of who takes them.

    Bursts end at multiples of ``burst`` words. A burst is asked for only when all of it has room in
    the queue, so the memory is never held up. A word a cycle leaves if the memory gives one a cycle and
    ``depth`` is at least its latency, from command to word, plus :attr:`latency` plus two bursts.
    Commands are three cycles apart at least, which shows only behind a first burst of a word or two.

    A start ends the run before: what is offered is withdrawn in the next cycle, what is in the queue
    is forgotten, what is still on its way is counted and discarded as it comes, while the commands of
    the new run already follow (unless ``depth`` words or more are to be discarded). A command that is
    being offered stays until it is taken.

    .. code-block:: text

        cycle   0       1        2       3        4                  n           n+1    n+2     n+3    n+4
                start   bounds   last    burst    command offered    read_valid  held   queue   read   offered
                                 block?  known                                                         in o

    ``o.valid`` and payload are two registers each and a multiplexer set by a third (a
    :class:`~nomul.hw.memory.Skid`); ``o.ready`` reaches one flip-flop.

    Parameters
    ----------
    word_bytes : int
        ``B``, a power of two.
    depth : int
        Words of the queue, in block RAM; a power of two, at least ``2 · burst``.
    burst : int
        Most words of a command; a power of two, 4 to 64.

    Attributes
    ----------
    start_latency : int
        Cycles from ``start`` to the first command being offered.
    latency : int
        Cycles from a word at the memory port to its being offered.

    Members
    -------
    start : ``In(1)``
        A cycle's strobe, at any time.
    address, words : ``In(32)``, ``In(33)``
        With ``start``: the first word, and how many, 0 to 2^32.
    o : ``Out(stream.Signature(8 · B))``
    error : ``Out(1)``
        A cycle's strobe: a word of this run was wrong. It comes before the word does.
    memory : ``Out(MemorySignature(word_bytes=word_bytes))``
        Only read. ``read_valid`` means a word for this reader, in the order of its commands.
    """

    start_latency = 4
    latency = 4

    def __init__(self, *, word_bytes: int, depth: int = 512, burst: int = BURST_WORDS):
        if not _power_of_two(word_bytes):
            raise ValueError(f"Reader: word_bytes is {word_bytes}; it must be a power of two")
        if not _power_of_two(burst) or not 4 <= burst <= BURST_WORDS:
            raise ValueError(f"Reader: burst is {burst}; it must be a power of two, 4 to "
                             f"{BURST_WORDS}")
        if not _power_of_two(depth) or depth < 2 * burst:
            raise ValueError(f"Reader: depth is {depth}; it must be a power of two, at least "
                             f"{2 * burst} for bursts of {burst}")
        self.word_bytes = word_bytes
        self.depth = depth
        self.burst = burst
        self.room = Signal(range(depth + 1), init=depth)  # words that may be asked for
        self.asked = Signal(range(burst + 1))   # words asked for in the cycle before
        self.coming = Signal(range(2 * depth))  # words asked for till then, this run or before
        self.drop = Signal(range(2 * depth))    # the first of these, to be discarded
        self.arrived = Signal()
        self.freed = Signal()
        self.put = Signal(range(2 * depth))
        self.get = Signal(range(2 * depth))
        self.begun = Signal()
        self.running = Signal()
        bits = (burst - 1).bit_length()
        self.blocks = Signal(_ADDRESS_BITS + 1 - bits)  # of a burst, left of the run, less one
        self.first = Signal(bits)  # places in the first and in the last of these
        self.last = Signal(bits)
        self.final = Signal()      # one block is left
        self.known = Signal()
        self.may = Signal()  # there is room for it
        self.next = Signal(MemoryCommandLayout)  # the next burst
        super().__init__({
            "start": In(1),
            "address": In(_ADDRESS_BITS),
            "words": In(_ADDRESS_BITS + 1),
            "o": Out(stream.Signature(unsigned(8 * word_bytes))),
            "error": Out(1),
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = (self.burst - 1).bit_length()
        command, memory = self.memory.command, self.memory
        room, asked, coming, drop = self.room, self.asked, self.coming, self.drop

        # A run, in blocks of a burst: of the first and of the last a part only.
        running, known, burst = self.running, self.known, self.next
        block, blocks, first, last = Signal(_ADDRESS_BITS - bits), self.blocks, self.first, self.last
        end = Signal(_ADDRESS_BITS + 1)  # the last word, from the beginning of the first's block
        begun, final = self.begun, self.final
        m.d.comb += end.eq(self.address[:bits] + self.words - 1)

        # The next burst, then the command.
        further, ask, may = Signal(), Signal(), self.may
        m.d.comb += [
            further.eq(~known | ask),
            ask.eq(known & may & ~self.start & (~command.valid | command.ready)),
        ]
        # Found a cycle ahead: there is no less room, and no more to discard, unless asked or started.
        m.d.sync += may.eq((room >> bits != 0) & (drop < self.depth) & (asked == 0)
                           & ~ask & ~self.start)
        # Whether a block is the last is found with the one before it, or in a cycle of its own.
        with m.If(begun | further & running):
            m.d.sync += final.eq((blocks[1:] == 0) & (blocks[0] != begun))
        with m.If(begun):
            m.d.sync += [begun.eq(0), running.eq(1)]
        with m.If(further):
            m.d.sync += [
                known.eq(running),
                burst.address.eq(Cat(first, block)),
                burst.last.eq(Mux(final, last, self.burst - 1) - first),
            ]
            with m.If(running):
                m.d.sync += [
                    block.eq(block + 1), blocks.eq(blocks - 1), first.eq(0), running.eq(~final),
                ]
        with m.If(~command.valid | command.ready):
            m.d.sync += [command.valid.eq(ask), command.payload.eq(burst)]

        # Words asked for but not yet come, and the place that each has in the queue.
        still = coming + asked - memory.read_valid
        wanted = memory.read_valid & (drop == 0) & ~self.start
        data = Signal(unsigned(8 * self.word_bytes), reset_less=True)
        m.d.sync += [
            asked.eq(Mux(ask, burst.last + 1, 0)),
            coming.eq(still),
            drop.eq(drop - (memory.read_valid & (drop != 0))),
            room.eq(room - asked + self.freed),
            data.eq(memory.read_data),
            self.arrived.eq(wanted),
            self.error.eq(wanted & memory.read_error),
        ]

        # The queue: all that is read moves together, unless the skid is full.
        ram = block_ram(m, "ram", shape=unsigned(8 * self.word_bytes), depth=self.depth)
        read, write = ram.read_port(), ram.write_port()
        m.submodules.skid = skid = ResetInserter(self.start)(
            Skid(shape=unsigned(8 * self.word_bytes)))
        connect(m, skid.o, flipped(self.o))
        go, there, stage = skid.i.ready, Signal(), Signal(2)
        out = Signal(unsigned(8 * self.word_bytes), reset_less=True)
        m.d.comb += [
            write.addr.eq(self.put[:-1]),
            write.data.eq(data),
            write.en.eq(self.arrived),
            read.addr.eq(self.get[:-1]),
            read.en.eq(go),
            there.eq(self.put != self.get),
            skid.i.valid.eq(stage[1]),
            skid.i.payload.eq(out),
        ]
        m.d.sync += [self.put.eq(self.put + self.arrived), self.freed.eq(go & there)]
        with m.If(go):
            m.d.sync += [
                self.get.eq(self.get + there), stage.eq(Cat(there, stage)), out.eq(read.data),
            ]

        with m.If(self.start):
            m.d.sync += [
                begun.eq(self.words != 0), running.eq(0), known.eq(0),
                block.eq(self.address[bits:]), first.eq(self.address[:bits]),
                blocks.eq(end[bits:]), last.eq(end[:bits]),
                drop.eq(still), room.eq(room.init), self.freed.eq(0),
                self.put.eq(0), self.get.eq(0), stage.eq(0),
            ]
        return m
