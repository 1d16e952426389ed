# SPDX-License-Identifier: Apache-2.0
"""Vector memory: the residual streams and the product vectors, in rows of four."""

from __future__ import annotations

from typing import Any

from amaranth import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.numbers import SOURCE_BITS, VECTOR_LANES

__all__ = ["RowLayout", "VectorMemory", "block_ram"]

#: A row: four elements of one vector.
RowLayout = data.ArrayLayout(signed(SOURCE_BITS), VECTOR_LANES)


def block_ram(*, shape: Any, depth: int) -> memory.Memory:
    """A memory that is never read where it is written in the same cycle.

    yosys is told so: else it adds registers, a comparison and a multiplexer behind the block RAM,
    whose wide ports leave open what such a read gives.
    """
    return memory.Memory(shape=shape, depth=depth, init=[], attrs={"no_rw_check": 1})


class VectorMemory(wiring.Component):
    """Rows of four elements; written one element at a time, read a row at a time.

    Block RAM: one bank for each element of a row, 512 rows of a bank in each. What is written can
    be read by an address of the next cycle; a row must not be read in the cycle in which it is
    written.

    Parameters
    ----------
    rows : int

    Members
    -------
    write : ``In(1)``
    write_element : ``In(n)``
        Row times four plus place in the row.
    write_data : ``In(signed(32))``
    read_row : ``In(n)``
    read_data : ``Out(RowLayout)``
        Two cycles after ``read_row``.
    """

    def __init__(self, *, rows: int):
        if rows < 1:
            raise ValueError(f"VectorMemory has at least 1 row, not {rows}")
        self.rows = rows
        self.row_bits = max(1, (rows - 1).bit_length())
        super().__init__({
            "write": In(1),
            "write_element": In(self.row_bits + 2),
            "write_data": In(signed(SOURCE_BITS)),
            "read_row": In(self.row_bits),
            "read_data": Out(RowLayout),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        out = Signal(RowLayout, reset_less=True)  # the block RAMs' own registers
        m.d.comb += self.read_data.eq(out)
        for place in range(VECTOR_LANES):
            bank = block_ram(shape=signed(SOURCE_BITS), depth=self.rows)
            m.submodules[f"bank_{place}"] = bank
            write, read = bank.write_port(), bank.read_port()
            m.d.comb += [
                write.en.eq(self.write & (self.write_element[:2] == place)),
                write.addr.eq(self.write_element[2:]),
                write.data.eq(self.write_data),
                read.addr.eq(self.read_row),
            ]
            m.d.sync += out[place].eq(read.data)
        return m
