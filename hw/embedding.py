# SPDX-License-Identifier: Apache-2.0
"""Embedding rows on chip: the memory and what reads a row of it."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import REGION_SHIFT

from .core_ports import BusSignature
from .memory import Slice, answer, block_ram, positive
from .ports import RowLayout, RowRequestLayout

__all__ = ["EmbeddingMemory"]

_BANK_BITS = 11  # a DP16KD holds 2048 bytes
_SCALE_BYTES = 2


class EmbeddingMemory(wiring.Component):
    """Embeddings, and rows of them as a stream.

    The row of a token begins at byte ``token · stride``: two bytes of scale (unsigned, little
    endian), then elements of one signed byte. Lanes are read in turns, so a row element comes every
    ``L`` cycles. Elements from beyond the memory are undefined.

    Parameters
    ----------
    size : int
        Bytes.
    lanes : int
        ``L``.

    Members
    -------
    request : ``In(stream.Signature(RowRequestLayout(lanes)))``
        A request is taken when the last element of the one before it was.
    rows : ``Out(stream.Signature(RowLayout(lanes)))``
        Scales hold for the whole row.
    bus : ``Out(BusSignature())``
        4 cycles; while no row is read.
    """

    def __init__(self, *, size: int, lanes: int = 1):
        positive("EmbeddingMemory", size=size, lanes=lanes)
        if size > 1 << REGION_SHIFT:
            raise ValueError(f"EmbeddingMemory: size is {size}; a region holds 2^{REGION_SHIFT}")
        self.size = size
        self.lanes = lanes
        super().__init__(
            {
                "request": In(stream.Signature(RowRequestLayout(lanes))),
                "rows": Out(stream.Signature(RowLayout(lanes))),
                "bus": Out(BusSignature()),
            }
        )

    def cycles(self, elements: int) -> int:
        """Cycles from a request taken to the last element offered, without stalls."""
        return 6 + (_SCALE_BYTES + elements) * self.lanes

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = max(1, (self.size - 1).bit_length())
        touched = self.bus.read | self.bus.write
        offset = self.bus.address[:REGION_SHIFT]
        valid = offset < self.size
        answer(m, self.bus, valid=valid, latency=4)

        # Addresses: byte 0 of each lane, byte 1, … of the rows.
        asked, elements = self.request.payload, len(self.request.payload.elements)
        accept, reading = Signal(), Signal()
        left = Signal(elements)  # elements to be taken
        rest = Signal(elements + 1)  # bytes of each lane to be addressed
        pointers = Signal(data.ArrayLayout(unsigned(bits), self.lanes))
        m.submodules.slice = near = Slice(shape=data.ArrayLayout(unsigned(8), self.lanes))
        go = near.i.ready
        tag = data.StructLayout(
            {"valid": 1, "low": 1, "high": 1, "lane": range(max(2, self.lanes))}
        )
        at = Signal(bits)
        tags = [Signal(tag, name=f"tag{k}") for k in range(4)]  # address, block RAM, bank, byte
        to_low, to_high = Signal(), Signal()
        lane = Signal(range(max(2, self.lanes)))
        last_lane = lane == self.lanes - 1
        m.d.comb += [
            self.request.ready.eq(left == 0),
            accept.eq(self.request.valid & self.request.ready),
            reading.eq(rest != 0),
        ]
        with m.If(go):
            m.d.sync += [b.eq(a) for a, b in pairwise(tags)]
            m.d.sync += tags[0].valid.eq(reading)
        with m.If(go & reading):
            m.d.sync += [
                at.eq(pointers[lane]),
                pointers[lane].eq(pointers[lane] + 1),
                tags[0].low.eq(to_low),
                tags[0].high.eq(to_high),
                tags[0].lane.eq(lane),
                lane.eq(Mux(last_lane, 0, lane + 1)),
            ]
            with m.If(last_lane):
                m.d.sync += [rest.eq(rest - 1), to_low.eq(0), to_high.eq(to_low)]
        with m.If(touched):
            m.d.sync += [at.eq(offset), tags[0].valid.eq(0)]
        starts = [Signal(bits, name=f"start_{k}", reset_less=True) for k in range(self.lanes)]
        begin = Signal()
        m.d.sync += begin.eq(accept)
        m.d.sync += [s.eq(t * asked.stride) for s, t in zip(starts, asked.token, strict=True)]
        with m.If(begin):
            m.d.sync += [
                rest.eq(left + _SCALE_BYTES),
                to_low.eq(1),
                to_high.eq(0),
                lane.eq(0),
                *(pointer.eq(start) for pointer, start in zip(pointers, starts, strict=True)),
            ]
        with m.If(accept):
            m.d.sync += left.eq(asked.elements)
        with m.Elif(self.rows.valid & self.rows.ready):
            m.d.sync += left.eq(left - 1)

        # Banks, each with a register behind it; then the byte.
        writing, write_data = Signal(), Signal(8)
        write_at = Signal.like(at)
        m.d.sync += [
            writing.eq(self.bus.write & valid),
            write_at.eq(offset),
            write_data.eq(self.bus.write_data),
        ]
        depth = 1 << _BANK_BITS
        banks = []
        for base in range(0, self.size, depth):
            number = base >> _BANK_BITS
            ram = block_ram(
                m, f"bank{number}", shape=unsigned(8), depth=min(depth, self.size - base)
            )
            get, put = ram.read_port(), ram.write_port()
            out = Signal(8, name=f"out{number}", reset_less=True)
            m.d.comb += [
                get.addr.eq(at),
                get.en.eq(go & ~writing),
                put.addr.eq(write_at),
                put.en.eq(writing & (write_at >> _BANK_BITS == number)),
                put.data.eq(write_data),
            ]
            with m.If(go):
                m.d.sync += out.eq(get.data)
            banks.append(out)
        byte = Signal(8)
        number, chosen = Signal(range(max(2, len(banks)))), Signal(len(banks))  # chosen is one-hot
        picked: Value | int = 0
        for select, out in zip(chosen, banks, strict=True):
            picked = picked | Mux(select, out, 0)
        with m.If(go):
            m.d.sync += [number.eq(at >> _BANK_BITS), chosen.eq(1 << number), byte.eq(picked)]
        m.d.comb += self.bus.read_data.eq(byte)

        # Bytes of all lanes to a row element.
        got = tags[-1]
        values = Signal(data.ArrayLayout(unsigned(8), self.lanes))  # the last lane's goes past it
        scales = Signal(data.ArrayLayout(unsigned(8 * _SCALE_BYTES), self.lanes))
        with m.If(go & got.valid):
            m.d.sync += values[got.lane].eq(byte)
            with m.If(got.low):
                m.d.sync += scales[got.lane][:8].eq(byte)
            with m.If(got.high):
                m.d.sync += scales[got.lane][8:].eq(byte)
        m.d.comb += [
            near.i.valid.eq(got.valid & ~got.low & ~got.high & (got.lane == self.lanes - 1)),
            near.i.payload.eq(values),
            near.i.payload[self.lanes - 1].eq(byte),
            near.o.ready.eq(self.rows.ready),
            self.rows.valid.eq(near.o.valid),
            self.rows.payload.value.as_value().eq(near.o.payload.as_value()),
            self.rows.payload.scale.eq(scales),
        ]
        return m
