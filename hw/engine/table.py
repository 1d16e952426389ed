# SPDX-License-Identifier: Apache-2.0
"""The engine whose weight bytes are table addresses: no decoding, no multiplication."""

from __future__ import annotations

from functools import cache

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from nomul.model.ternary import ENCODE, TRITS_PER_BYTE

from .accumulate import LEAD, NEVER_BOTH
from .ports import Engine
from .tree import adder_tree, delay, tree_stages

__all__ = ["TableEngine"]

#: Levels of adders between two registers.
_LEVELS = 1

#: A table's entries: |sum of five activations| ≤ 635.
_ENTRY = signed(11)

_STEP = data.StructLayout({"byte": 8, "act": 3, "minus": 1})


@cache
def walk_of_sums() -> list[dict[str, int]]:
    """The steps that fill a table: add or subtract an activation, store the sum at a byte.

    The first five lead from nothing to minus all five activations; each further step changes one
    trit by one (reflected ternary Gray code), so that 247 steps give all 243 sums. What the first
    four store is overwritten by the fifth.
    """
    trits = [-1] * TRITS_PER_BYTE
    direction = [1] * TRITS_PER_BYTE
    first = _byte(trits)
    steps = [{"byte": first, "act": act, "minus": 1} for act in range(TRITS_PER_BYTE)]
    while True:
        for act in range(TRITS_PER_BYTE):
            if -1 <= trits[act] + direction[act] <= 1:
                trits[act] += direction[act]
                break
            direction[act] = -direction[act]
        else:
            return steps
        steps.append({"byte": _byte(trits), "act": act, "minus": int(direction[act] < 0)})


def _byte(trits: list[int]) -> int:
    return int(ENCODE[sum(t % 3 * 3**k for k, t in enumerate(trits))])


class TableEngine(Engine):
    """Ternary engine in which each byte of a beat looks up the sum of its five products.

    One block RAM for each byte of the beat holds the 243 sums that its five activations can have,
    twice: while one set is read, the other is built for the next chunk, all tables at the same
    time, one sum a cycle, each from the one before by one activation (:func:`walk_of_sums`). An
    adder tree and the accumulators follow.

    Activations are written one a cycle, so a chunk's take ``L · 5·G`` cycles; building takes 253.
    Each is hidden while earlier chunks stream, if these have as many outputs.

    .. code-block:: text

        cycle     0           1           2              3 …         depth  depth+1  depth+2
                  beat taken  looked up   RAM's register  tree level  …      summed   offered

    Parameters, attributes and members are those of :class:`nomul.hw.engine.ports.Engine`.
    """

    prepare = len(walk_of_sums()) + 7

    @property
    def depth(self) -> int:
        """Register stages from a beat being taken to its terms reaching the accumulator."""
        return max(LEAD, 2 + tree_stages(self.bytes_per_beat, levels=_LEVELS))

    @property
    def chunk_interval(self) -> int:
        """Cycles from a chunk's first beat to the next one's at the earliest."""
        return max(self.prepare - 1, self.lanes * self.chunk)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tables = self.lanes * self.bytes_per_beat

        filled = Signal(range(3))  # chunks whose activations are there and not yet built from
        ready = Signal(range(3))   # chunks whose tables are there and not yet streamed
        start, building = Signal(), Signal()
        loaded, read_out, built = Signal(), Signal(), Signal()
        freed = Signal()  # activations may be written over, a cycle late: the last step reads one in that cycle
        m.d.sync += freed.eq(read_out)
        with m.If(loaded ^ freed):
            m.d.sync += filled.eq(Mux(loaded, filled + 1, filled - 1))

        # Activations go one a cycle to their places, two chunks' worth.
        fill, place, position = Signal(), Signal(3), Signal(range(max(2, self.acts_per_beat)))
        table = Signal(tables, init=1)
        loading, beat_ends = Signal(), Signal()
        m.d.comb += [
            beat_ends.eq(position == self.acts_per_beat - 1),
            loading.eq(self.acts.valid & (filled != 2)),
            self.acts.ready.eq((filled != 2) & beat_ends),
            loaded.eq(loading & beat_ends & self.acts.payload.last),
        ]
        with m.If(loading):
            m.d.sync += [position.eq(Mux(beat_ends, 0, position + 1)), place.eq(place + 1)]
            with m.If(place == TRITS_PER_BYTE - 1):
                m.d.sync += [place.eq(0), table.eq(table.rotate_left(1))]
        with m.If(loaded):
            m.d.sync += fill.eq(~fill)
        act_at, act = Signal(4, reset_less=True), Signal(signed(8), reset_less=True)
        act_for = Signal(tables)
        m.d.sync += [
            act_at.eq(Cat(place, fill)),
            act.eq(Array(self.acts.payload.x)[position]),
            act_for.eq(Mux(loading, table, 0)),
        ]

        # The steps of the build, the same for all tables.
        parity = Signal()
        count = Signal(range(len(walk_of_sums())))
        m.submodules.steps = steps = Memory(shape=_STEP, depth=len(walk_of_sums()),
                                            init=walk_of_sums())
        read_step = steps.read_port()
        step = Signal(_STEP, reset_less=True)
        stage = Signal(5)  # the build pipeline: step, activation read, and held, sum made, stored
        minus, byte = step.minus, step.byte
        m.d.comb += [
            read_step.addr.eq(count),
            start.eq((filled != 0) & (ready != 2) & ~building & ~stage.any()),
            read_out.eq(building & (count == len(walk_of_sums()) - 1)),
            built.eq(stage == 1 << 4),
        ]
        m.d.sync += [
            step.eq(read_step.data),
            stage.eq(Cat(building, stage)),
            building.eq(start | (building & ~read_out)),
            count.eq(Mux(building, count + 1, 0)),
            parity.eq(parity ^ built),
        ]

        for _ in range(2):
            minus, byte = delay(m, minus), delay(m, byte)
        byte = delay(m, byte)

        # One block RAM holds the activations of four tables and gives one of each.
        group = data.ArrayLayout(signed(8), 4)
        steps_of: list[Value] = []
        for first in range(0, tables, 4):
            m.submodules[f"acts{first // 4}"] = memory = Memory(
                shape=group, depth=16, init=[], attrs=NEVER_BOTH | {"ram_style": "block"})
            write, read = memory.write_port(granularity=1), memory.read_port()
            held = Signal(group, name=f"act{first // 4}", reset_less=True)
            m.d.comb += [
                write.addr.eq(act_at),
                write.data.eq(act.as_unsigned().replicate(4)),
                write.en.eq(act_for[first:first + 4]),
                read.addr.eq(Cat(step.act, parity)),
            ]
            m.d.sync += held.eq(read.data)
            # ± activation; what is missing from the two's complement is added as a carry.
            steps_of += [Cat(minus, x.as_unsigned() ^ minus.replicate(8)).as_signed() for x in held]

        walk = self.connect_walk(m, available=ready != 0)
        reading = Signal()
        m.d.sync += reading.eq(reading ^ walk.end)
        with m.If(built ^ walk.end):
            m.d.sync += ready.eq(Mux(built, ready + 1, ready - 1))

        lanes: list[list[Value]] = [[] for _ in range(self.lanes)]
        for g in range(self.bytes_per_beat):
            row = data.ArrayLayout(_ENTRY, self.lanes)
            m.submodules[f"table{g}"] = entries = Memory(
                shape=row, depth=512, init=[], attrs=NEVER_BOTH)
            store, look = entries.write_port(), entries.read_port()
            m.d.comb += [
                store.addr.eq(Cat(byte, parity)),
                store.en.eq(stage[4]),
                look.addr.eq(Cat(self.weights.payload[g], reading)),
            ]
            found = Signal(row, name=f"found{g}", reset_less=True)
            m.d.sync += found.eq(look.data)
            for lane in range(self.lanes):
                total = Signal(_ENTRY, name=f"sum{lane}_{g}", reset_less=True)
                by = steps_of[lane * self.bytes_per_beat + g]
                m.d.comb += store.data[lane].eq(total)
                m.d.sync += total.eq((Cat(Const(1, 1), total).as_signed() + by)[1:])
                with m.If(~stage[3]):
                    m.d.sync += total.eq(0)
                lanes[lane].append(found[lane])

        terms = [adder_tree(m, lane, levels=_LEVELS) for lane in lanes]
        for _ in range(self.depth - 2 - tree_stages(self.bytes_per_beat, levels=_LEVELS)):
            terms = [[delay(m, term) for term in lane] for lane in terms]
        self.connect_terms(m, walk, terms)
        return m
