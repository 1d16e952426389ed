# SPDX-License-Identifier: Apache-2.0
"""Norm memory that is written from the weight stream, a beat a cycle."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In

from nomul.hw.memory import positive
from nomul.hw.ports import NORM_LATENCY, NormLayout, NormSignature

from .distributor import NormWriteSignature

__all__ = ["StreamedNormMemory"]


class StreamedNormMemory(wiring.Component):
    """Words of four norm weights; rows of as many words as a beat has are written at once.

    Two copies in block RAM, one for each reader. Nobody reads a row in the cycle in which it is written.

    Parameters
    ----------
    words : int
    row : int
        Words of a row, a power of two.

    Members
    -------
    write : ``In(NormWriteSignature)``
    a, b : ``In(NormSignature())``
        Latency :data:`~nomul.hw.ports.NORM_LATENCY`.
    """

    def __init__(self, *, words: int, row: int):
        positive("StreamedNormMemory", words=words, row=row)
        if row & (row - 1):
            raise ValueError(f"StreamedNormMemory: row is {row}; it must be a power of two")
        self.words = words
        self.row = row
        super().__init__({
            "write": In(NormWriteSignature(row=row)),
            "a": In(NormSignature()),
            "b": In(NormSignature()),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.row.bit_length() - 1
        layout = data.ArrayLayout(NormLayout, self.row)
        depth = max(2, -(-self.words // self.row))
        assert NORM_LATENCY == 2  # block RAM, and the register behind it
        for name in "ab":
            reader = getattr(self, name)
            m.submodules[name] = ram = memory.Memory(
                shape=layout, depth=depth, init=[],
                attrs={"ram_style": "block", "no_rw_check": 1},
            )  # fmt: skip
            get, put = ram.read_port(), ram.write_port()
            out = Signal(layout, name=f"out_{name}", reset_less=True)
            m.d.comb += [
                get.addr.eq(reader.address >> bits),
                put.addr.eq(self.write.address >> bits),
                put.data.eq(self.write.words),
                put.en.eq(self.write.valid),
            ]
            m.d.sync += out.eq(get.data)
            word = out[0]
            if self.row > 1:
                at = Signal(bits, name=f"at_{name}")
                near = Signal(bits, name=f"near_{name}")
                m.d.sync += [at.eq(reader.address[:bits]), near.eq(at)]
                word = out[near]
            m.d.comb += reader.data.as_value().eq(word.as_value())
        return m
