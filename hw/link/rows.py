# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""Says of a job's rows, before it begins, whether every token in them has a meaning."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import MAX_ENTRIES, SLOT_BITS

__all__ = ["RowChecker"]


class RowChecker(wiring.Component):
    """Takes the lanes of a job's rows one by one, and remembers which slots hold a state.

    A lane that feeds back must be active, its slot active in the row before and not fresh. A lane
    that is active must have a slot that there is; that slot must hold a state that goes on, unless it
    is fresh here or in an earlier lane. The outputs are right two cycles after a lane.

    Parameters
    ----------
    lanes : int
        ``L``, at least 1.
    slots : int
        Recurrent states, 1 to 256.

    Members
    -------
    begin : ``In(1)``
        The next lane is the first of a job.
    valid : ``In(1)``
        A lane: ``feed_back``, ``slot``, ``active``, ``fresh``.
    commit : ``In(1)``
        The job begins: from now on the slots it uses hold a state.
    spoil : ``In(1)``
        No slot holds a state any more. Wins over ``commit``.
    impossible : ``Out(1)``
        A lane has no meaning.
    gone : ``Out(1)``
        A lane goes on from a state that is gone.
    whole : ``Out(1)``
        The last row is complete.
    rows : ``Out``
        Complete rows.
    """

    def __init__(self, *, lanes: int, slots: int):
        if not 1 <= lanes <= MAX_ENTRIES:
            raise ValueError(f"RowChecker: lanes is {lanes}; it must be 1 to {MAX_ENTRIES}")
        if not 1 <= slots <= 1 << SLOT_BITS:
            raise ValueError(f"RowChecker: slots is {slots}; it must be 1 to {1 << SLOT_BITS}")
        self.lanes = lanes
        self.slots = slots
        super().__init__({
            "begin": In(1),
            "valid": In(1),
            "feed_back": In(1),
            "slot": In(SLOT_BITS),
            "active": In(1),
            "fresh": In(1),
            "commit": In(1),
            "spoil": In(1),
            "impossible": Out(1),
            "gone": Out(1),
            "whole": Out(1),
            "rows": Out(range(MAX_ENTRIES // lanes + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        # A cycle to decode the slot, one to judge.
        valid, feed_back, active, fresh = Signal(), Signal(), Signal(), Signal()
        bits = (self.slots - 1).bit_length()
        here = Signal(self.slots)  # one bit; none for a slot that is not there
        m.d.sync += [
            valid.eq(self.valid),
            feed_back.eq(self.feed_back),
            active.eq(self.active),
            fresh.eq(self.fresh),
            here.eq(Mux(self.active & (self.slot < self.slots), 1 << self.slot[:bits], 0)),
        ]

        resumable, pending = Signal(self.slots), Signal(self.slots)  # now; after the lanes so far
        before, now = Signal(self.slots), Signal(self.slots)  # active in the row before; in this one
        lane = Signal(range(max(2, self.lanes)))
        m.d.comb += self.whole.eq(lane == 0)
        with m.If(valid):
            m.d.sync += [
                self.impossible.eq(
                    self.impossible
                    | (active & ~here.any())
                    | (feed_back & (fresh | ~(before & here).any()))
                ),
                self.gone.eq(self.gone | (active & ~fresh & ~(pending & here).any())),
                pending.eq(pending | here),
                now.eq(now | here),
                lane.eq(lane + 1),
            ]
            with m.If(lane == self.lanes - 1):
                m.d.sync += [
                    lane.eq(0), self.rows.eq(self.rows + 1), before.eq(now | here), now.eq(0),
                ]
        with m.If(self.begin):
            m.d.sync += [
                pending.eq(resumable), before.eq(0), now.eq(0), lane.eq(0), self.rows.eq(0),
                self.impossible.eq(0), self.gone.eq(0),
            ]
        with m.If(self.spoil):
            m.d.sync += resumable.eq(0)
        with m.Elif(self.commit):
            m.d.sync += resumable.eq(pending)
        return m
