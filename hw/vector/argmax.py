# SPDX-License-Identifier: Apache-2.0
"""Arg-max of the logits, one a cycle."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import TOKEN_BITS

from .turns import LaneRegister, TagLayout

__all__ = ["ArgMax"]


class ArgMax(wiring.Component):
    """Index of the largest of a sequence, the smallest index of equals; a result a lane.

    Parameters
    ----------
    lanes : int
        They take turns (:mod:`.turns`).
    width : int
        Bits of a value.

    Attributes
    ----------
    latency : int
        Cycles from the last value until ``best`` is right.

    Members
    -------
    start : ``In(1)``
        A sequence begins with the next value.
    valid : ``In(1)``
    value : ``In(signed(width))``
    tag : ``In(TagLayout(lanes))``
    index : ``Out(16)``
        Of the value at the input, in its lane.
    best : ``Out(ArrayLayout(16, lanes))``
        Stands until the next sequence begins.
    """

    latency = 2

    def __init__(self, *, lanes: int, width: int):
        if lanes < 1 or width < 1:
            raise ValueError(f"ArgMax takes at least 1 lane of 1 bit, not {lanes} of {width}")
        self.lanes = lanes
        self.width = width
        super().__init__({
            "start": In(1),
            "valid": In(1),
            "value": In(signed(width)),
            "tag": In(TagLayout(lanes)),
            "index": Out(TOKEN_BITS),
            "best": Out(data.ArrayLayout(TOKEN_BITS, lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        valid, index = Signal(), Signal.like(self.index)
        value = Signal(signed(self.width), reset_less=True)
        tag = Signal(TagLayout(self.lanes), reset_less=True)
        m.d.sync += [
            valid.eq(self.valid), index.eq(self.index), value.eq(self.value), tag.eq(self.tag)
        ]  # fmt: skip
        with m.If(self.valid):
            m.d.sync += self.index.eq(self.index + 1)
        if self.lanes == 1:
            first = Signal()
            most = Signal(signed(self.width), reset_less=True)
            with m.If(valid):
                m.d.sync += first.eq(0)
            with m.If(self.start):
                m.d.sync += [first.eq(1), self.index.eq(0)]
            with m.If(valid & (first | (value > most))):
                m.d.sync += [most.eq(value), self.best[0].eq(index)]
            return m

        turn = Signal.like(self.index)  # where the turn began
        with m.If(self.valid & self.tag.last):
            following = Mux(self.tag.lane == self.lanes - 1, self.index + 1, turn)
            m.d.sync += [self.index.eq(following), turn.eq(following)]
        m.submodules.most = most = LaneRegister(
            shape=signed(self.width), lanes=self.lanes, empty=-(1 << self.width - 1)
        )
        m.d.comb += [
            most.start.eq(self.start),
            most.enter.eq(self.valid & self.tag.first),
            most.enter_lane.eq(self.tag.lane),
            most.leave.eq(valid & tag.last),
            most.lane.eq(tag.lane),
            most.change.eq(valid & (value > most.value)),
            most.changed.eq(value),
        ]
        with m.If(most.change):
            m.d.sync += self.best[tag.lane].eq(index)
        with m.If(self.start):  # nothing is less than the least value, which then is at 0
            m.d.sync += [self.index.eq(0), turn.eq(0), self.best.as_value().eq(0)]
        return m
