# SPDX-License-Identifier: Apache-2.0
"""From a memory port to LiteDRAM's native port."""

from __future__ import annotations

from amaranth.hdl import Module, Signal
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.hw.memory import Skid
from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout, MemorySignature

__all__ = ["NativePort", "NativeSignature"]

_WRITES = 16  # words that wait for their place on the pins


class NativeSignature(wiring.Signature):
    """LiteDRAM's native port, seen from who asks; a word of the memory with every command.

    Parameters
    ----------
    address_bits : int
        Of word addresses.
    word_bytes : int

    Members
    -------
    cmd_valid, cmd_ready, cmd_we, cmd_addr
        A stream of commands; ``cmd_we`` of writes.
    wdata_ready : ``In(1)``
        The word of the oldest write without one is taken: it must be on ``wdata_data``.
    wdata_data : ``Out(8 · B)``
    rdata_valid : ``In(1)``
        The word of the oldest read is on ``rdata_data``, for this cycle only.
    rdata_data : ``In(8 · B)``
    """

    def __init__(self, *, address_bits: int, word_bytes: int) -> None:
        super().__init__({
            "cmd_valid": Out(1),
            "cmd_ready": In(1),
            "cmd_we": Out(1),
            "cmd_addr": Out(address_bits),
            "wdata_ready": In(1),
            "wdata_data": Out(8 * word_bytes),
            "rdata_valid": In(1),
            "rdata_data": In(8 * word_bytes),
        })


class NativePort(wiring.Component):
    """Makes words of bursts: one in every cycle in which the controller takes one, bursts without gaps.

    A command is offered :attr:`latency` cycles after it was taken; writes wait until their word is here as
    well, since the controller takes it without asking. Words that were read are passed on in the same cycle,
    and nothing counts them: who asks has room. There are no errors, so nothing is ``unacknowledged``. Nothing is
    offered while ``enable`` is low.

    Parameters
    ----------
    word_bytes : int
        ``B``, a power of two.
    address_bits : int
        Of the controller's word addresses, up to 32; higher bits of an address are ignored.

    Attributes
    ----------
    latency : int
        Cycles from a command to its first word's, if nothing waits.

    Members
    -------
    memory : ``In(MemorySignature(word_bytes=B))``
    native : ``Out(NativeSignature(address_bits=address_bits, word_bytes=B))``
    enable : ``In(1)``
    """

    latency = 1

    def __init__(self, *, word_bytes: int, address_bits: int):
        if word_bytes < 1 or word_bytes & word_bytes - 1:
            raise ValueError(f"NativePort: word_bytes is {word_bytes}, not a power of two")
        if not 1 <= address_bits <= 32:
            raise ValueError(f"NativePort: address_bits is {address_bits}; 1 to 32")
        self.word_bytes = word_bytes
        self.address_bits = address_bits
        super().__init__({
            "memory": In(MemorySignature(word_bytes=word_bytes)),
            "native": Out(NativeSignature(address_bits=address_bits, word_bytes=word_bytes)),
            "enable": In(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        memory, native = self.memory, self.native

        m.submodules.commands = commands = Skid(shape=MemoryCommandLayout)
        connect(m, flipped(memory.command), commands.i)
        burst = commands.o.payload
        address, left = Signal(self.address_bits), Signal(range(BURST_WORDS))
        busy, write = Signal(), Signal()
        taken = native.cmd_valid & native.cmd_ready
        last = left == 0
        m.d.comb += commands.o.ready.eq(~busy | taken & last)
        with m.If(taken):
            m.d.sync += [address.eq(address + 1), left.eq(left - 1)]
        with m.If(commands.o.ready):
            m.d.sync += [
                busy.eq(commands.o.valid),
                write.eq(burst.write),
                address.eq(burst.address),
                left.eq(burst.last),
            ]

        # Words of writes, and how many of them no command was offered for.
        m.submodules.writes = writes = fifo.SyncFIFO(width=8 * self.word_bytes, depth=_WRITES)
        free = Signal(range(_WRITES + 1))
        m.d.sync += free.eq(free + (writes.w_en & writes.w_rdy) - (taken & write))
        m.d.comb += [
            writes.w_data.eq(memory.write.payload),
            writes.w_en.eq(memory.write.valid),
            memory.write.ready.eq(writes.w_rdy),
            writes.r_en.eq(native.wdata_ready),
            native.wdata_data.eq(writes.r_data),
            native.cmd_valid.eq(busy & self.enable & (~write | (free != 0))),
            native.cmd_we.eq(write),
            native.cmd_addr.eq(address),
            memory.read_valid.eq(native.rdata_valid),
            memory.read_data.eq(native.rdata_data),
        ]
        return m
