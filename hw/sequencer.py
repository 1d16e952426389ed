# SPDX-License-Identifier: Apache-2.0
"""Runs the program of a token: hands work to the units, counts cycles."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Member, Out, connect, flipped

from nomul.model import isa
from nomul.model.counters import COUNTER_BYTES, EXPOSED, Counter, counter_words
from nomul.model.isa import INSTRUCTION_BYTES, OPCODE_BITS, Mode
from nomul.model.protocol import TOKEN_BITS, Fault

from .fetch import Fetch, ProgramSignature, field
from .ports import (
    EMBED,
    PassLayout,
    QuantLayout,
    RowRequestLayout,
    ScalarLayout,
    StatsLayout,
    TileLayout,
    TokensLayout,
)
from .scalar import ScalarUnit

__all__ = ["SaturatedLayout", "Sequencer"]

_WORD_BITS = 8 * INSTRUCTION_BYTES
_SETTLE = 2  # cycles that the vector unit may take to show that it is not idle

#: Values limited by the vector unit since reset or flush.
SaturatedLayout = data.StructLayout({"residual": 16, "t": 16})


class Sequencer(wiring.Component):
    """Executes one token's program, instruction by instruction.

    Instructions are fetched ahead, so one is issued every cycle unless it must wait: for the scalar
    unit (each operation takes its ``ScalarUnit.latency``), until the stream that it goes to is empty,
    and, if it is a Stat or the End, until the cycle after the vector unit got idle. Pass and Quant carry the values
    that registers have after all earlier instructions. A work item is offered in the cycle after
    its instruction is issued; the first is issued ``Fetch.latency`` cycles after the
    token was taken.

    What is no instruction (an unknown opcode, mode or statistic, or the end of program memory) ends
    the token: ``flush`` strikes, ``ERROR`` is set, and zeros are delivered. So does ``give_up``,
    but delivers nothing.

    Parameters
    ----------
    lanes : int
        ``L``, at least 1.
    program_words : int
        Size of program memory in instructions, at least 2.

    Members
    -------
    token_i : ``In(stream.Signature(TokensLayout(lanes)))``
    token_o : ``Out(stream.Signature(ArrayLayout(16, lanes)))``
        ``best`` after the token.
    program : ``Out(ProgramSignature(words=program_words))``
    pass_o, quant_o, tile_o, row_o : ``Out(stream.Signature(...))``
        Work for the vector unit's passes (``PassLayout``), its quantiser (``QuantLayout``), the
        engine
        (``TileLayout``) and the embedding reader (``RowRequestLayout``).
    stats_lane : ``Out(range(max(lanes, 2)))``
    stats : ``In(StatsLayout())``
        Of lane ``stats_lane``, in the same cycle.
    idle : ``In(1)``
        The vector unit has no pass, and ``stats`` and ``best`` are right. Must fall within two
        cycles after a pass is taken.
    best : ``In(ArrayLayout(16, lanes))``
    saturated : ``In(SaturatedLayout)``
    beat : ``In(1)``
        The engine takes a weight beat in this cycle.
    starved : ``In(1)``
        It could take one and there is none.
    loading : ``In(1)``
        The weight stream's next beat is one of norms.
    give_up : ``In(1)``
        Gives up the token in progress.
    start : ``Out(1)``
        One cycle, when a token is taken: weights are streamed from the beginning.
    flush : ``Out(1)``
        One cycle, the one behind the token's last: all units drop what they do. The next token has
        work for them three cycles later at the earliest.
    busy : ``Out(1)``
        From the cycle after a token is taken until its result is taken.
    token : ``Out(TokensLayout(lanes))``
        Of the token in progress.
    fault : ``Out(Fault)``
        With ``token_o``: why there is no result.
    counters : ``Out(ArrayLayout(32, counter_words(lanes)))``
        In the order of :class:`nomul.model.counters.Counter`.
    """

    def __init__(self, *, lanes: int, program_words: int):
        if lanes < 1:
            raise ValueError(f"Sequencer: lanes is {lanes}; it must be at least 1")
        if program_words < 2:
            raise ValueError(f"Sequencer: program_words is {program_words}; it must be at least 2")
        self.lanes = lanes
        self.program_words = program_words
        self.hold = Signal()  # something else is not done: no token begins or ends
        self.broken = Signal(Fault)  # a fault from outside
        super().__init__(self.members())

    def members(self) -> dict[str, Member]:
        """Its ports."""
        lanes = self.lanes
        return {
            "token_i": In(stream.Signature(TokensLayout(lanes))),
            "token_o": Out(stream.Signature(data.ArrayLayout(unsigned(TOKEN_BITS), lanes))),
            "program": Out(ProgramSignature(words=self.program_words)),
            "pass_o": Out(stream.Signature(PassLayout(lanes))),
            "quant_o": Out(stream.Signature(QuantLayout(lanes))),
            "tile_o": Out(stream.Signature(TileLayout)),
            "row_o": Out(stream.Signature(RowRequestLayout(lanes))),
            "stats_lane": Out(range(max(lanes, 2))),
            "stats": In(StatsLayout()),
            "idle": In(1),
            "best": In(data.ArrayLayout(unsigned(TOKEN_BITS), lanes)),
            "saturated": In(SaturatedLayout),
            "beat": In(1),
            "starved": In(1),
            "loading": In(1),
            "give_up": In(1),
            "start": Out(1),
            "flush": Out(1),
            "busy": Out(1),
            "token": Out(TokensLayout(lanes)),
            "fault": Out(Fault),
            "counters": Out(
                data.ArrayLayout(unsigned(8 * COUNTER_BYTES), counter_words(lanes))
            ),
        }

    def elaborate(self, platform: object) -> Module:
        m = Module()
        scalar = ScalarUnit(lanes=self.lanes)
        m.submodules.scalar = ResetInserter(self.flush)(scalar)
        m.d.comb += [scalar.stats.eq(self.stats), self.stats_lane.eq(scalar.stats_lane)]

        # Token in, token out.
        token = Signal(TokensLayout(self.lanes))
        run, end, fail, giving_up = Signal(), Signal(), Signal(), Signal()
        error = Signal(Fault)
        m.d.comb += [
            self.token.eq(token),
            self.fault.eq(error),
            self.busy.eq(run | self.token_o.valid),
            self.token_i.ready.eq(~self.busy & ~self.give_up & ~self.hold),
            self.start.eq(self.token_i.valid & self.token_i.ready),
            giving_up.eq(self.busy & self.give_up),
            scalar.clear.eq(self.start),
        ]
        m.d.sync += self.flush.eq(fail | giving_up)
        with m.If(self.token_o.ready | giving_up):
            m.d.sync += self.token_o.valid.eq(0)
        with m.If(self.start):
            m.d.sync += [run.eq(1), error.eq(Fault.NONE), token.eq(self.token_i.payload)]
        with m.Elif(giving_up):
            m.d.sync += run.eq(0)
        with m.Elif(end | fail):
            m.d.sync += [
                run.eq(0),
                error.eq(Mux(fail, Mux(self.broken.any(), self.broken, Fault.PROGRAM), Fault.NONE)),
                self.token_o.valid.eq(1),
                self.token_o.payload.as_value().eq(Mux(fail, 0, self.best.as_value())),
            ]

        instruction = self.fetch(m)
        d, word, valid = instruction.payload, instruction.payload.word, run & instruction.valid

        # Issue: what the decoded instruction needs, and what it does in that cycle.
        settling = Signal(_SETTLE)
        still, quiet = Signal(), Signal()
        m.d.sync += settling.eq(Cat(self.pass_o.valid, settling))
        m.d.sync += still.eq(self.idle & ~self.pass_o.valid & ~settling.any())
        m.d.comb += quiet.eq(still & ~self.pass_o.valid)
        ready = scalar.command.ready
        go = self.conditions(d, ready, quiet)
        going = {}
        for name, condition in go.items():
            going[name] = Signal(name=f"go_{name}")
            m.d.comb += going[name].eq(valid & condition)
        m.d.comb += [
            instruction.ready.eq(Cat(going.values()).any()),
            end.eq(valid & d.end & ready & quiet & ~self.hold),
            fail.eq(valid & d.bad | run & self.broken.any()),
            scalar.command.valid.eq(valid & (d.scalar | d.stat & quiet)),
        ]
        m.d.comb += scalar.command.payload.ra.eq(d.ra)
        self.work(m, scalar, word, going, token)
        self.count(m, scalar, word, run, error, going, instruction.valid & (d.stat & ready | d.end) & ~quiet)
        return m

    def fetch(self, m: Module) -> stream.Interface:
        """The decoded instructions of a token, from the cycle after ``start`` on."""
        fetch = Fetch(words=self.program_words)
        m.submodules.fetch = ResetInserter(self.start)(fetch)
        connect(m, fetch.program, flipped(self.program))
        return fetch.o

    def conditions(self, d: Any, ready: Value, quiet: Value) -> dict[str, Value]:
        """When an instruction of each kind can be issued; all kinds but ``end``."""
        return {
            "scalar": d.scalar & ready,
            "stat": d.stat & ready & quiet,
            "embed": d.embed & ~self.pass_o.valid & ~self.row_o.valid,
            "quant": d.quant & ready & ~self.quant_o.valid,
            "pass": d["pass"] & ready & ~self.pass_o.valid,
            "tile": d.tile & ~self.tile_o.valid,
        }

    def work(
        self, m: Module, scalar: ScalarUnit, word: Signal, going: dict[str, Signal], token: Signal
    ) -> None:
        """Commands to the scalar unit; work items into the registers of the streams."""
        command = scalar.command.payload
        m.d.comb += [
            command.op.eq(word[:OPCODE_BITS]),
            command.rd.eq(field(word, isa.Mul, "rd")),
            command.rb.eq(field(word, isa.Mul, "rb")),
            command.mantissa.eq(field(word, isa.Const, "mantissa")),
            command.exponent.eq(field(word, isa.Const, "exponent")),
            command.statistic.eq(field(word, isa.Stat, "statistic")),
        ]
        ports = (self.pass_o, self.quant_o, self.tile_o, self.row_o)
        for port in ports:
            with m.If(port.ready):
                m.d.sync += port.valid.eq(0)

        def same(kind: type, payload: Value, names: tuple[str, ...]) -> list:
            return [payload[name].eq(field(word, kind, name)) for name in names]

        to_pass = self.pass_o.payload
        with m.If(going["pass"]):
            m.d.sync += [
                self.pass_o.valid.eq(1),
                *same(
                    isa.Pass, to_pass,
                    ("mode", "outputs", "address", "shift", "vectors", "square", "send"),
                ),
                to_pass.scale.eq(scalar.value),
            ]
        with m.If(going["embed"]):
            m.d.sync += [
                self.pass_o.valid.eq(1),
                to_pass.mode.eq(EMBED),
                to_pass.outputs.eq(field(word, isa.Embed, "elements")),
                to_pass.address.eq(field(word, isa.Embed, "norm")),
                *same(isa.Embed, to_pass, ("shift", "vectors", "square")),
                to_pass.send.eq(0),
                self.row_o.valid.eq(1),
                *same(isa.Embed, self.row_o.payload, ("elements", "stride", "wide")),
                self.row_o.payload.token.eq(token.token),
            ]
        with m.If(going["quant"]):
            m.d.sync += [
                self.quant_o.valid.eq(1),
                *same(isa.Quant, self.quant_o.payload, ("source", "elements", "norm")),
                self.quant_o.payload.reciprocal.eq(scalar.value),
            ]
        with m.If(going["tile"]):
            m.d.sync += [
                self.tile_o.valid.eq(1),
                *same(isa.Tile, self.tile_o.payload, ("outputs", "chunks")),
            ]
        with m.If(self.flush):
            m.d.sync += [port.valid.eq(0) for port in ports]

    def count(
        self,
        m: Module,
        scalar: ScalarUnit,
        word: Signal,
        run: Signal,
        error: Signal,
        going: dict[str, Signal],
        draining: Value,
    ) -> None:
        """The counters: every cycle of a token is a beat or has one cause."""
        outputs, chunks = field(word, isa.Tile, "outputs"), field(word, isa.Tile, "chunks")
        product = Signal(len(outputs) + len(chunks), reset_less=True)
        product_valid, quantised, due = Signal(), Signal(), Signal()
        owed = Signal(
            signed(_WORD_BITS // 2)
        )  # beats of tiles issued; below 0 while the product is made
        m.d.sync += [
            product.eq(outputs * chunks),
            product_valid.eq(going["tile"]),
            owed.eq(owed + Mux(product_valid, product, 0) - self.beat),
        ]
        with m.If(going["quant"]):
            m.d.sync += [quantised.eq(1), due.eq(1)]
        with m.If(going["tile"]):
            m.d.sync += due.eq(0)
        with m.If(self.start):
            m.d.sync += [owed.eq(0), product_valid.eq(0), quantised.eq(0), due.eq(0)]

        causes = [
            (Counter.BEATS, self.beat),
            (Counter.EXPOSED_LOAD, self.starved & self.loading),
            (Counter.EXPOSED_MEMORY, self.starved),
            (Counter.EXPOSED_EMBED, ~quantised),
            (Counter.EXPOSED_ACTS, due | product_valid | (owed > 0)),
            (Counter.EXPOSED_DRAIN, draining),
            (Counter.EXPOSED_SCALAR, 1),
        ]
        assert {cause for cause, _ in causes} == {Counter.BEATS, *EXPOSED}
        hit = Signal(len(causes))
        m.d.sync += hit.eq(0)
        taken: Value | int = 0
        for k, (_, condition) in enumerate(causes):
            m.d.sync += hit[k].eq(run & condition & ~taken)
            taken = taken | condition
        for k, (cause, _) in enumerate([*causes, (Counter.TOKEN_CYCLES, None)]):
            counter = Signal(8 * COUNTER_BYTES, name=cause.name.lower())
            with m.If(self.start):
                m.d.sync += counter.eq(0)
            with m.Elif(hit[k] if k < len(causes) else hit.any()):
                m.d.sync += counter.eq(counter + 1)
            m.d.comb += self.counters[cause].eq(counter)

        scale = Signal(data.ArrayLayout(ScalarLayout, self.lanes))
        is_logits = field(word, isa.Pass, "mode") == Mode.LOGITS
        with m.If(going["pass"] & is_logits):
            m.d.sync += scale.eq(scalar.value)
        m.d.comb += [
            self.counters[Counter.SATURATED_RESIDUAL].eq(self.saturated.residual),
            self.counters[Counter.SATURATED_T].eq(self.saturated.t),
            self.counters[Counter.ERROR].eq(error),
        ]
        for lane in range(self.lanes):
            at = Counter.LOGIT_SCALE + 2 * lane
            m.d.comb += [
                self.counters[at].eq(scale[lane].mantissa),
                self.counters[at + 1].eq(scale[lane].exponent),  # sign extended
            ]
