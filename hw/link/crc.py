# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""CRC-32 (IEEE 802.3), a byte a cycle."""

from functools import reduce
from operator import xor

from amaranth.hdl import Cat, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import CRC_POLYNOMIAL

__all__ = ["Crc32", "crc32_step"]


def crc32_step(register: int, byte: int) -> int:
    """The register after one more byte (no inversions): what one cycle of :class:`Crc32` does."""
    register ^= byte
    for _ in range(8):
        register = register >> 1 ^ (CRC_POLYNOMIAL if register & 1 else 0)
    return register


def _next(register: Value, byte: Value) -> Value:
    """:func:`crc32_step` as an XOR for each bit: the step is linear, so its columns tell all."""
    inputs = [*register, *byte]
    columns = [crc32_step(1 << k, 0) for k in range(32)] + [crc32_step(0, 1 << k) for k in range(8)]
    return Cat(
        reduce(xor, [x for x, column in zip(inputs, columns, strict=True) if column >> bit & 1])
        for bit in range(32)
    )


class Crc32(wiring.Component):
    """CRC register. ``clear`` wins over ``step`` over ``shift``; each acts at the next edge.

    Members
    -------
    clear : ``In(1)``
        Begin: all ones.
    step : ``In(1)``
        Take in ``byte``.
    byte : ``In(8)``
    shift : ``In(1)``
        Drop the low byte: four shifts read ``value`` out byte by byte.
    register : ``Out(32)``
        The bare register: ``CRC_RESIDUE`` after a frame that ends with its own CRC.
    value : ``Out(32)``
        The CRC of the bytes since ``clear``, as ``zlib.crc32`` has it.
    """

    clear: In(1)
    step: In(1)
    byte: In(8)
    shift: In(1)
    register: Out(32, init=0xFFFFFFFF)
    value: Out(32)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.value.eq(~self.register)
        with m.If(self.clear):
            m.d.sync += self.register.eq(0xFFFFFFFF)
        with m.Elif(self.step):
            m.d.sync += self.register.eq(_next(self.register, self.byte))
        with m.Elif(self.shift):
            m.d.sync += self.register.eq(self.register >> 8)
        return m
