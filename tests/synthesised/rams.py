# SPDX-License-Identifier: Apache-2.0
"""Memories of all widths that a block RAM has, and products: what cells.v has models of."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

#: Width and words of each: of a block RAM's modes the one that fits best.
SHAPES = {"ram1": (1, 16384), "ram2": (2, 8192), "ram4": (4, 4096), "ram9": (9, 2048), "ram18": (18, 1024),
          "ram36": (36, 512)}  # fmt: skip
TABLE = 18, 1024  # read only
BITS = 14


def contents(width: int, words: int) -> list[int]:
    """Initial contents."""
    return [(k * 0x9E3779B97F4A7C15 >> 7) & ((1 << width) - 1) for k in range(words)]


class Rams(wiring.Component):
    """Each memory is written and read at addresses of its own; one is a table; and a product with a register.

    What is read comes a cycle later, and is what was there before a write in the same cycle.
    """

    def __init__(self) -> None:
        members = {
            "at": In(BITS), "to": In(BITS), "data": In(36), "write": In(1), "read": In(1), "a": In(signed(18)),
            "b": In(signed(18)), "product": Out(signed(36)), "table": Out(TABLE[0]),
        }  # fmt: skip
        super().__init__(members | {name: Out(width) for name, (width, _) in SHAPES.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for name, (width, words) in {**SHAPES, "table": TABLE}.items():
            memory = Memory(shape=width, depth=words, init=contents(width, words))
            m.submodules[f"memory_{name}"] = memory
            read = memory.read_port()
            m.d.comb += [read.addr.eq(self.at), read.en.eq(self.read), getattr(self, name).eq(read.data)]
            if name != "table":
                write = memory.write_port()
                m.d.comb += [write.addr.eq(self.to), write.data.eq(self.data), write.en.eq(self.write)]
        a, b = Signal(signed(18)), Signal(signed(18))
        m.d.sync += [a.eq(self.a), b.eq(self.b), self.product.eq(a * b)]
        return m
