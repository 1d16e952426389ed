# SPDX-License-Identifier: Apache-2.0
"""The engine whose weight bytes are table addresses: no decoding, no multiplication."""

from __future__ import annotations

from functools import cache

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.memory import Memory

from nomul.model.ternary import ENCODE, TRITS_PER_BYTE

from .accumulate import LEAD
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

    The first five lead from nothing to minus all five activations; each further step changes one trit
    by one (reflected ternary Gray code), so that 247 steps give all 243 sums. What the first four store
    is stored anew later.
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

    One block RAM for each byte of the beat holds the 243 sums that its five activations can have, twice:
    while one set is read, the other is built for the next chunk, all tables at the same time, one sum a
    cycle, each from the one before by one activation (:func:`walk_of_sums`). An adder tree and the
    accumulators follow.

    Activations are written one a cycle, so a chunk's take ``L · 5·G`` cycles, and building 251; both are
    hidden while earlier chunks stream, if these have as many outputs.

    .. code-block:: text

        cycle            0      1      2         3 …      depth  depth+1  depth+2
        weights   beat taken
                         table  register  add    add …    …      sum
        sums                                                              offered

    Parameters, attributes and members are those of :class:`nomul.hw.engine.ports.Engine`.
    """

    prepare = len(walk_of_sums()) + 5

    @property
    def depth(self) -> int:
        """Register stages from a beat being taken to its terms reaching the accumulator."""
        return max(LEAD, 2 + tree_stages(self.bytes_per_beat, levels=_LEVELS))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        tables = self.lanes * self.bytes_per_beat

        filled = Signal(range(3))  # chunks whose activations are there and not yet built from
        ready = Signal(range(3))   # chunks whose tables are there and not yet streamed
        start, building = Signal(), Signal()
        loaded, read_out, built = Signal(), Signal(), Signal()
        with m.If(loaded ^ read_out):
            m.d.sync += filled.eq(Mux(loaded, filled + 1, filled - 1))

        # Activations go one a cycle into a small memory beside each table, two chunks' worth.
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
        step, byte = Signal(_STEP, reset_less=True), Signal(8, reset_less=True)
        stage = Signal(3)  # the build pipeline: step read, sum made, sum stored
        m.d.comb += [
            read_step.addr.eq(count),
            start.eq((filled != 0) & (ready != 2) & ~building & ~stage.any()),
            read_out.eq(building & (count == len(walk_of_sums()) - 1)),
            built.eq(stage == 0b100),
        ]
        m.d.sync += [
            step.eq(read_step.data),
            byte.eq(step.byte),
            stage.eq(Cat(building, stage)),
            building.eq(start | (building & ~read_out)),
            count.eq(Mux(building, count + 1, 0)),
            parity.eq(parity ^ built),
        ]

        walk = self.connect_walk(m, available=ready != 0)
        reading = Signal()
        m.d.sync += reading.eq(reading ^ walk.end)
        with m.If(built ^ walk.end):
            m.d.sync += ready.eq(Mux(built, ready + 1, ready - 1))

        lanes: list[list[Value]] = [[] for _ in range(self.lanes)]
        for g in range(self.bytes_per_beat):
            row = data.ArrayLayout(_ENTRY, self.lanes)
            m.submodules[f"table{g}"] = entries = Memory(shape=row, depth=512, init=[])
            store, look = entries.write_port(), entries.read_port()
            m.d.comb += [
                store.addr.eq(Cat(byte, parity)),
                store.en.eq(stage[2]),
                look.addr.eq(Cat(self.weights.payload[g], reading)),
            ]
            found = Signal(row, name=f"found{g}", reset_less=True)
            m.d.sync += found.eq(look.data)
            for lane in range(self.lanes):
                name = f"acts{lane}_{g}"
                m.submodules[name] = memory = Memory(shape=signed(8), depth=16, init=[])
                write, read = memory.write_port(), memory.read_port(domain="comb")
                total = Signal(_ENTRY, name=f"sum{lane}_{g}", reset_less=True)
                m.d.comb += [
                    write.addr.eq(act_at),
                    write.data.eq(act),
                    write.en.eq(act_for[lane * self.bytes_per_beat + g]),
                    read.addr.eq(Cat(step.act, parity)),
                    store.data[lane].eq(total),
                ]
                m.d.sync += total.eq(Mux(step.minus, total - read.data, total + read.data))
                with m.If(~stage[1]):
                    m.d.sync += total.eq(0)
                lanes[lane].append(found[lane])

        terms = [adder_tree(m, lane, levels=_LEVELS) for lane in lanes]
        for _ in range(self.depth - 2 - tree_stages(self.bytes_per_beat, levels=_LEVELS)):
            terms = [[delay(m, term) for term in lane] for lane in terms]
        self.connect_terms(m, walk, terms)
        return m
