# SPDX-License-Identifier: Apache-2.0
"""Logits to external memory, of the lanes that want them."""

from __future__ import annotations

from amaranth.hdl import Array, Module, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.ports import LOGITS_COMING, LogitSignature, MemorySignature, TokensLayout
from nomul.model.isa import Part
from nomul.model.protocol import TOKEN_BITS

from .ports import BLOCK_BITS, BasesLayout, block_word
from .writer import PIECE_BYTES, Writer

__all__ = ["LogitWriter"]

_DEPTH = 32
_RUN = 8  # of a lane, one behind the other


class LogitWriter(wiring.Component):
    """Writes each sum as a signed 32-bit piece: index ``t`` of lane ``l`` at block ``base + l · stride``, piece ``t``.

    Logits come in runs of 8 of a lane, so a word holds at most 8 of them.

    Parameters
    ----------
    lanes, bits, word_bytes : int
        ``L``; width of a sum; of a memory's word, 4 to 32.

    Members
    -------
    port : ``In(LogitSignature(lanes=lanes, bits=bits))``
    token : ``In(TokensLayout(lanes))``
    bases : ``In(BasesLayout)``
    idle : ``In(1)``
        No more logits come: what is left is written.
    busy : ``Out(1)``
    memory : ``Out(MemorySignature(word_bytes))``
        Only written.
    """

    def __init__(self, *, lanes: int, bits: int, word_bytes: int):
        if not PIECE_BYTES <= word_bytes <= PIECE_BYTES * _RUN:
            raise ValueError(
                f"LogitWriter: word_bytes is {word_bytes}; logits go to memories of "
                f"{PIECE_BYTES} to {PIECE_BYTES * _RUN} bytes a word"
            )
        self.lanes = lanes
        self.bits = bits
        self.word_bytes = word_bytes
        super().__init__({
            "port": In(LogitSignature(lanes=lanes, bits=bits)),
            "token": In(TokensLayout(lanes)),
            "bases": In(BasesLayout),
            "idle": In(1),
            "busy": Out(1),
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.writer = writer = Writer(word_bytes=self.word_bytes)
        connect(m, writer.memory, flipped(self.memory))
        lane = range(max(2, self.lanes))
        item = data.StructLayout({"sum": signed(self.bits), "index": TOKEN_BITS, "lane": lane})
        m.submodules.queue = queue = SyncFIFO(width=item.size, depth=_DEPTH)
        came = Signal(item)
        wanted = Array(self.token.logits[k] & self.token.active[k] for k in range(self.lanes))
        m.d.comb += [
            came.sum.eq(self.port.sum),
            came.index.eq(self.port.index),
            came.lane.eq(self.port.lane),
            queue.w_data.eq(came),
            queue.w_en.eq(self.port.valid & wanted[self.port.lane]),
        ]
        m.d.sync += self.port.room.eq(queue.level < _DEPTH - LOGITS_COMING - 2)

        # Three stages: out of the queue, where the lane's logits begin, the address. A piece waits in the last until it
        # is known whether its run goes on.
        first, second, last = (Signal(item, name=name, reset_less=True) for name in ("first", "second", "last"))
        valid = Signal(3)
        offset = Signal(unsigned(BLOCK_BITS), reset_less=True)
        address = Signal(32, reset_less=True)
        bits = (self.word_bytes // PIECE_BYTES).bit_length() - 1
        base = self.bases[Part.LOGITS]
        piece, full = writer.i.payload, last.index[:3] == _RUN - 1
        other = valid[1] & (second.lane != last.lane)
        over = self.idle & ~queue.r_rdy & ~valid[0] & ~valid[1]
        moves = Signal(3)
        m.d.comb += [
            moves[2].eq(~valid[2] | writer.i.valid & writer.i.ready),
            moves[1].eq(~valid[1] | moves[2]),
            moves[0].eq(~valid[0] | moves[1]),
            queue.r_en.eq(moves[0]),
            writer.i.valid.eq(valid[2] & (valid[1] | full | over)),
            piece.value.eq(last.sum),
            piece.address.eq(address),
            piece.last.eq(full | other | over),
            self.busy.eq(queue.r_rdy | valid.any() | writer.busy),
        ]
        with m.If(moves[0]):
            m.d.sync += [valid[0].eq(queue.r_rdy), first.eq(data.View(item, queue.r_data))]
        with m.If(moves[1]):
            m.d.sync += [
                valid[1].eq(valid[0]),
                second.eq(first),
                offset.eq(first.lane * base.stride),
            ]
        with m.If(moves[2]):
            m.d.sync += [
                valid[2].eq(valid[1]),
                last.eq(second),
                address.eq(
                    ((base.block + offset) << block_word(self.word_bytes)) + (second.index >> bits)
                ),
            ]
        return m
