# SPDX-License-Identifier: Apache-2.0
"""The walk through a tile: which beat is next, and whether it may be taken."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import TileLayout

from .accumulate import HAZARD, beat_layout

__all__ = ["Walk"]


class Walk(wiring.Component):
    """Counts the beats of tiles and says what each is.

    ``ready`` depends on registers, ``available`` and ``credit`` only, not on ``valid``.

    Parameters
    ----------
    address : int
        Bits of an accumulator's address.

    Members
    -------
    tile : ``In(stream.Signature(TileLayout))``
        Commands; one waits here while its predecessor streams.
    available : ``In(1)``
        The activations of the current chunk may be used by a beat taken now.
    credit : ``In(1)``
        A result may be made.
    valid, ready : ``In(1)``, ``Out(1)``
        Of the weight stream.
    beat : ``Out(beat_layout(address))``
        What the beat that is taken now is.
    fire, end : ``Out(1)``
        A beat is taken; it is the last of its chunk.
    """

    def __init__(self, *, address: int) -> None:
        super().__init__({
            "tile": In(stream.Signature(TileLayout)),
            "available": In(1),
            "credit": In(1),
            "valid": In(1),
            "ready": Out(1),
            "beat": Out(beat_layout(address)),
            "fire": Out(1),
            "end": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        waiting, is_waiting = Signal(TileLayout, reset_less=True), Signal()
        now, active = Signal(TileLayout, reset_less=True), Signal()

        # Counters run from 2, so that "the beat after the next is number N" needs no subtraction:
        # `last` is known one beat ahead. An accumulator's address may begin anywhere.
        output = Signal.like(now.outputs, init=2)
        chunk = Signal.like(now.chunks, init=2)
        first, final, last = Signal(), Signal(), Signal()

        # Chunks of the same tile must start HAZARD cycles apart: see Accumulate.
        hold = Signal(unsigned(HAZARD - 1))
        held = Signal()
        begin = Signal(init=1)
        m.d.comb += [
            held.eq(begin & ~first & hold.any()),
            self.ready.eq(active & self.available & (self.credit | ~final) & ~held),
            self.fire.eq(self.valid & self.ready),
            self.end.eq(self.fire & last),
            self.beat.address.eq(output),
            self.beat.first.eq(first),
            self.beat.final.eq(final),
            self.beat.last.eq(last),
        ]
        m.d.sync += hold.eq(hold << 1 | (self.fire & begin))

        with m.If(self.fire):
            m.d.sync += [
                begin.eq(last),
                output.eq(output + 1),
                last.eq(output == now.outputs),
            ]
        with m.If(self.end):
            m.d.sync += [
                output.eq(output.init),
                last.eq(now.outputs == 1),
                chunk.eq(chunk + 1),
                first.eq(0),
                final.eq(chunk == now.chunks),
            ]
        over = Signal()
        m.d.comb += [
            over.eq(~active | (self.end & final)),
            self.tile.ready.eq(~is_waiting),
        ]
        with m.If(over):
            m.d.sync += [
                now.eq(waiting),
                active.eq(is_waiting),
                is_waiting.eq(0),
                last.eq(waiting.outputs == 1),
                final.eq(waiting.chunks == 1),
                first.eq(1),
                output.eq(output.init),
                chunk.eq(chunk.init),
            ]
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [waiting.eq(self.tile.payload), is_waiting.eq(1)]
        return m
