# SPDX-License-Identifier: Apache-2.0
"""Arg-max of the logits, one a cycle."""

from __future__ import annotations

from amaranth import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import TOKEN_BITS

__all__ = ["ArgMax"]


class ArgMax(wiring.Component):
    """Index of the largest of a sequence, the smallest index of equals; a result a lane.

    Parameters
    ----------
    lanes : int
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
    value : ``In(ArrayLayout(signed(width), lanes))``
    index : ``Out(16)``
        Of the value at the input.
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
            "value": In(data.ArrayLayout(signed(width), lanes)),
            "index": Out(TOKEN_BITS),
            "best": Out(data.ArrayLayout(TOKEN_BITS, lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, valid, index = Signal(), Signal(), Signal.like(self.index)
        m.d.sync += [valid.eq(self.valid), index.eq(self.index)]
        with m.If(self.valid):
            m.d.sync += self.index.eq(self.index + 1)
        with m.If(valid):
            m.d.sync += first.eq(0)
        with m.If(self.start):
            m.d.sync += [first.eq(1), self.index.eq(0)]
        for lane in range(self.lanes):
            value, most = (
                Signal(signed(self.width), name=f"{name}_{lane}", reset_less=True)
                for name in ("value", "most")
            )
            m.d.sync += value.eq(self.value[lane])
            with m.If(valid & (first | (value > most))):
                m.d.sync += [most.eq(value), self.best[lane].eq(index)]
        return m
