# SPDX-License-Identifier: Apache-2.0
"""Lanes in turns: rows of sums kept, single sums given out, and who is at work where."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import ScalarLayout, SumsLayout
from nomul.model.numbers import VECTOR_LANES

from .arithmetic import delay
from .memory import block_ram

__all__ = ["BLOCK", "LaneRegister", "TagLayout", "Turns", "lane_bits", "tagged", "walk"]

BLOCK = 8  #: Outputs of a lane before it is the next one's turn.
_PLACE_BITS = (BLOCK - 1).bit_length()
_OUTPUT_BITS = 17


def lane_bits(lanes: int) -> int:
    """Bits of a lane's number; one lane has one, too."""
    return max(1, (lanes - 1).bit_length())


def TagLayout(lanes: int) -> data.StructLayout:
    """What travels with an element: its lane, and where it stands in that lane's turn.

    ``first`` and ``last`` of the turn; ``head``: first of a group of four; ``tail``: in the last group of the
    turn, right for the first of the group. All zero in a unit of one lane, whose turn has no end.
    """
    return data.StructLayout(
        {"lane": lane_bits(lanes), "first": 1, "last": 1, "head": 1, "tail": 1}
    )


class Turns(wiring.Component):
    """Takes a row of sums, one of each lane; gives out single sums, the lanes in turns.

    Of each 8 outputs of a pass come lane 0's 8 sums, then lane 1's, and so on. If the last turn of a
    pass is shorter, nothing is offered in the remaining cycles of 8, except behind the last lane: so
    the same output of the next lane comes 8 cycles later at the earliest. Rows wait in block RAM;
    they are taken whether their pass has begun or not.

    .. code-block:: text

        cycle   0      1        2         3      4
                start  limits   address   row    the same, at the block RAM's registers
                5
                offered

    Parameters
    ----------
    lanes : int
        At least 2.
    bits : int
        Of a sum.
    rows : int
        That can wait; at least 16.

    Attributes
    ----------
    latency : int
        Cycles from a row taken to the first of its sums offered, while nothing else is to be done.
    start_latency : int
        Cycles from ``start`` to the first sum offered, if its row is there.

    Members
    -------
    i : ``In(stream.Signature(SumsLayout(lanes, bits)))``
        ``last`` is not looked at.
    start : ``In(1)``
        A pass begins; all sums of the one before have been taken.
    outputs : ``In(17)``
        Of the pass, at least 1. This and the next three are read from ``start`` on, until the last sum is offered.
    pairs : ``In(1)``
        The elements of the pass are pairs of outputs: tags count pairs, and are right with the second of each.
    scale : ``In(ArrayLayout(ScalarLayout, lanes))``
    o : ``Out(stream.Signature(…))``
        ``sum``, its ``tag`` (:func:`TagLayout`), the ``scale`` of its lane; ``final``: the pass's last.
    """

    latency = 4
    start_latency = 5

    def __init__(self, *, lanes: int, bits: int, rows: int):
        if lanes < 2:
            raise ValueError(f"Turns has at least 2 lanes, not {lanes}")
        if rows < 2 * BLOCK:
            raise ValueError(f"Turns keeps at least {2 * BLOCK} rows, not {rows}")
        self.lanes = lanes
        self.bits = bits
        self.rows = rows
        super().__init__({
            "i": In(stream.Signature(SumsLayout(lanes, bits))),
            "start": In(1),
            "outputs": In(_OUTPUT_BITS),
            "pairs": In(1),
            "scale": In(data.ArrayLayout(ScalarLayout, lanes)),
            "o": Out(stream.Signature(data.StructLayout({
                "sum": signed(bits),
                "tag": TagLayout(lanes),
                "scale": ScalarLayout,
                "final": 1,
            }))),
        })  # fmt: skip

    @staticmethod
    def slots(outputs: int, lanes: int) -> int:
        """Cycles from the first sum of a pass to its last, both counted, without stalls."""
        blocks = -(-outputs // BLOCK)
        return (blocks * lanes - 1) * BLOCK + outputs - BLOCK * (blocks - 1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        go = Signal()
        m.d.comb += go.eq(~self.o.valid | self.o.ready)

        # What a slot is: an output of a lane, or nothing.
        rest = Signal(_OUTPUT_BITS)  # outputs from the block on, less one
        short = Signal()  # they are no more than a block
        lane, place = Signal(range(self.lanes)), Signal(_PLACE_BITS)
        running, started = Signal(), Signal()
        ahead = Signal(range(self.rows + 1))  # rows that lane 0 has not read yet
        held = Signal(range(self.rows + 1))  # rows that the last lane has not read yet
        here, turn = Signal(range(self.rows)), Signal(range(self.rows))  # to be read; the turn's first
        lane_end, place_end = Signal(), Signal()
        exists, last, final, slot, read = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            lane_end.eq(lane == self.lanes - 1),
            place_end.eq(place == BLOCK - 1),
            exists.eq(~short | (place <= rest[:_PLACE_BITS])),
            last.eq(place_end | (short & (place == rest[:_PLACE_BITS]))),
            final.eq(last & short & lane_end),
            slot.eq(go & running & ((lane != 0) | (ahead != 0) | ~exists)),
            read.eq(slot & exists),
        ]

        def following(row: Value) -> Value:
            return Mux(row == self.rows - 1, 0, row + 1)

        with m.If(read):
            m.d.sync += here.eq(following(here))
        with m.If(slot):
            m.d.sync += place.eq(place + 1)
            with m.If(place_end):
                m.d.sync += lane.eq(lane + 1)
                with m.If(lane_end):
                    m.d.sync += [lane.eq(0), turn.eq(following(here)), rest.eq(rest - BLOCK)]
                    m.d.sync += short.eq(rest[_PLACE_BITS:] == 1)
                with m.Else():
                    m.d.sync += here.eq(turn)
            with m.If(final):
                m.d.sync += [running.eq(0), turn.eq(following(here))]
        m.d.sync += started.eq(self.start)
        with m.If(self.start):
            m.d.sync += [rest.eq(self.outputs - 1), place.eq(0), lane.eq(0)]
        with m.If(started):
            m.d.sync += [running.eq(1), short.eq(~rest[_PLACE_BITS:].any())]

        # Rows.
        put = Signal(range(self.rows))
        taken = Signal()
        row_layout = data.ArrayLayout(signed(self.bits), self.lanes)
        m.submodules.rows = kept = block_ram(shape=unsigned(row_layout.size), depth=self.rows)
        write, get = kept.write_port(), kept.read_port()
        m.d.comb += [
            self.i.ready.eq(held != self.rows),
            taken.eq(self.i.valid & self.i.ready),
            write.en.eq(taken),
            write.addr.eq(put),
            write.data.eq(self.i.payload.sum),
            get.addr.eq(here),
            get.en.eq(go),
        ]
        with m.If(taken):
            m.d.sync += put.eq(following(put))
        m.d.sync += [
            held.eq(held + taken - (read & lane_end)),
            ahead.eq(ahead + taken - (read & (lane == 0))),
        ]

        # On their way out everything moves at once, so that empty slots keep their cycle.
        row = Signal(row_layout, reset_less=True)
        tag = Signal(TagLayout(self.lanes))
        groups = Mux(self.pairs, 1, place[2:] | (short & ~rest[2:_PLACE_BITS].any()))
        m.d.comb += [
            tag.lane.eq(lane),
            tag.first.eq(place == self.pairs),
            tag.last.eq(last),
            tag.head.eq(place[:2] == 0),
            tag.tail.eq(groups),
        ]
        valids, tags, finals = Signal(2), [tag], [final]
        for stage in (1, 2):
            tags.append(Signal(tag.shape(), name=f"tag_{stage}", reset_less=True))
            finals.append(Signal(name=f"final_{stage}", reset_less=True))
        to = self.o.payload
        with m.If(go):
            m.d.sync += [valids.eq(Cat(read, valids)), row.eq(get.data), self.o.valid.eq(valids[1])]
            m.d.sync += [tags[k + 1].eq(tags[k]) for k in range(2)]
            m.d.sync += [finals[k + 1].eq(finals[k]) for k in range(2)]
            m.d.sync += [
                to.sum.eq(row[tags[2].lane]),
                to.scale.eq(self.scale[tags[2].lane]),
                to.tag.eq(tags[2]),
                to.final.eq(finals[2]),
            ]
        return m


def walk(
    m: Module,
    *,
    name: str,
    lanes: int,
    bits: int,
    step: Value,
    tag: Value,
    start: Value,
    first: Value | int = 0,
) -> Signal:
    """Element addresses in a vector memory: four to a row, rows of the lanes next to one another.

    Group ``g`` of lane ``k`` has row ``first + g · lanes + k``. The result is the address of the element at hand;
    ``step`` with its ``tag`` moves on to the next one in whatever turns the lanes take, ``start`` to the first
    element of lane 0. ``first`` is in rows.
    """
    at = Signal(bits, name=name)
    row, place = at[2:], at[:2]
    if lanes == 1:
        with m.If(step):
            m.d.sync += at.eq(at + 1)
    else:
        turn = Signal(bits - 2, name=f"{name}_turn")
        with m.If(step):
            m.d.sync += place.eq(place + 1)
            with m.If(tag.last):
                other = Mux(tag.lane == lanes - 1, row, turn) + 1
                m.d.sync += [place.eq(0), row.eq(other), turn.eq(other)]
            with m.Elif(place == VECTOR_LANES - 1):
                m.d.sync += row.eq(row + lanes)
        with m.If(start):
            m.d.sync += turn.eq(first)
    with m.If(start):
        m.d.sync += at.eq(Cat(C(0, 2), first))
    return at


class LaneRegister(wiring.Component):
    """A value of each lane: that of the lane at work in a register, the others in LUT RAM.

    With one lane it is a register.

    Parameters
    ----------
    shape : Shape
    lanes : int
    empty : int
        What all lanes have at first.

    Members
    -------
    start : ``In(1)``
        All lanes are empty; no element is at work or coming in this cycle.
    enter : ``In(1)``
        The element of the next cycle is the first of a turn.
    enter_lane : ``In(…)``
        Its lane.
    leave : ``In(1)``
        The element of this cycle is the last of a turn.
    lane : ``In(…)``
        Its lane.
    change : ``In(1)``
        This cycle's element changes the value.
    changed : ``In(shape)``
    value : ``Out(shape)``
        Before that.
    asked : ``In(…)``
    answer : ``Out(shape)``
        Value of lane ``asked`` after its latest turn; while ``enter`` is low.
    """

    def __init__(self, *, shape: object, lanes: int, empty: int = 0):
        self.shape = shape
        self.lanes = lanes
        self.empty = empty
        number = lane_bits(lanes)
        super().__init__({
            "start": In(1),
            "enter": In(1),
            "enter_lane": In(number),
            "leave": In(1),
            "lane": In(number),
            "change": In(1),
            "changed": In(shape),
            "value": Out(shape),
            "asked": In(number),
            "answer": Out(shape),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.lanes == 1:
            with m.If(self.change):
                m.d.sync += self.value.eq(self.changed)
            with m.If(self.start):
                m.d.sync += self.value.eq(self.empty)
            m.d.comb += self.answer.eq(self.value)
            return m
        m.submodules.others = others = memory.Memory(shape=self.shape, depth=self.lanes, init=[])
        write, read = others.write_port(), others.read_port(domain="comb")
        known = Signal(self.lanes)
        after = Signal.like(self.value)
        m.d.comb += [
            after.eq(Mux(self.change, self.changed, self.value)),
            write.en.eq(self.leave),
            write.addr.eq(self.lane),
            write.data.eq(after),
            read.addr.eq(Mux(self.enter, self.enter_lane, self.asked)),
            self.answer.eq(read.data),
        ]
        m.d.sync += self.value.eq(after)
        with m.If(self.leave):
            m.d.sync += known.bit_select(self.lane, 1).eq(1)
        with m.If(self.enter):
            m.d.sync += self.value.eq(
                Mux(known.bit_select(self.enter_lane, 1), read.data, self.empty)
            )
        with m.If(self.start):
            m.d.sync += known.eq(0)
        return m


def tagged(m: Module, tag: Value, cycles: int, lanes: int, name: str) -> list[data.View]:
    """Tags and their copies after 1 to ``cycles`` cycles."""
    layout = TagLayout(lanes)
    return [
        data.View(layout, value)
        for value in delay(m, Value.cast(tag), cycles, name=name)
    ]
