# SPDX-License-Identifier: Apache-2.0
"""The walk through a tile: which beat is next, and whether it may be taken."""

from __future__ import annotations

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
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
        command = data.StructLayout({"tile": TileLayout, "one_output": 1, "one_chunk": 1})
        waiting, is_waiting = Signal(command, reset_less=True), Signal()
        now, active = Signal(command, reset_less=True), Signal()

        # Counters run from 2, so that "the beat after the next is number N" needs no subtraction:
        # `last` is known one beat ahead. An accumulator's address may begin anywhere.
        output = Signal.like(now.tile.outputs, init=2)
        chunk = Signal.like(now.tile.chunks, init=2)
        first, final, last = Signal(init=1), Signal(), Signal()

        # Chunks of one tile start HAZARD cycles apart: see Accumulate.
        begin, resume = Signal(init=1), Signal()  # at a chunk's first beat; of a later chunk
        begun = Signal(unsigned(HAZARD - 1))
        m.d.sync += begun.eq(begun << 1 | (self.fire & begin))
        m.d.comb += [
            self.ready.eq(active & self.available & (self.credit | ~final)
                          & ~(resume & begun.any())),
            self.fire.eq(self.valid & self.ready),
            self.end.eq(self.fire & last),
            self.beat.address.eq(output),
            self.beat.first.eq(first),
            self.beat.final.eq(final),
            self.beat.last.eq(last),
        ]
        with m.If(self.fire):
            m.d.sync += [
                begin.eq(last),
                resume.eq(last & ~final),
                output.eq(output + 1),
                last.eq(output == now.tile.outputs),
            ]
        with m.If(self.end):
            m.d.sync += [
                output.eq(output.init),
                last.eq(now.one_output),
                chunk.eq(Mux(final, chunk.init, chunk + 1)),
                first.eq(final),
                final.eq(chunk == now.tile.chunks),
            ]
        with m.If(~active | (self.end & final)):
            m.d.sync += [
                now.eq(waiting),
                active.eq(is_waiting),
                is_waiting.eq(0),
                last.eq(waiting.one_output),
                final.eq(waiting.one_chunk),
            ]
        m.d.comb += self.tile.ready.eq(~is_waiting)
        with m.If(self.tile.valid & self.tile.ready):
            m.d.sync += [
                waiting.tile.eq(self.tile.payload),
                waiting.one_output.eq(self.tile.payload.outputs == 1),
                waiting.one_chunk.eq(self.tile.payload.chunks == 1),
                is_waiting.eq(1),
            ]
        return m
