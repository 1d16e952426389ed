# SPDX-License-Identifier: Apache-2.0
"""The end of an engine: accumulators in block RAM, and the small buffer that results leave by."""

from __future__ import annotations

from amaranth.hdl import Module, Shape, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from nomul.hw.ports import SumsLayout

__all__ = ["HAZARD", "LEAD", "NEVER_BOTH", "Accumulate", "beat_layout"]

#: Cycles from an accumulator's address being presented to what it held being added to.
LEAD = 3

#: Cycles that two beats of one accumulator must be apart: read, two registers, sum, write.
HAZARD = LEAD + 2


def beat_layout(address: int) -> data.StructLayout:
    """What goes with a beat through an engine's pipeline.

    ``address``: its accumulator; ``first``: in the first chunk; ``final``: in the last chunk;
    ``last``: last output of its chunk.
    """
    return data.StructLayout({"address": address, "first": 1, "final": 1, "last": 1})


#: On a memory no address of which is written and read in the same cycle: else yosys adds logic that
#: gives such a read the old word.
NEVER_BOTH = {"no_rw_check": 1}


class Accumulate(wiring.Component):
    """Adds the beats of each output over the chunks of a tile; the last chunk's sums leave.

    The pipeline before it never stops: :attr:`credit` says that a result which is promised now will
    find room. Beats of one output must be :data:`HAZARD` cycles apart. Beats of a first chunk take
    no notice of what the accumulator held; those of a last chunk don't change it.

    Parameters
    ----------
    outputs : int
        Accumulators; rounded up to a power of two, as addresses wrap.
    lanes : int
        Sums side by side.
    term : Shape
        Shape of one term, signed.
    terms : int
        Terms of a lane that are left to be added here.
    sum_shape : Shape
        Shape of a sum, signed.
    latency : int
        Cycles from a result being promised to it being offered.

    Members
    -------
    address : ``In``
        The accumulator of the beat that arrives :data:`LEAD` cycles later.
    soon : ``In(beat_layout)``
        The beat that arrives in the next cycle.
    valid, beat, terms : ``In``
        A beat, and its terms ``[lane][term]``.
    promise : ``In(1)``
        A beat of a last chunk has entered the pipeline.
    credit : ``Out(1)``
        A beat of a last chunk may enter.
    sums : ``Out(stream.Signature(SumsLayout))``
        Results, offered two cycles after their beat's terms.
    """

    def __init__(self, *, outputs: int, lanes: int, term: Shape, terms: int, sum_shape: Shape,
                 latency: int) -> None:
        self.outputs = outputs
        self.sum_shape = sum_shape
        self.depth = max(16, 1 << bits_for(latency + 2))  # a distributed RAM has 16 words
        bits = max(1, bits_for(outputs - 1))
        super().__init__({
            "address": In(bits),
            "soon": In(beat_layout(bits)),
            "valid": In(1),
            "beat": In(beat_layout(bits)),
            "terms": In(data.ArrayLayout(data.ArrayLayout(term, terms), lanes)),
            "promise": In(1),
            "credit": Out(1),
            "sums": Out(stream.Signature(SumsLayout(lanes, sum_shape.width))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        lanes = len(self.terms)
        row = data.ArrayLayout(signed(self.sum_shape.width), lanes)
        m.submodules.partial = partial = Memory(
            shape=row, depth=1 << len(self.address), init=[], attrs=NEVER_BOTH)
        read, write = partial.read_port(), partial.write_port()

        held = Signal(row, reset_less=True)
        base = Signal(row, reset_less=True)
        m.d.comb += read.addr.eq(self.address)
        m.d.sync += [held.eq(read.data), base.eq(held)]
        with m.If(self.soon.first):  # a flip-flop's reset: costs no logic
            m.d.sync += base.eq(0)

        done, beat = Signal(), Signal.like(self.beat, reset_less=True)
        total = Signal(row, reset_less=True)
        m.d.sync += [done.eq(self.valid), beat.eq(self.beat)]
        for lane in range(lanes):
            value = base[lane]
            for term in self.terms[lane]:
                value = value + term
            m.d.sync += total[lane].eq(value)
        m.d.comb += [
            write.addr.eq(beat.address),
            write.data.eq(total),
            write.en.eq(done & ~beat.final),
        ]

        m.submodules.queue = queue = SyncFIFO(width=self.sums.payload.shape().size,
                                              depth=self.depth)
        result = Signal.like(self.sums.payload)
        m.d.comb += [
            result.sum.eq(total),
            result.last.eq(beat.last),
            queue.w_data.eq(result),
            queue.w_en.eq(done & beat.final),
            self.sums.payload.eq(queue.r_data),
            self.sums.valid.eq(queue.r_rdy),
            queue.r_en.eq(self.sums.ready),
        ]

        # Results on their way or waiting. `credit` lags by a cycle, so one place stays in reserve.
        owed = Signal(range(self.depth + 1))
        taken = self.sums.valid & self.sums.ready
        with m.If(self.promise & ~taken):
            m.d.sync += owed.eq(owed + 1)
        with m.If(~self.promise & taken):
            m.d.sync += owed.eq(owed - 1)
        m.d.sync += self.credit.eq(owed < self.depth - 1)
        return m
