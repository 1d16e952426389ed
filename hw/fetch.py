# SPDX-License-Identifier: Apache-2.0
"""Fetches a program from its memory and decodes it, ahead of what executes it."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model import isa
from nomul.model.isa import INSTRUCTION_BYTES, OPCODE_BITS, Mode, Part, Statistic

__all__ = [
    "KINDS",
    "PROGRAM_LATENCY",
    "STREAMED_KINDS",
    "Fetch",
    "InstructionLayout",
    "ProgramSignature",
    "decode",
    "field",
]

WORD_BITS = 8 * INSTRUCTION_BYTES

#: Cycles from an address to its instruction.
PROGRAM_LATENCY = 3

#: What a valid instruction is, one of these.
KINDS = ("scalar", "stat", "embed", "quant", "pass", "tile", "end")

#: What else it may be in a core that streams its model.
STREAMED_KINDS = (*KINDS, "load", "stream", "base", "recall", "keep")

_OF_KIND: dict[str, tuple[type[isa.Instruction], ...]] = {
    "scalar": (isa.Const, isa.Mul, isa.Add, isa.Recip, isa.Rsqrt),
    "stat": (isa.Stat,),
    "embed": (isa.Embed,),
    "quant": (isa.Quant,),
    "pass": (isa.Pass,),
    "tile": (isa.Tile,),
    "end": (isa.End,),
    "load": (isa.Load,),
    "stream": (isa.Stream,),
    "base": (isa.Base,),
    "recall": (isa.Recall,),
    "keep": (isa.Keep,),
}

_DEPTH = 16  # more than the cycles from room for an instruction to the instruction


class ProgramSignature(wiring.Signature):
    """A port of program memory that reads in every cycle.

    Members
    -------
    address : ``Out(range(words))``
    data : ``In(64)``
        The instruction at what ``address`` was :data:`PROGRAM_LATENCY` cycles ago.
    """

    def __init__(self, *, words: int) -> None:
        super().__init__({"address": Out(range(words)), "data": In(WORD_BITS)})


def field(word: Value, kind: type, name: str) -> Value:
    """Bits of an instruction's field."""
    for member, low, width, is_signed in isa.layout(kind):
        if member == name:
            bits = word[low : low + width]
            return bits.as_signed() if is_signed else bits
    raise KeyError(f"{kind.__name__} has no field {name}")


def InstructionLayout(kinds: Sequence[str]) -> data.StructLayout:
    """A decoded instruction: its word; ``bad``, or its kind; ``ra``, the register that it reads."""
    return data.StructLayout(
        {"word": WORD_BITS, "ra": range(isa.REGISTERS), **dict.fromkeys(("bad", *kinds), 1)}
    )


def decode(m: Module, word: Value, outside: Value, kinds: Sequence[str]) -> Signal:
    """What an instruction is, an ``InstructionLayout(kinds)``; ``bad`` if none of these, or ``outside``."""
    opcode = word[:OPCODE_BITS]
    made = Signal(InstructionLayout(kinds))
    is_kind = {
        kind: opcode.matches(*(instruction.OPCODE for instruction in _OF_KIND[kind]))
        for kind in kinds
    }
    bad = (
        outside
        | ~Cat(is_kind.values()).any()
        | (opcode == isa.Pass.OPCODE) & (field(word, isa.Pass, "mode") > max(Mode))
        | (opcode == isa.Stat.OPCODE) & (field(word, isa.Stat, "statistic") > max(Statistic))
        | (opcode == isa.Base.OPCODE) & (field(word, isa.Base, "part") > max(Part))
    )
    m.d.comb += [made.word.eq(word), made.bad.eq(bad)]
    m.d.comb += [made[kind].eq(is_kind[kind] & ~bad) for kind in kinds]
    with m.If(is_kind["quant"]):
        m.d.comb += made.ra.eq(field(word, isa.Quant, "rs"))
    with m.Elif(is_kind["pass"]):
        m.d.comb += made.ra.eq(field(word, isa.Pass, "rs"))
    with m.Else():
        m.d.comb += made.ra.eq(field(word, isa.Mul, "ra"))
    return made


class Fetch(wiring.Component):
    """The instructions of a program in order, from the first after a reset; up to 17 are waiting.

    What lies behind the end of program memory is ``bad``. One instruction a cycle, the first
    :attr:`latency` cycles after the reset.

    Parameters
    ----------
    words : int
        Size of program memory in instructions, at least 2.

    Attributes
    ----------
    latency : int
        Cycles from the last one of a reset to the first instruction offered.

    Members
    -------
    program : ``Out(ProgramSignature(words=words))``
    o : ``Out(stream.Signature(InstructionLayout(KINDS)))``
    """

    latency = PROGRAM_LATENCY + 5

    def __init__(self, *, words: int):
        self.words = words
        self.queue = fifo.SyncFIFO(width=InstructionLayout(KINDS).size, depth=_DEPTH)
        self.room = Signal(range(_DEPTH + 1), init=_DEPTH)
        self.coming = Signal(PROGRAM_LATENCY + 2)
        self.freed = Signal()
        super().__init__(
            {
                "program": Out(ProgramSignature(words=words)),
                "o": Out(stream.Signature(InstructionLayout(KINDS))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Every instruction on its way has its place in the queue.
        pc = Signal(range(self.words + 1))
        beyond = pc == self.words
        queue, room, coming, freed = self.queue, self.room, self.coming, self.freed
        ask, outside = room != 0, Signal(PROGRAM_LATENCY + 1)
        m.d.comb += self.program.address.eq(pc)
        m.d.sync += [
            pc.eq(pc + (ask & ~beyond)),
            room.eq(room - ask + freed),
            coming.eq(Cat(ask, coming)),
            outside.eq(Cat(beyond, outside)),
        ]

        near = Signal(WORD_BITS, reset_less=True)  # block RAMs may be far away
        decoded = Signal(InstructionLayout(KINDS), reset_less=True)
        m.submodules.queue = queue
        m.d.sync += [
            near.eq(self.program.data),
            decoded.eq(decode(m, near, outside[-1], KINDS)),
            freed.eq(queue.r_en & queue.r_rdy),
        ]
        m.d.comb += [
            queue.w_data.eq(decoded),
            queue.w_en.eq(coming[-1]),
            queue.r_en.eq(~self.o.valid | self.o.ready),
        ]
        with m.If(queue.r_en):
            m.d.sync += [self.o.valid.eq(queue.r_rdy), self.o.payload.eq(queue.r_data)]
        return m
