# SPDX-License-Identifier: Apache-2.0
"""Embedding rows on chip: the memory and what reads a row of it."""

from __future__ import annotations

from itertools import pairwise

from amaranth.hdl import Module, Mux, Signal, Value, signed, unsigned
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
    endian), then elements of one signed byte. The rows of the lanes are read one behind the other,
    each when the last element of the one before was taken.
    Elements from beyond the memory are undefined.

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
    rows : ``Out(stream.Signature(RowLayout))``
        All elements of lane 0, all of lane 1, and so on.
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
                "rows": Out(stream.Signature(RowLayout)),
                "bus": Out(BusSignature()),
            }
        )

    def cycles(self, elements: int) -> int:
        """Cycles from a request taken to the last element offered, without stalls."""
        return (7 + _SCALE_BYTES + elements) * self.lanes - 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = max(1, (self.size - 1).bit_length())
        touched = self.bus.read | self.bus.write
        offset = self.bus.address[:REGION_SHIFT]
        valid = offset < self.size
        answer(m, self.bus, valid=valid, latency=4)

        # Addresses: the bytes of lane 0's row, of lane 1's, …
        asked, elements = self.request.payload, len(self.request.payload.elements)
        accept, reading = Signal(), Signal()
        count = Signal(elements)
        token, stride = Signal.like(asked.token[0]), Signal.like(asked.stride)  # of a row to begin
        left = Signal(elements)  # elements of a row to be taken
        rest = Signal(elements + 1)  # bytes of a row to be addressed
        pointer = Signal(bits)
        m.submodules.slice = near = Slice(shape=signed(8))
        go = near.i.ready
        tag = data.StructLayout({"valid": 1, "low": 1, "high": 1})
        at = Signal(bits)
        tags = [Signal(tag, name=f"tag{k}") for k in range(4)]  # address, block RAM, bank, byte
        to_low, to_high = Signal(), Signal()
        m.d.comb += reading.eq(rest != 0)
        if self.lanes == 1:
            m.d.comb += [
                self.request.ready.eq(left == 0),
                accept.eq(self.request.valid & self.request.ready),
                token.eq(asked.token[0]),
                stride.eq(asked.stride),
                count.eq(asked.elements),
            ]
        else:
            later = Signal(asked.shape(), reset_less=True)  # rows of further lanes, the next one first
            waiting = Signal(range(self.lanes))
            new = Signal()
            m.d.comb += [
                self.request.ready.eq((left == 0) & (waiting == 0)),
                new.eq(self.request.valid & self.request.ready),
                accept.eq(new | ((left == 0) & (waiting != 0))),
                token.eq(Mux(new, asked.token[0], later.token[0])),
                stride.eq(Mux(new, asked.stride, later.stride)),
                count.eq(Mux(new, asked.elements, later.elements)),
            ]
            with m.If(accept):
                m.d.sync += waiting.eq(waiting - 1)
                m.d.sync += [
                    later.token[k - 1].eq(Mux(new, asked.token[k], later.token[k]))
                    for k in range(1, self.lanes)
                ]
            with m.If(new):
                m.d.sync += [
                    waiting.eq(self.lanes - 1),
                    later.stride.eq(asked.stride),
                    later.elements.eq(asked.elements),
                ]
        with m.If(go):
            m.d.sync += [b.eq(a) for a, b in pairwise(tags)]
            m.d.sync += tags[0].valid.eq(reading)
        with m.If(go & reading):
            m.d.sync += [
                at.eq(pointer),
                pointer.eq(pointer + 1),
                tags[0].low.eq(to_low),
                tags[0].high.eq(to_high),
                rest.eq(rest - 1),
                to_low.eq(0),
                to_high.eq(to_low),
            ]
        with m.If(touched):
            m.d.sync += [at.eq(offset), tags[0].valid.eq(0)]
        start = Signal(bits, reset_less=True)
        begin = Signal()
        m.d.sync += [begin.eq(accept), start.eq(token * stride)]
        with m.If(begin):
            m.d.sync += [
                rest.eq(left + _SCALE_BYTES),
                to_low.eq(1),
                to_high.eq(0),
                pointer.eq(start),
            ]
        with m.If(accept):
            m.d.sync += left.eq(count)
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

        # Bytes to elements and a scale.
        got = tags[-1]
        scale = Signal(8 * _SCALE_BYTES)
        with m.If(go & got.valid):
            with m.If(got.low):
                m.d.sync += scale[:8].eq(byte)
            with m.If(got.high):
                m.d.sync += scale[8:].eq(byte)
        m.d.comb += [
            near.i.valid.eq(got.valid & ~got.low & ~got.high),
            near.i.payload.eq(byte.as_signed()),
            near.o.ready.eq(self.rows.ready),
            self.rows.valid.eq(near.o.valid),
            self.rows.payload.value.eq(near.o.payload),
            self.rows.payload.scale.eq(scale),
        ]
        return m
