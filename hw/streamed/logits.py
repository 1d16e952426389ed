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

        # Two stages: where the lane's logits begin, then the address. A piece waits there until it is known
        # whether its run goes on.
        here = data.View(item, queue.r_data)
        stage = [Signal(item, name=f"stage{k}", reset_less=True) for k in range(2)]
        valid = Signal(2)
        offset = Signal(unsigned(BLOCK_BITS), reset_less=True)
        address = Signal(32, reset_less=True)
        bits = (self.word_bytes // PIECE_BYTES).bit_length() - 1
        base = self.bases[Part.LOGITS]
        piece, full = writer.i.payload, stage[1].index[:3] == _RUN - 1
        other = valid[0] & (stage[0].lane != stage[1].lane)
        over = self.idle & ~queue.r_rdy & ~valid[0]
        moves = ~valid[1] | writer.i.valid & writer.i.ready
        m.d.comb += [
            queue.r_en.eq(~valid[0] | moves),
            writer.i.valid.eq(valid[1] & (valid[0] | full | over)),
            piece.value.eq(stage[1].sum),
            piece.address.eq(address),
            piece.last.eq(full | other | over),
            self.busy.eq(queue.r_rdy | valid.any() | writer.busy),
        ]
        with m.If(queue.r_en):
            m.d.sync += [
                valid[0].eq(queue.r_rdy),
                stage[0].eq(here),
                offset.eq(here.lane * base.stride),
            ]
        with m.If(moves):
            m.d.sync += [
                valid[1].eq(valid[0]),
                stage[1].eq(stage[0]),
                address.eq(
                    ((base.block + offset) << block_word(self.word_bytes)) + (stage[0].index >> bits)
                ),
            ]
        return m
