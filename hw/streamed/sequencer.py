# SPDX-License-Identifier: Apache-2.0
"""The sequencer of a core that streams its model: program and norms come from memory too."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream
from amaranth.lib.wiring import In, Member, Out

from nomul.hw.fetch import STREAMED_KINDS, InstructionLayout, decode, field
from nomul.hw.scalar import ScalarUnit
from nomul.hw.sequencer import Sequencer
from nomul.model import isa
from nomul.model.isa import INSTRUCTION_BYTES, Mode
from nomul.model.memory_map import BLOCK
from nomul.model.protocol import Fault

from .ports import BasesLayout, MoveLayout, OrderLayout, StartLayout

__all__ = ["StreamedSequencer"]

_BLOCK_WORDS = BLOCK // INSTRUCTION_BYTES


class StreamedSequencer(Sequencer):
    """As :class:`~nomul.hw.sequencer.Sequencer`, with the instructions of a streamed model.

    The first instruction must be the Stream: from then on it is known where the program ends at the
    latest. What waits besides:

    - an Embed for all norms that were ordered, since it is the first to read some;
    - an INPUT pass for the recurrent state that was recalled;
    - the End, and the next token, until nothing goes to memory any more, and memory has acknowledged what went there.

    Parameters
    ----------
    lanes : int

    Members
    -------
    Those of the Sequencer but ``program``, and
    words : ``In(stream.Signature(64))``
        The program, from its first instruction on after each ``start``.
    order_o : ``Out(stream.Signature(OrderLayout))``
        What the beats of the weight stream are, a tile's or norms, in their order.
    stream_o : ``Out(stream.Signature(StartLayout))``
        The weight stream begins; always taken at once.
    bases : ``Out(BasesLayout)``
    move_o : ``Out(stream.Signature(MoveLayout))``
    owed : ``In(1)``
        Norms that were ordered are not all written.
    moving : ``In(1)``
        State goes from or to memory.
    pending : ``In(1)``
        Anything else goes to memory, or memory has not acknowledged all that did.
    memory_fault : ``In(Fault)``
        Memory failed.
    """

    def __init__(self, *, lanes: int):
        super().__init__(lanes=lanes, program_words=2)

    def members(self) -> dict[str, Member]:
        """See :class:`~nomul.hw.sequencer.Sequencer`."""
        members = super().members()
        del members["program"]
        return {
            **members,
            "words": In(stream.Signature(8 * INSTRUCTION_BYTES)),
            "order_o": Out(stream.Signature(OrderLayout)),
            "stream_o": Out(stream.Signature(StartLayout, always_ready=True)),
            "bases": Out(BasesLayout),
            "move_o": Out(stream.Signature(MoveLayout)),
            "owed": In(1),
            "moving": In(1),
            "pending": In(1),
            "memory_fault": In(Fault),
        }

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += [
            self.hold.eq(self.moving | self.move_o.valid | self.pending),
            self.broken.eq(self.memory_fault),
        ]
        return m

    def fetch(self, m: Module) -> stream.Interface:
        """A register of a decoded instruction; what lies behind the program is none."""
        layout = InstructionLayout(STREAMED_KINDS)
        o = stream.Signature(layout).create(path=("instruction",))
        taken = self.words.valid & self.words.ready
        count = Signal(self.stream_o.payload.block.shape().width + 1)
        within = Signal(range(_BLOCK_WORDS))
        limit, known = Signal.like(count), Signal()
        final, outside = Signal(), Signal()  # in the program's last block; behind it
        m.d.sync += final.eq(known & (count + 1 >= limit))  # right long before a block ends
        with m.If(taken):
            m.d.sync += within.eq(within + 1)
            with m.If(within == _BLOCK_WORDS - 1):
                m.d.sync += [count.eq(count + 1), outside.eq(outside | final)]
        m.d.comb += self.words.ready.eq(~o.valid | o.ready)
        with m.If(self.words.ready):
            m.d.sync += [
                o.valid.eq(self.words.valid),
                o.payload.eq(decode(m, self.words.payload, outside, STREAMED_KINDS)),
            ]
        with m.If(self.stream_o.valid):
            m.d.sync += [limit.eq(self.stream_o.payload.block), known.eq(1)]
        with m.If(self.start):
            m.d.sync += [
                o.valid.eq(0), count.eq(0), within.eq(0), known.eq(0), final.eq(0), outside.eq(0),
            ]  # fmt: skip
        return o

    def conditions(self, d: Any, ready: Value, quiet: Value) -> dict[str, Value]:
        """See :class:`~nomul.hw.sequencer.Sequencer`."""
        go = super().conditions(d, ready, quiet)
        order_free = ~self.order_o.valid
        updates = field(d.word, isa.Pass, "mode") == Mode.INPUT
        return {
            **go,
            "tile": go["tile"] & order_free,
            "embed": go["embed"] & order_free & ~self.owed,
            "pass": go["pass"] & ~(updates & (self.moving | self.move_o.valid)),
            "load": d.load & order_free,
            "stream": d.stream & ~self.stream_o.valid,
            "base": d.base,
            "recall": d.recall & ~self.move_o.valid,
            "keep": d.keep & ~self.move_o.valid,
        }

    def work(
        self, m: Module, scalar: ScalarUnit, word: Signal, going: dict[str, Signal], token: Signal
    ) -> None:
        """See :class:`~nomul.hw.sequencer.Sequencer`."""
        super().work(m, scalar, word, going, token)
        for port in (self.order_o, self.move_o):
            with m.If(port.ready):
                m.d.sync += port.valid.eq(0)
        with m.If(going["tile"] | going["load"]):
            m.d.sync += [
                self.order_o.valid.eq(1),
                self.order_o.payload.load.eq(going["load"]),
                self.order_o.payload.address.eq(field(word, isa.Load, "address")),
                self.order_o.payload.words.eq(field(word, isa.Load, "words")),
            ]
        m.d.sync += self.stream_o.valid.eq(going["stream"])
        with m.If(going["stream"]):
            m.d.sync += [
                self.stream_o.payload.block.eq(field(word, isa.Stream, "block")),
                self.stream_o.payload.beats.eq(field(word, isa.Stream, "beats")),
            ]
        with m.If(going["base"]):
            for part in isa.Part:
                with m.If(field(word, isa.Base, "part") == part):
                    m.d.sync += [
                        self.bases[part].block.eq(field(word, isa.Base, "block")),
                        self.bases[part].stride.eq(field(word, isa.Base, "stride")),
                    ]
        with m.If(going["recall"] | going["keep"]):
            m.d.sync += [
                self.move_o.valid.eq(1),
                self.move_o.payload.keep.eq(Mux(going["keep"], 1, 0)),
                self.move_o.payload.address.eq(field(word, isa.Recall, "address")),
                self.move_o.payload.elements.eq(field(word, isa.Recall, "elements")),
            ]
        with m.If(self.flush):
            m.d.sync += [self.order_o.valid.eq(0), self.stream_o.valid.eq(0), self.move_o.valid.eq(0)]
