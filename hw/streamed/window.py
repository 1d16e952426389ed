# SPDX-License-Identifier: Apache-2.0
"""The host's window into external memory, a byte at a time."""

from __future__ import annotations

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.core_ports import BusSignature
from nomul.hw.ports import MemorySignature

__all__ = ["Window"]


class Window(wiring.Component):
    """Reads and writes bytes of a memory of words.

    The word of the latest access is kept, so reading on in it takes 3 cycles. A write goes to memory at once;
    one into another word reads that first. It ends when memory has acknowledged all writes, with an error if one
    of them failed meanwhile.

    Parameters
    ----------
    word_bytes : int
        A power of two.
    memory_bytes : int
        Size of the memory.

    Members
    -------
    bus : ``Out(BusSignature())``
        The lower 31 bits of an address.
    forget : ``In(1)``
        Others may have written.
    lost : ``In(1)``
        Memory does not answer; the access ends with an error.
    memory : ``Out(MemorySignature(word_bytes))``
    """

    def __init__(self, *, word_bytes: int, memory_bytes: int):
        self.word_bytes = word_bytes
        self.memory_bytes = memory_bytes
        super().__init__({
            "bus": Out(BusSignature()),
            "forget": In(1),
            "lost": In(1),
            "memory": Out(MemorySignature(word_bytes=word_bytes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.word_bytes.bit_length() - 1
        bus, memory = self.bus, self.memory
        offset = bus.address[:31]
        word = Signal(unsigned(8 * self.word_bytes), reset_less=True)
        kept, at = Signal(), Signal(31 - bits)
        writing, bad = Signal(), Signal()
        tells = Signal()  # that it writes
        byte = offset[:bits]
        command = memory.command.payload
        m.d.comb += [
            command.address.eq(at),
            command.last.eq(0),
            command.write.eq(tells),
            bus.read_data.eq(word.word_select(byte, 8) if bits else word),
            memory.write.payload.eq(word),
        ]

        def give_up() -> None:
            """Last in a state that waits for memory."""
            with m.If(self.lost):
                m.d.sync += [bad.eq(1), kept.eq(0)]
                m.next = "DONE"

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [writing.eq(bus.write), bad.eq(offset >= self.memory_bytes)]
                with m.If(bus.read | bus.write):
                    m.next = "LOOK"
            with m.State("LOOK"):
                m.d.sync += at.eq(offset[bits:])
                with m.If(bad):
                    m.next = "DONE"
                with m.Elif(kept & (at == offset[bits:])):
                    m.next = "HAVE"
                with m.Else():
                    m.d.sync += kept.eq(0)
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += memory.command.valid.eq(1)
                with m.If(memory.command.ready):
                    m.next = "WAIT"
                give_up()
            with m.State("WAIT"):
                with m.If(memory.read_valid):
                    m.d.sync += [
                        word.eq(memory.read_data),
                        kept.eq(~memory.read_error),
                        bad.eq(memory.read_error),
                    ]
                    m.next = "HAVE"
                    with m.If(memory.read_error):
                        m.next = "DONE"
                give_up()
            with m.State("HAVE"):
                m.next = "DONE"
                with m.If(writing):
                    for k in range(self.word_bytes):
                        with m.If(byte == k):
                            m.d.sync += word.word_select(k, 8).eq(bus.write_data)
                    m.next = "TELL"
            with m.State("TELL"):
                m.d.comb += [memory.command.valid.eq(1), tells.eq(1)]
                with m.If(memory.command.ready):
                    m.next = "WRITE"
                give_up()
            with m.State("WRITE"):
                m.d.comb += memory.write.valid.eq(1)
                with m.If(memory.write.ready):
                    m.next = "SETTLE"
                give_up()
            with m.State("SETTLE"):
                with m.If(~memory.unacknowledged):
                    m.next = "DONE"
                with m.If(memory.write_error):
                    m.d.sync += [bad.eq(1), kept.eq(0)]
                give_up()
            with m.State("DONE"):
                m.d.comb += [bus.done.eq(1), bus.error.eq(bad)]
                m.next = "IDLE"
        with m.If(self.forget):
            m.d.sync += kept.eq(0)
        return m
