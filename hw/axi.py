# SPDX-License-Identifier: Apache-2.0
"""An AXI4 master behind the memory port, for wide memories: DDR or HBM behind a vendor's interconnect."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .memory import Skid, Slice, positive
from .ports import BURST_WORDS, MemoryCommandLayout, MemorySignature

__all__ = ["PAGE_BYTES", "AxiMaster", "AxiSignature", "Pages"]

PAGE_BYTES = 4096  #: No AXI burst crosses a multiple of it.

_INCR = 1
_CACHE = 0b0011  # normal, not cacheable, bufferable: what vendors ask masters to say
_WORD_BYTES = (8, 16, 32, 64, 128)


class AxiSignature(wiring.Signature):
    """An AXI4 port, seen from the master; names as in the standard, one thread (ID 0).

    Every burst is of whole words (``size``) at increasing addresses. ``lock``, ``qos``, ``region`` and
    ``user`` are not there: zero is meant.

    Parameters
    ----------
    data_bytes : int
        Bytes of a word, a power of two.
    address_bits : int

    Members
    -------
    awid, awaddr, awlen, awsize, awburst, awcache, awprot, awvalid : ``Out``
    awready : ``In(1)``
    wdata, wstrb, wlast, wvalid : ``Out``
    wready : ``In(1)``
    bid, bresp, bvalid : ``In``
    bready : ``Out(1)``
    arid, araddr, arlen, arsize, arburst, arcache, arprot, arvalid : ``Out``
    arready : ``In(1)``
    rid, rdata, rresp, rlast, rvalid : ``In``
    rready : ``Out(1)``
    """

    def __init__(self, *, data_bytes: int, address_bits: int) -> None:
        def request(channel: str) -> dict[str, wiring.Member]:
            fields = {"id": 1, "addr": address_bits, "len": 8, "size": 3, "burst": 2, "cache": 4,
                      "prot": 3, "valid": 1}
            return {**{channel + name: Out(width) for name, width in fields.items()},
                    f"{channel}ready": In(1)}

        super().__init__({
            **request("aw"),
            "wdata": Out(8 * data_bytes), "wstrb": Out(data_bytes), "wlast": Out(1),
            "wvalid": Out(1), "wready": In(1),
            "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
            **request("ar"),
            "rid": In(1), "rdata": In(8 * data_bytes), "rresp": In(2), "rlast": In(1),
            "rvalid": In(1), "rready": Out(1),
        })


class Pages(wiring.Component):
    """Cuts bursts in two where they would cross a multiple of ``words``.

    No latency; everything is combinational but one flip-flop.

    Parameters
    ----------
    words : int
        A power of two, ``BURST_WORDS / 2``: a burst crosses one such boundary at most.

    Members
    -------
    i, o : ``In``, ``Out(stream.Signature(MemoryCommandLayout))``
    """

    def __init__(self, *, words: int):
        if 2 * words != BURST_WORDS:
            raise ValueError(f"Pages: words is {words}; it must be {BURST_WORDS // 2}")
        self.words = words
        self.second = Signal()
        super().__init__({
            "i": In(stream.Signature(MemoryCommandLayout)),
            "o": Out(stream.Signature(MemoryCommandLayout)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = (self.words - 1).bit_length()
        whole, part, second = self.i.payload, self.o.payload, self.second
        offset, page = whole.address[:bits], whole.address[bits:]
        end = Signal(bits + 1)  # of the burst, from the beginning of its first page
        m.d.comb += [
            end.eq(offset + whole.last),
            part.eq(whole),
            self.o.valid.eq(self.i.valid),
            self.i.ready.eq(self.o.ready & (second | ~end[bits])),
        ]
        with m.If(second):
            # A burst that crosses begins in an even page, so the next one differs in one bit.
            m.d.comb += [
                part.address.eq(Cat(Const(0, bits), Const(1, 1), page[1:])),
                part.last.eq(end[:bits]),
            ]
        with m.Elif(end[bits]):
            m.d.comb += part.last.eq(~offset)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += second.eq(~second & end[bits])
        return m


class AxiMaster(wiring.Component):
    """Commands at a memory port become AXI4 bursts, each command one.

    Only where a word has more than 64 bytes is a burst that crosses 4 KiB made into two. Reads are
    answered at the rate of the R channel, a word a cycle; up to ``outstanding`` bursts are on their
    way, so that latency is hidden if they hold as many words as it has cycles. R and B are always
    ready. A read waits, and every command behind it, until all writes before it were acknowledged;
    a write does not wait for reads, so a read may see a write whose command came after it but before
    its answer. Words to write are taken once their command was taken; the next write begins when the
    last of them is on its way, a cycle later.

    .. code-block:: text

        cycle         0         1          2             n        n+1
                      command   in the     arvalid       rvalid   read_valid
                      taken     slice      (awvalid)

    All outputs come from flip-flops, ``command.ready`` and ``write.ready`` too; ``unacknowledged`` from gates
    behind some. Word ``a`` of memory lies at byte ``a · word_bytes``; address bits above ``address_bits`` are
    dropped.

    Parameters
    ----------
    word_bytes : int
        8, 16, 32, 64 or 128: also the width of the AXI port.
    address_bits : int
        Of AXI addresses, 12 to 64.
    outstanding : int
        Most bursts on their way, of reads and of writes.

    Attributes
    ----------
    page_words : int
        Words that no AXI burst crosses a multiple of.
    latency : int
        Cycles from a command being taken to its burst being offered.

    Members
    -------
    memory : ``In(MemorySignature(word_bytes=word_bytes))``
        ``read_error``: the word's RRESP is an error; ``write_error``: a burst's BRESP is.
        ``unacknowledged``: until the cycle in which the last BRESP is passed on.
    axi : ``Out(AxiSignature(data_bytes=word_bytes, address_bits=address_bits))``
    """

    latency = 2

    def __init__(self, *, word_bytes: int, address_bits: int, outstanding: int = 8):
        if word_bytes not in _WORD_BYTES:
            raise ValueError(f"AxiMaster: word_bytes is {word_bytes}; it must be one of "
                             f"{', '.join(map(str, _WORD_BYTES))}")
        if not 12 <= address_bits <= 64:
            raise ValueError(f"AxiMaster: address_bits is {address_bits}; it must be 12 to 64")
        positive("AxiMaster", outstanding=outstanding)
        self.word_bytes = word_bytes
        self.address_bits = address_bits
        self.outstanding = outstanding
        self.page_words = min(BURST_WORDS, PAGE_BYTES // word_bytes)
        self.commands = Slice(shape=MemoryCommandLayout)
        self.pages = Pages(words=self.page_words) if self.page_words < BURST_WORDS else None
        self.words = Skid(shape=unsigned(8 * word_bytes))
        self.reads = Signal(range(outstanding + 1))   # on their way
        self.writes = Signal(range(outstanding + 1))
        self.read_ends = Signal()
        self.write_ends = Signal()
        self.writing = Signal()  # words of a burst, `left` and one
        self.left = Signal(range(BURST_WORDS))
        super().__init__({
            "memory": In(MemorySignature(word_bytes=word_bytes)),
            "axi": Out(AxiSignature(data_bytes=word_bytes, address_bits=address_bits)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        axi, memory = self.axi, self.memory
        m.submodules.commands = commands = self.commands
        m.submodules.words = words = self.words
        connect(m, flipped(memory.command), commands.i)
        connect(m, flipped(memory.write), words.i)
        bursts = commands.o
        if self.pages is not None:
            m.submodules.pages = self.pages
            connect(m, commands.o, self.pages.i)
            bursts = self.pages.o

        # A burst that has left the commands counts in `writes` until the cycle after its answer was told.
        waiting = commands.skid
        m.d.comb += memory.unacknowledged.eq(
            (self.writes != 0) | commands.o.valid & commands.o.payload.write
            | ~waiting.free & MemoryCommandLayout(waiting.held).write
        )

        size = (self.word_bytes - 1).bit_length()
        burst = bursts.payload
        may_read, may_write, read, write = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            may_read.eq((~axi.arvalid | axi.arready) & (self.reads != self.outstanding)
                        & (self.writes == 0)),
            may_write.eq((~axi.awvalid | axi.awready) & (self.writes != self.outstanding)
                         & ~self.writing),
            bursts.ready.eq(Mux(burst.write, may_write, may_read)),
            read.eq(bursts.valid & ~burst.write & may_read),
            write.eq(bursts.valid & burst.write & may_write),
        ]
        for channel, go in (("ar", read), ("aw", write)):
            names = ("addr", "len", "size", "burst", "cache", "valid", "ready")
            addr, length, word, kind, cache, valid, ready = (
                getattr(axi, channel + name) for name in names)
            m.d.comb += [word.eq(size), kind.eq(_INCR), cache.eq(_CACHE)]
            with m.If(~valid | ready):
                m.d.sync += [
                    valid.eq(go), addr.eq(Cat(Const(0, size), burst.address)), length.eq(burst.last),
                ]

        m.d.comb += [axi.rready.eq(1), axi.bready.eq(1), axi.wstrb.eq(~0)]
        m.d.sync += [
            memory.read_valid.eq(axi.rvalid),
            memory.read_data.eq(axi.rdata),
            memory.read_error.eq(axi.rresp[1]),
            memory.write_error.eq(axi.bvalid & axi.bresp[1]),
            self.read_ends.eq(axi.rvalid & axi.rlast),
            self.write_ends.eq(axi.bvalid),
            self.reads.eq(self.reads + read - self.read_ends),
            self.writes.eq(self.writes + write - self.write_ends),
        ]

        # The words of one burst at a time.
        take, last = Signal(), Signal()
        m.d.comb += [
            words.o.ready.eq(self.writing & (~axi.wvalid | axi.wready)),
            take.eq(words.o.valid & words.o.ready),
            last.eq(self.left == 0),
        ]
        with m.If(write):
            m.d.sync += [self.writing.eq(1), self.left.eq(burst.last)]
        with m.Elif(take):
            m.d.sync += [self.writing.eq(~last), self.left.eq(self.left - 1)]
        with m.If(~axi.wvalid | axi.wready):
            m.d.sync += [
                axi.wvalid.eq(take), axi.wdata.eq(words.o.payload), axi.wlast.eq(last),
            ]
        return m
