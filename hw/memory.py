# SPDX-License-Identifier: Apache-2.0
"""The on-chip memories of a core, each with a byte-wide side for the bus.

The bus is used while the core is idle, so it shares read ports with the core. Outputs of block RAMs
go to plain registers: what leaves a DP16KD comes 5.7 ns after the clock. Nothing that is read in a
cycle in which it is written is looked at; yosys is told so, or it would add logic for what happens
then.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from nomul.model.counters import COUNTER_BYTES
from nomul.model.image import plane_bits
from nomul.model.isa import INSTRUCTION_BYTES
from nomul.model.numbers import NORM_BITS, VECTOR_LANES
from nomul.model.protocol import ADDRESS_BITS, REGION_SHIFT, Region

from .core_ports import BusSignature
from .fetch import ProgramSignature
from .ports import LogitSignature, NormLayout, NormSignature, WeightLayout

__all__ = [
    "BusDecoder",
    "CounterMemory",
    "LogitsMemory",
    "NormMemory",
    "ProgramMemory",
    "Skid",
    "Slice",
    "WeightMemory",
    "answer",
    "block_ram",
    "positive",
]

LOGIT_BYTES = 4


def positive(owner: str, **parameters: int) -> None:
    """Refuses parameters below 1, naming owner, parameter and value."""
    for name, value in parameters.items():
        if value < 1:
            raise ValueError(f"{owner}: {name} is {value}; it must be at least 1")


def block_ram(m: Module, name: str, *, shape: Shape | int, depth: int) -> memory.Memory:
    """A memory that becomes block RAM."""
    attrs = {"ram_style": "block", "no_rw_check": 1}
    ram = memory.Memory(shape=shape, depth=depth, init=[], attrs=attrs)
    m.submodules[name] = ram
    return ram


def answer(m: Module, bus: wiring.PureInterface, *, valid: Value, latency: int) -> Signal:
    """Answers every access ``latency`` cycles after its strobe, with an error unless ``valid``.

    Returns the progress: bit ``k`` is high ``k + 1`` cycles after the strobe of a valid access.
    """
    going = Signal(latency, name="bus_going")
    wrong = Signal(latency, name="bus_wrong")
    strobe = bus.read | bus.write
    m.d.sync += [
        going.eq(Cat(strobe & valid, going)),
        wrong.eq(Cat(strobe & ~valid, wrong)),
    ]
    m.d.comb += [bus.done.eq(going[-1] | wrong[-1]), bus.error.eq(wrong[-1])]
    return going


class Skid(wiring.Component):
    """Tells the sender a cycle late that the receiver stalls: ``i.ready`` is a flip-flop.

    No latency, a beat in every cycle.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    """

    def __init__(self, *, shape: data.Layout | Shape):
        self.free = Signal(init=1)
        self.held = Signal(Shape.cast(shape).width, reset_less=True)
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        free, held = self.free, self.held
        arriving, leaving = Value.cast(self.i.payload), Value.cast(self.o.payload)
        m.d.comb += [
            self.i.ready.eq(free),
            self.o.valid.eq(~free | self.i.valid),
            leaving.eq(Mux(free, arriving, held)),
        ]
        with m.If(free):
            m.d.sync += [held.eq(arriving), free.eq(~self.i.valid | self.o.ready)]
        with m.Else():
            m.d.sync += free.eq(self.o.ready)
        return m


class Slice(wiring.Component):
    """Cuts a stream in both directions: ``valid``, payload and ``ready`` come from flip-flops.

    A cycle of latency, a beat in every cycle.

    Parameters
    ----------
    shape : ShapeLike
        Of the payload.

    Members
    -------
    i : ``In(stream.Signature(shape))``
    o : ``Out(stream.Signature(shape))``
    """

    def __init__(self, *, shape: data.Layout | Shape):
        self.skid = Skid(shape=shape)
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.skid = skid = self.skid
        connect(m, flipped(self.i), skid.i)
        m.d.comb += skid.o.ready.eq(~self.o.valid | self.o.ready)
        with m.If(skid.o.ready):
            m.d.sync += [self.o.valid.eq(skid.o.valid), self.o.payload.eq(skid.o.payload)]
        return m


class ProgramMemory(wiring.Component):
    """Instructions: word ``k`` at byte ``8·k``.

    Bus accesses take 4 cycles; the port reads nothing meanwhile.

    Parameters
    ----------
    words : int

    Members
    -------
    port : ``In(ProgramSignature(words=words))``
    bus : ``Out(BusSignature())``
    """

    def __init__(self, *, words: int):
        positive("ProgramMemory", words=words)
        self.words = words
        super().__init__(
            {
                "port": In(ProgramSignature(words=words)),
                "bus": Out(BusSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        ram = block_ram(m, "ram", shape=unsigned(8 * INSTRUCTION_BYTES), depth=self.words)
        read, write = ram.read_port(), ram.write_port(granularity=8)
        byte, word = _split(self.bus.address, INSTRUCTION_BYTES)
        going = answer(m, self.bus, valid=word < self.words, latency=4)
        at = Signal.like(self.port.address)
        out = Signal.like(self.port.data, reset_less=True)
        m.d.sync += [at.eq(Mux(going[0], word, self.port.address)), out.eq(read.data)]
        m.d.comb += [
            read.addr.eq(at),
            read.en.eq(~write.en.any()),
            self.port.data.eq(out),
            self.bus.read_data.eq(out.word_select(byte, 8)),
            write.addr.eq(word),
            write.data.eq(self.bus.write_data.replicate(INSTRUCTION_BYTES)),
        ]
        m.d.sync += write.en.eq(Mux(self.bus.write & (word < self.words), 1 << byte, 0))
        return m


class WeightMemory(wiring.Component):
    """Weights, streamed from the first beat on in every token.

    ``G`` memories of one byte, each a plane of the address space: byte ``g`` of beat ``b`` lies at
    ``g << plane_bits(depth) | b``. The first beat is offered 4 cycles after ``restart``, then one
    in every cycle in which the last was taken. ``o.ready`` reaches a few flip-flops only. Bus
    accesses take 5 cycles and end the stream until the next ``restart``.

    Parameters
    ----------
    bytes_per_beat : int
        ``G``.
    depth : int
        Beats.

    Members
    -------
    restart : ``In(1)``
        Drops what is on its way and begins with beat 0.
    o : ``Out(stream.Signature(WeightLayout(bytes_per_beat)))``
    bus : ``Out(BusSignature())``
    """

    def __init__(self, *, bytes_per_beat: int, depth: int):
        positive("WeightMemory", bytes_per_beat=bytes_per_beat, depth=depth)
        self.bytes_per_beat = bytes_per_beat
        self.depth = depth
        bits = plane_bits(depth)
        if bytes_per_beat << bits > 1 << REGION_SHIFT:
            raise ValueError(
                f"WeightMemory: {bytes_per_beat} planes of 2^{bits} bytes; "
                f"a region holds 2^{REGION_SHIFT}"
            )
        super().__init__(
            {
                "restart": In(1),
                "o": Out(stream.Signature(WeightLayout(bytes_per_beat))),
                "bus": Out(BusSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = plane_bits(self.depth)
        at = Signal(bits)  # straight to the block RAMs
        beat, plane = self.bus.address[:bits], self.bus.address[bits:REGION_SHIFT]
        valid = (plane < self.bytes_per_beat) & (beat < self.depth)
        going = answer(m, self.bus, valid=valid, latency=5)

        # Address, block RAM, its output register, a register on the way to the engine: all move
        # together unless the skid is full.
        touched = self.bus.read | self.bus.write
        skid = Skid(shape=WeightLayout(self.bytes_per_beat))
        m.submodules.skid = ResetInserter(self.restart | touched)(skid)
        go = skid.i.ready
        streaming, stage = Signal(), Signal(3)
        with m.If(go):
            m.d.sync += [
                at.eq(at + streaming),
                streaming.eq(streaming & (at != self.depth - 1)),
                stage.eq(Cat(streaming, stage)),
            ]
        with m.If(self.restart):
            m.d.sync += [at.eq(0), streaming.eq(1), stage.eq(0)]
        with m.Elif(touched):
            m.d.sync += [at.eq(beat), streaming.eq(0), stage.eq(0)]
        m.d.comb += skid.i.valid.eq(stage[-1])
        connect(m, skid.o, flipped(self.o))

        write_data = Signal.like(self.bus.write_data)
        write = Signal(self.bytes_per_beat)
        # One address for both ports would make yosys add logic for the enables.
        write_at = Signal.like(at)
        m.d.sync += [
            write_at.eq(beat),
            write_data.eq(self.bus.write_data),
            write.eq(
                Mux(self.bus.write & valid, 1 << plane[: self.bytes_per_beat.bit_length()], 0)
            ),
        ]
        out = Signal(WeightLayout(self.bytes_per_beat), reset_less=True)
        near = Signal.like(out)
        m.d.comb += skid.i.payload.eq(near)
        with m.If(go):
            m.d.sync += near.eq(out)
        for number in range(self.bytes_per_beat):
            ram = block_ram(m, f"plane{number}", shape=unsigned(8), depth=self.depth)
            get, put = ram.read_port(), ram.write_port()
            m.d.comb += [
                get.addr.eq(at),
                get.en.eq(go),
                put.addr.eq(write_at),
                put.en.eq(write[number]),
                put.data.eq(write_data),
            ]
            with m.If(go):
                m.d.sync += out[number].eq(get.data)
        with m.If(going[3]):
            m.d.sync += self.bus.read_data.eq(near[plane])
        return m


class NormMemory(wiring.Component):
    """Norm vectors in words of four: element ``e`` of word ``w`` at byte ``8·w + 2·e``.

    Two ports that read in every cycle. The bus takes the place of reader ``b``, so that each byte
    of a word is one memory of two ports. Bus accesses take 5 cycles; ``b`` reads nothing meanwhile.

    Parameters
    ----------
    words : int

    Members
    -------
    a, b : ``In(NormSignature())``
        Latency :data:`~.ports.NORM_LATENCY`.
    bus : ``Out(BusSignature())``
    """

    def __init__(self, *, words: int):
        positive("NormMemory", words=words)
        self.words = words
        super().__init__(
            {
                "a": In(NormSignature()),
                "b": In(NormSignature()),
                "bus": Out(BusSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        byte, word = _split(self.bus.address, VECTOR_LANES * NORM_BITS // 8)
        going = answer(m, self.bus, valid=word < self.words, latency=5)
        address = Signal(range(max(2, self.words)))
        m.d.comb += address.eq(Mux(going[0], word, self.b.address))
        writing = Signal()
        m.d.sync += writing.eq(self.bus.write & (word < self.words))
        outs: dict[str, Signal] = {
            name: Signal(NormLayout, name=f"out_{name}", reset_less=True) for name in "ab"
        }
        for number in range(NormLayout.size // 8):
            ram = block_ram(m, f"byte{number}", shape=unsigned(8), depth=self.words)
            a, b, put = ram.read_port(), ram.read_port(), ram.write_port()
            m.d.comb += [
                a.addr.eq(self.a.address),
                b.addr.eq(address),
                b.en.eq(~writing),
                put.addr.eq(address),
                put.data.eq(self.bus.write_data),
                put.en.eq(writing & (byte == number)),
            ]
            for name, port in (("a", a), ("b", b)):
                m.d.sync += outs[name].as_value().word_select(number, 8).eq(port.data)
        m.d.comb += [self.a.data.eq(outs["a"]), self.b.data.eq(outs["b"])]
        near = Signal(NormLayout, reset_less=True)
        m.d.sync += [
            near.eq(outs["b"]),
            self.bus.read_data.eq(near.as_value().word_select(byte, 8)),
        ]
        return m


class LogitsMemory(wiring.Component):
    """Logits of the latest token, four bytes each, signed.

    That of token ``t`` in lane ``l`` is at byte ``(l << bits | t)·4``; ``bits`` is what the
    vocabulary needs. The bus reads in 4 cycles, and cannot write.

    Parameters
    ----------
    vocab, bits, lanes : int
        Tokens; width of a sum; ``L``.

    Members
    -------
    port : ``In(LogitSignature(lanes=lanes, bits=bits))``
    bus : ``Out(BusSignature())``
    """

    def __init__(self, *, vocab: int, bits: int, lanes: int = 1):
        positive("LogitsMemory", vocab=vocab, bits=bits, lanes=lanes)
        if bits > 8 * LOGIT_BYTES:
            raise ValueError(f"LogitsMemory: bits is {bits}; it must be at most {8 * LOGIT_BYTES}")
        self.vocab = vocab
        self.bits = bits
        self.lanes = lanes
        super().__init__(
            {
                "port": In(LogitSignature(lanes=lanes, bits=bits)),
                "bus": Out(BusSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = plane_bits(self.vocab)
        depth = (self.lanes - 1 << bits) + self.vocab
        ram = block_ram(m, "ram", shape=signed(self.bits), depth=depth)
        get, put = ram.read_port(), ram.write_port()
        byte, index = _split(self.bus.address, LOGIT_BYTES)
        token, lane = index[:bits], index[bits:]
        valid = (token < self.vocab) & (lane < self.lanes) & ~self.bus.write
        answer(m, self.bus, valid=valid, latency=4)
        m.d.sync += [
            put.en.eq(self.port.valid),
            put.addr.eq(Cat(self.port.index[:bits], self.port.lane)),
            put.data.eq(self.port.sum),
        ]
        out = Signal(signed(self.bits), reset_less=True)
        word = Signal(signed(8 * LOGIT_BYTES))
        m.d.comb += [
            get.addr.eq(index),
            get.en.eq(~put.en),
            word.eq(out),
            self.port.room.eq(1),
        ]
        m.d.sync += [
            out.eq(get.data),
            self.bus.read_data.eq(word.as_unsigned().word_select(byte, 8)),
        ]
        return m


class CounterMemory(wiring.Component):
    """Counters: word ``k`` at byte ``4·k``. The bus reads in 2 cycles, and cannot write.

    Parameters
    ----------
    words : int

    Members
    -------
    words_i : ``In(ArrayLayout(32, words))``
    bus : ``Out(BusSignature())``
    """

    def __init__(self, *, words: int):
        positive("CounterMemory", words=words)
        self.words = words
        super().__init__(
            {
                "words_i": In(data.ArrayLayout(unsigned(8 * COUNTER_BYTES), words)),
                "bus": Out(BusSignature()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        byte = self.bus.address[:REGION_SHIFT]
        size = COUNTER_BYTES * self.words
        answer(m, self.bus, valid=(byte < size) & ~self.bus.write, latency=2)
        word = Signal(8 * COUNTER_BYTES)
        index = byte[2 : max(3, (size - 1).bit_length())]
        m.d.sync += [
            word.eq(self.words_i[index]),
            self.bus.read_data.eq(word.word_select(byte[:2], 8)),
        ]
        return m


class BusDecoder(wiring.Component):
    """Passes accesses on to the memory of their region; adds 3 cycles.

    An access to a region without memory is answered with an error after 3 cycles.

    Parameters
    ----------
    regions : iterable of Region
        Those that have a memory.

    Members
    -------
    bus : ``Out(BusSignature())``
        From outside.
    program, weights, … : ``In(BusSignature())``
        To the memories: one for each region, named after it in lower case.
    """

    def __init__(self, *, regions: Iterable[Region]):
        self.regions = tuple(regions)
        super().__init__(
            {
                "bus": Out(BusSignature()),
                **{region.name.lower(): In(BusSignature()) for region in self.regions},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = self.bus
        region = bus.address[REGION_SHIFT:ADDRESS_BITS]
        strobe = bus.read | bus.write
        done, error, byte = [], [], []
        for member in self.regions:
            port = getattr(self, member.name.lower())
            chosen = region == member
            answered, refused = Signal(), Signal()
            read_data = Signal.like(port.read_data)
            m.d.comb += [port.address.eq(bus.address), port.write_data.eq(bus.write_data)]
            m.d.sync += [
                port.read.eq(bus.read & chosen),
                port.write.eq(bus.write & chosen),
                answered.eq(port.done),
                refused.eq(port.error),
                read_data.eq(Mux(port.done, port.read_data, 0)),
            ]
            done.append(answered)
            error.append(refused)
            byte.append(read_data)
        nobody = Signal(2)
        m.d.sync += [
            nobody.eq(Cat(strobe & ~region.matches(*self.regions), nobody)),
            bus.done.eq(Cat(done, nobody[-1]).any()),
            bus.error.eq(Cat(error, nobody[-1]).any()),
            bus.read_data.eq(reduce(or_, byte)),
        ]
        return m


def _split(address: Value, word_bytes: int) -> tuple[Value, Value]:
    """Byte in its word, and word, of an address in its region."""
    bits = (word_bytes - 1).bit_length()
    return address[:bits], address[bits:REGION_SHIFT]
