# SPDX-License-Identifier: Apache-2.0
"""The vector unit: consumes sums in passing, reduces what it stores, quantises for the engine."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import (
    EMBED,
    STATE_ADDRESS_BITS,
    ActsLayout,
    LogitSignature,
    NormSignature,
    PassLayout,
    QuantLayout,
    RowLayout,
    ScalarLayout,
    StateSignature,
    StatsLayout,
    SumsLayout,
    WideRowLayout,
)
from nomul.hw.probe import Probe
from nomul.model.isa import Mode
from nomul.model.numbers import (
    SOURCE_BITS,
    T_BITS,
    T_FRAC,
    VECTOR_LANES,
    X_FRAC,
    acc_bits,
)
from nomul.model.protocol import TOKEN_BITS

from .argmax import ArgMax
from .arithmetic import clamp, delay, magnitude, multiply, outside, total
from .memory import VectorMemory
from .quantiser import Quantiser
from .recurrence import Recurrence
from .reduction import Reduction
from .scaler import Scaler
from .sigma import Activation
from .turns import BLOCK, LaneRegister, TagLayout, Turns, lane_bits, tagged, walk

__all__ = ["VectorUnit"]

# Cycles since an element entered (0) at which registers hold what their name says.
_OPERANDS = 1
_TOTAL = _OPERANDS + Scaler.latency
_ELEMENT = _TOTAL + 1
_FETCH = _ELEMENT - 4
_SILU = _TOTAL + Activation.latency
# Elements of two sums, and those that need a value from memory, enter again, so many cycles after
# their last sum.
_GATED_WAIT = _SILU - 1
_OUTPUT_WAIT = 2

OVERLAP = 32  #: Outputs from which on a dependent pass may follow at once.
COUNT_BITS = 16


class VectorUnit(wiring.Component):
    """Everything between two matrices.

    A pass consumes one sum a cycle, multiplies it with its scale, shifts, rounds, adds to the
    residual stream or passes it through σ, all in one pipeline that never stalls; see
    ``docs/units/vector-unit.md``. Several lanes take turns in it, in the order of
    :class:`~nomul.hw.vector.turns.Turns`. Passes are processed in order. A FORGET pass and the INPUT pass
    behind it, and that one and the OUTPUT pass behind it, overlap when the former has at least
    ``OVERLAP`` outputs; else a pass begins when the one before has drained. Everything equals
    :mod:`nomul.sim.golden` bit for bit.

    Parameters
    ----------
    lanes : int
        ``L``.
    hidden, intermediate : int
        Of the largest model.
    state_elements : int
        Recurrent state that there is room for, all lanes.
    inputs : int
        Longest row of a matrix; gives the width of a sum.
    bytes_per_beat : int
        ``G`` of the engine, a multiple of 4.
    vocab : int
        Outputs of the largest LOGITS pass.
    rows : int
        Rows of sums that can wait for the turn of their lanes, at least 16; none with one lane.
    sections : bool
        Residual streams may come as rows, and go where logits go: of a model whose other layers are elsewhere.

    Members
    -------
    pass_i : ``In(stream.Signature(PassLayout(lanes)))``
        Two wait besides the one at work. ``outputs`` is at least 1, of a GATED pass even.
    rows : ``In(stream.Signature(RowLayout))``
        What an EMBED pass consumes: all elements of lane 0, all of lane 1, and so on; before the next
        lane's three cycles are let pass. ``WideRowLayout`` with ``sections``.
    sums : ``In(stream.Signature(SumsLayout(lanes, acc_bits(inputs))))``
        What the other passes consume. ``last`` is not looked at: a pass counts. Rows of a pass
        that has not begun wait, if there are several lanes.
    quant_i, acts, norm_b
        The quantiser's: :class:`nomul.hw.vector.quantiser.Quantiser`.
    norm_a : ``Out(NormSignature())``
        Norm vectors of the reduction, and lower bounds.
    stats_lane : ``In(range(max(lanes, 2)))``
    stats : ``Out(StatsLayout())``
        Of the latest reducing pass (OUTPUT, GATED, RESIDUAL, EMBED); ``sums`` of the latest OUTPUT
        pass. Those of lane ``stats_lane``, in the same cycle; valid when idle.
    idle : ``Out(1)``
        No pass waits or is at work.
    base : ``In(ArrayLayout(20, lanes))``
        Where the recurrent state of each lane begins; lanes of the same one follow one another in it.
        This and the next two stand for a token.
    fresh : ``In(lanes)``
        The state reads as zero.
    active : ``In(lanes)``
        The state is written.
    state : ``In(StateSignature())``
        Another access to the states.
    best : ``Out(StructLayout({"index": ArrayLayout(16, lanes)}))``
        Arg-max of the latest LOGITS pass; 0 after a pass that sends. Valid when idle.
    logits : ``Out(LogitSignature(lanes, bits))``
        Its sums, one cycle after each enters. With ``sections``, 32 bits, also the elements of a RESIDUAL pass
        that sends, as they are stored.
    saturated : ``Out(StructLayout({"residual": 16, "t": 16}))``
        Values limited so far, all lanes; stay at their maximum.
    """

    def __init__(
        self,
        *,
        lanes: int,
        hidden: int,
        intermediate: int,
        state_elements: int,
        inputs: int,
        bytes_per_beat: int,
        vocab: int,
        rows: int = 2 * BLOCK,
        sections: bool = False,
    ):
        sizes = {
            "lanes": lanes,
            "hidden": hidden,
            "intermediate": intermediate,
            "state_elements": state_elements,
            "inputs": inputs,
            "vocab": vocab,
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; a vector unit needs at least 1")
        if bytes_per_beat < 4 or bytes_per_beat % 4:
            raise ValueError(
                f"bytes_per_beat is {bytes_per_beat}; the quantiser takes a positive multiple of 4"
            )
        if vocab > 1 << TOKEN_BITS:
            raise ValueError(f"vocab is {vocab}; a token has {TOKEN_BITS} bits")
        if state_elements > 1 << STATE_ADDRESS_BITS:
            raise ValueError(
                f"state_elements is {state_elements}; a pass addresses at most "
                f"{1 << STATE_ADDRESS_BITS}"
            )
        if rows < 2 * BLOCK:
            raise ValueError(f"rows is {rows}; lanes that take turns need at least {2 * BLOCK}")
        # Second sums of GATED enter again in turn with new first ones; a pass that overlaps the one
        # before reads what that one has stored by then.
        assert _GATED_WAIT % 2 == 0
        assert self.latency(Mode.INPUT) < OVERLAP
        self.lanes = lanes
        self.hidden = hidden
        self.intermediate = intermediate
        self.state_elements = state_elements
        self.inputs = inputs
        self.bytes_per_beat = bytes_per_beat
        self.vocab = vocab
        self.sum_bits = acc_bits(inputs)
        self.waiting_rows = rows
        self.sections = sections
        logit_bits = max(self.sum_bits, SOURCE_BITS) if sections else self.sum_bits
        self.recurrence = Recurrence(lanes=lanes, hidden=hidden, state_elements=state_elements)
        self.stored = Probe(signed(SOURCE_BITS), name="seen_store")
        self.residual_rows = lanes * -(-hidden // VECTOR_LANES)
        self.rows_total = self.residual_rows + lanes * -(-max(hidden, intermediate) // VECTOR_LANES)
        super().__init__({
            "pass_i": In(stream.Signature(PassLayout(lanes))),
            "rows": In(stream.Signature(WideRowLayout if sections else RowLayout)),
            "sums": In(stream.Signature(SumsLayout(lanes, self.sum_bits))),
            "quant_i": In(stream.Signature(QuantLayout(lanes))),
            "acts": Out(stream.Signature(ActsLayout)),
            "norm_a": Out(NormSignature()),
            "norm_b": Out(NormSignature()),
            "stats_lane": In(lane_bits(lanes)),
            "stats": Out(StatsLayout()),
            "idle": Out(1),
            "base": In(data.ArrayLayout(unsigned(STATE_ADDRESS_BITS), lanes)),
            "fresh": In(lanes),
            "active": In(lanes),
            "state": In(StateSignature()),
            "best": Out(data.StructLayout({"index": data.ArrayLayout(TOKEN_BITS, lanes)})),
            "logits": Out(LogitSignature(lanes=lanes, bits=logit_bits)),
            "saturated": Out(data.StructLayout({"residual": COUNT_BITS, "t": COUNT_BITS})),
        })

    @property
    def probes(self) -> dict[str, Probe]:
        """What a simulation may watch: elements stored, and the recurrence."""
        return {"store": self.stored, **self.recurrence.probes}

    @staticmethod
    def latency(mode: int, vectors: int = 0) -> int:
        """Cycles from the last sum to enter to ``idle``, everything stored and ``stats`` valid.

        With one lane a sum enters when it is taken; so does an element of ``rows`` with any.
        """
        reduced = _FETCH + Reduction.latency(vectors)
        return {
            Mode.FORGET: _SILU + 1,
            Mode.INPUT: _SILU - 2 + Recurrence.latency,
            Mode.OUTPUT: _OUTPUT_WAIT + reduced,
            Mode.RESIDUAL: reduced,
            Mode.GATED: _GATED_WAIT + reduced,
            Mode.LOGITS: _OPERANDS + ArgMax.latency,
            EMBED: reduced,
        }[mode]

    def cycles(self, mode: int, outputs: int, vectors: int = 0) -> int:
        """Cycles from the first row taken to ``idle``, with a row whenever there is room.

        With several lanes: of a pass that has begun :attr:`Turns.latency` cycles before, or of an
        EMBED pass, whose elements come singly.
        """
        if self.lanes == 1:
            slots = outputs
        elif mode == EMBED:
            slots = self.lanes * outputs + (self.lanes - 1) * (VECTOR_LANES - 1)
        else:
            slots = Turns.latency + Turns.slots(outputs, self.lanes)
        return slots - 1 + self.latency(mode, vectors)

    @property
    def quantiser_latency(self) -> int:
        """Cycles from ``quant_i`` taken to the first beat of ``acts`` offered."""
        return Quantiser.latency

    def quantiser_cycles(self, elements: int) -> int:
        """Cycles from ``quant_i`` taken until its last beat is taken, without stalls."""
        return Quantiser.cycles(
            elements, lanes=self.lanes, bytes_per_beat=self.bytes_per_beat
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = vectors = VectorMemory(rows=self.rows_total)
        m.submodules.quantiser = quantiser = Quantiser(
            lanes=self.lanes,
            bytes_per_beat=self.bytes_per_beat,
            rows=self.residual_rows,
            row_bits=vectors.row_bits,
        )
        m.submodules.recurrence = recurrence = self.recurrence
        m.submodules.reduction = reduction = Reduction(lanes=self.lanes)
        m.submodules.argmax = argmax = ArgMax(lanes=self.lanes, width=self.sum_bits)

        # -- which pass ------------------------------------------------------------------------

        layout = PassLayout(self.lanes)
        m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=2)
        m.d.comb += [
            queue.w_data.eq(self.pass_i.payload),
            queue.w_en.eq(self.pass_i.valid),
            self.pass_i.ready.eq(queue.w_rdy),
        ]
        head = data.View(layout, queue.r_data)
        setup = Signal(layout)
        active, begin = Signal(), Signal()
        left = Signal.like(setup.outputs)
        long = Signal()
        drain = Signal(range(max(self.latency(mode, 3) for mode in (*Mode, EMBED))))
        # Known in the cycle before they are needed: nothing is left in the pipeline; what waits may
        # overlap what is at work.
        drained, overlap = Signal(init=1), Signal()
        pop = queue.r_rdy & ~active & (drained | overlap)
        m.d.comb += [queue.r_en.eq(pop), self.idle.eq(~queue.r_rdy & ~active & drained)]
        m.d.sync += begin.eq(pop)
        after = Signal.like(drain)
        with m.If(pop):
            m.d.sync += [
                setup.eq(head),
                left.eq(head.outputs - 1),
                long.eq(head.outputs >= OVERLAP),
                active.eq(1),
            ]
            with m.Switch(head.mode):
                for mode in (*Mode, EMBED):
                    with m.Case(int(mode)):
                        three = head.vectors == 3
                        m.d.sync += after.eq(
                            Mux(three, self.latency(mode, 3), self.latency(mode)) - 1
                        )

        def mode_is(*modes: int) -> Signal:
            signal = Signal(name="is_" + "_".join(str(int(mode)) for mode in modes))
            with m.If(pop):
                m.d.sync += signal.eq(Cat(head.mode == mode for mode in modes).any())
            return signal

        forget, update, output = mode_is(Mode.FORGET), mode_is(Mode.INPUT), mode_is(Mode.OUTPUT)
        residual, gated, embed = mode_is(Mode.RESIDUAL), mode_is(Mode.GATED), mode_is(EMBED)
        logits = mode_is(Mode.LOGITS)
        sends = Signal()  # its elements go where logits go
        if self.sections:
            with m.If(pop):
                m.d.sync += sends.eq(head.send & (head.mode == Mode.RESIDUAL))
        tells = logits | sends
        reducing = mode_is(Mode.OUTPUT, Mode.RESIDUAL, Mode.GATED, EMBED)
        m.d.sync += overlap.eq(
            queue.r_rdy
            & long
            & ((forget & (head.mode == Mode.INPUT)) | (update & (head.mode == Mode.OUTPUT)))
        )

        # -- entering --------------------------------------------------------------------------

        # OUTPUT sums wait for silu(h), the second sums of GATED for silu of the first; then they
        # enter again.
        waits = Signal(_GATED_WAIT)
        again = waits[-1]
        even = Signal()  # of a GATED pass, the next sum is the first of two
        second = gated & ~even
        full = Signal()  # no room for logits
        pause = Signal(VECTOR_LANES - 1)  # before the next lane's row
        sum_valid, sum_ready = Signal(), Signal()
        m.d.sync += full.eq(tells & ~self.logits.room)
        with m.If(pop):
            m.d.sync += even.eq(head.mode == Mode.GATED)
        m.d.comb += [
            sum_ready.eq(active & ~embed & ~(even & again) & ~full),
            self.rows.ready.eq(active & embed & ~pause.any()),
        ]
        sums_i, tag_in, embed_tag, last = self.sources(
            m, setup, begin, active, embed, gated, left, sum_valid, sum_ready
        )
        fire = (sum_valid & sum_ready) | (self.rows.valid & self.rows.ready)
        aside = fire & (output | second)
        m.d.sync += waits.eq(
            Cat(fire & second, waits[:-1]) | (fire & output) << _GATED_WAIT - _OUTPUT_WAIT
        )
        if self.lanes > 1:  # the last group of four, too, takes four cycles to fetch its norms
            m.d.sync += pause.eq(Cat((fire & embed & embed_tag.last).replicate(len(pause))) | pause << 1)
        m.d.sync += drained.eq((drain <= 1) & ~(fire & last))
        with m.If(drain != 0):
            m.d.sync += drain.eq(drain - 1)
        with m.If(fire):
            m.d.sync += [left.eq(left - 1), even.eq(second)]
            if self.lanes > 1:
                with m.If(embed_tag.last):
                    m.d.sync += left.eq(setup.outputs - 1)
            with m.If(last):
                m.d.sync += active.eq(0)
                with m.If(after >= drain):
                    m.d.sync += drain.eq(after)

        wait_layout = data.StructLayout({
            "sum": signed(self.sum_bits),
            **({"tag": TagLayout(self.lanes)} if self.lanes > 1 else {}),
        })  # fmt: skip
        waiting = memory.Memory(shape=unsigned(wait_layout.size), depth=16, init=[])
        m.submodules.waiting = waiting
        waiting_write, waiting_read = waiting.write_port(), waiting.read_port(domain="comb")
        front, back = Signal(4), Signal(4)
        put_aside, waited = Signal(wait_layout), data.View(wait_layout, waiting_read.data)
        m.d.comb += [
            put_aside.sum.eq(sums_i.sum),
            waiting_write.en.eq(aside),
            waiting_write.addr.eq(back),
            waiting_write.data.eq(put_aside),
            waiting_read.addr.eq(front),
        ]
        m.d.sync += [back.eq(back + aside), front.eq(front + again)]
        entering = Signal(TagLayout(self.lanes))
        if self.lanes > 1:
            m.d.comb += [
                put_aside.tag.eq(tag_in),
                entering.eq(Mux(again, waited.tag, Mux(embed, embed_tag, tag_in))),
            ]
        tags = tagged(m, entering, _SILU, self.lanes, "tag")

        # What kind of element each stage holds, by cycles since it entered.
        enters = fire & ~aside
        to_forget = delay(m, enters & forget, _SILU - 1, name="to_forget", strobe=True)
        to_update = delay(m, enters & update, _SILU - 1, name="to_update", strobe=True)
        to_gate = delay(m, enters & gated, _SILU - 1, name="to_gate", strobe=True)
        stores = again | (enters & (residual | embed))
        to_store = delay(m, stores, _ELEMENT, name="to_store", strobe=True)
        to_logits = delay(m, enters & logits, _OPERANDS, name="to_logits", strobe=True)
        fetch = to_forget[_FETCH] | to_store[_FETCH]

        # -- addresses -------------------------------------------------------------------------

        starts = begin & reducing
        reads = to_store[_OPERANDS] & residual
        read_place = walk(
            m, name="read_place", lanes=self.lanes, bits=vectors.row_bits + 2, step=reads,
            tag=tags[_OPERANDS], start=starts,
        )  # fmt: skip
        write_place = walk(
            m, name="write_place", lanes=self.lanes, bits=vectors.row_bits + 2,
            step=to_store[_ELEMENT], tag=tags[_ELEMENT], start=starts,
            first=Mux(output | gated, self.residual_rows, 0),
        )  # fmt: skip
        reads_row = Signal()  # reads, and the place is a row's first
        if self.lanes > 1:
            first = entering.head
        else:
            first = begin | ((read_place + reads)[:2] == 0)
        m.d.sync += reads_row.eq(to_store[0] & residual & first)
        m.d.comb += [
            vectors.write.eq(to_store[_ELEMENT]),
            vectors.write_element.eq(write_place),
            vectors.read_row.eq(Mux(reads_row, read_place[2:], quantiser.row)),
            quantiser.blocked.eq(reads_row),
            quantiser.row_data.eq(vectors.read_data),
        ]
        row_here = delay(m, reads_row, 2, name="row_here")[-1]
        place = delay(m, read_place[:2], 2, name="place")[-1]

        # -- the pipeline --------------------------------------------------------------------------

        m.submodules.scaler = scaler = Scaler(width=self.sum_bits)
        m.submodules.activation = activation = Activation(width=scaler.total_bits)
        row = self.rows.payload

        # 1: operands.
        value = Mux(embed, row.value, sums_i.sum)
        factor = Mux(embed, row.scale, sums_i.scale.mantissa)
        late = Mux(output, recurrence.activated, activation.silu)
        a = Signal(scaler.a.shape(), reset_less=True)
        b = Signal(scaler.b.shape(), reset_less=True)
        m.d.sync += [a.eq(Mux(again, waited.sum, value)), b.eq(Mux(again, late, factor))]
        m.d.comb += [scaler.a.eq(a), scaler.b.eq(b)]

        # 2: the shift: clamp(-(exponent + fraction), 0, 63), or the instruction's.
        exponent = sums_i.scale.exponent
        if self.lanes > 1:
            exponent = delay(m, exponent, _OPERANDS, name="exponent")[-1]
        right = Signal(signed(12))
        scale_shift = Signal(6, reset_less=True)
        m.d.comb += right.eq(-exponent - Mux(residual, X_FRAC, T_FRAC))
        m.d.sync += scale_shift.eq(Mux(right < 0, 0, right[:6] | right[6:].any().replicate(6)))
        by_pass = to_store[_OPERANDS + 1] & ~residual
        m.d.comb += scaler.shift.eq(Mux(by_pass, setup.shift, scale_shift))

        # 4: the residual element.
        here = vectors.read_data
        x_row = Signal(here.shape(), reset_less=True)
        with m.If(row_here):
            m.d.sync += x_row.eq(here)
        base = Signal(scaler.base.shape(), reset_less=True)
        other: Value = C(0, signed(SOURCE_BITS))
        if self.sections:
            at = _OPERANDS + Scaler.latency - 2  # the cycle before the register's
            other = Mux(embed, delay(m, row.x, at, name="row_x")[-1], 0)
        m.d.sync += base.eq(Mux(residual, Mux(place == 0, here[0], x_row[place]), other))
        m.d.comb += scaler.base.eq(base)

        # 5 and 6: to σ, or saturated into memory and to the reduction.
        element = Signal(signed(SOURCE_BITS), reset_less=True)
        size_6 = Signal(SOURCE_BITS, reset_less=True)
        limited_t, limited_x = Signal(), Signal()
        beyond = outside(scaler.total, SOURCE_BITS)
        negative = scaler.total[-1]
        size = magnitude(scaler.total)[:SOURCE_BITS]
        limit = Cat((~negative).replicate(SOURCE_BITS - 1), negative)
        m.d.comb += [
            activation.t.eq(scaler.total),
            activation.forget.eq(to_forget[_TOTAL]),
            activation.lower.eq(reduction.lower),
            activation.hold.eq(~(to_forget[_SILU - 1] | to_update[_SILU - 1] | to_gate[_SILU - 1])),
        ]
        m.d.sync += [
            element.eq(clamp(scaler.total, SOURCE_BITS)),
            size_6.eq(Mux(beyond, limit, size)),
            limited_x.eq(to_store[_TOTAL] & residual & beyond),
            limited_t.eq(
                (to_forget[_TOTAL] | to_update[_TOTAL] | to_gate[_TOTAL])
                & outside(scaler.total, T_BITS)
            ),
        ]
        m.d.comb += [
            vectors.write_data.eq(element),
            reduction.magnitude.eq(size_6),
            recurrence.keep.eq(activation.keep),
            recurrence.silu.eq(activation.silu),
        ]
        self.stored.drive(m, to_store[_ELEMENT], element)

        # Beside it: the sum of squares of an OUTPUT pass.
        squared = Signal(2 * self.sum_bits, reset_less=True)
        m.d.sync += squared.eq(total(multiply(m, scaler.a, scaler.a)))
        squares_at = _OPERANDS + 2
        to_squares = delay(m, again & output, squares_at, name="squared_valid", strobe=True)
        m.submodules.square_sum = square_sum = LaneRegister(
            shape=self.stats.sums.shape(), lanes=self.lanes
        )
        m.d.comb += [
            square_sum.start.eq(begin & output),
            square_sum.enter.eq(to_squares[squares_at - 1] & tags[squares_at - 1].first),
            square_sum.enter_lane.eq(tags[squares_at - 1].lane),
            square_sum.leave.eq(to_squares[squares_at] & tags[squares_at].last),
            square_sum.lane.eq(tags[squares_at].lane),
            square_sum.change.eq(to_squares[squares_at]),
            square_sum.changed.eq(square_sum.value + squared),
            square_sum.asked.eq(self.stats_lane),
        ]

        for limited, count in (
            (limited_x, self.saturated.residual),
            (limited_t, self.saturated.t),
        ):
            more = count + limited
            m.d.sync += count.eq(more[:COUNT_BITS] | more[COUNT_BITS:].any().replicate(COUNT_BITS))

        # -- what the pipeline feeds -----------------------------------------------------------

        m.d.comb += [
            recurrence.start_forget.eq(begin & forget),
            recurrence.start_update.eq(begin & update),
            recurrence.start_read.eq(~(active & output)),
            recurrence.address.eq(setup.address),
            recurrence.base.eq(self.base),
            recurrence.fresh.eq(self.fresh),
            recurrence.active.eq(self.active),
            recurrence.tag.eq(tags[_SILU - 4]),
            recurrence.forget.eq(to_forget[_SILU - 2]),
            recurrence.update.eq(to_update[_SILU - 2]),
            recurrence.read.eq(fire & output),
            recurrence.read_last.eq(tag_in.last),
            reduction.address.eq(setup.address),
            reduction.elements.eq(Mux(gated, setup.outputs >> 1, setup.outputs)),
            reduction.vectors.eq(setup.vectors),
            reduction.square.eq(setup.square),
            reduction.forget.eq(forget),
            reduction.start.eq(begin & (forget | reducing)),
            reduction.fetch.eq(fetch),
            reduction.tag.eq(tags[_FETCH]),
            reduction.lane.eq(self.stats_lane),
            self.stats.max.eq(reduction.max),
            self.stats.squares.eq(reduction.squares),
            self.stats.sums.eq(square_sum.answer),
            argmax.start.eq(begin & tells if self.lanes > 1 else begin),
            argmax.valid.eq(to_logits[_OPERANDS]),
            argmax.value.eq(a),
            argmax.tag.eq(tags[_OPERANDS]),
            self.best.index.eq(argmax.best),
            self.logits.valid.eq(argmax.valid),
            self.logits.index.eq(argmax.index),
            self.logits.lane.eq(argmax.tag.lane),
            self.logits.sum.eq(a),
        ]
        if self.sections:
            with m.If(sends):
                m.d.comb += [
                    argmax.valid.eq(to_store[_ELEMENT]),
                    argmax.value.eq(0),
                    argmax.tag.eq(tags[_ELEMENT]),
                    self.logits.sum.eq(element),
                ]
        wiring.connect(m, wiring.flipped(self.state), recurrence.state)
        wiring.connect(m, wiring.flipped(self.norm_a), reduction.norm)
        wiring.connect(m, wiring.flipped(self.norm_b), quantiser.norm)
        wiring.connect(m, wiring.flipped(self.quant_i), quantiser.quant_i)
        wiring.connect(m, wiring.flipped(self.acts), quantiser.acts)
        return m

    def sources(
        self,
        m: Module,
        setup: Signal,
        begin: Signal,
        active: Signal,
        embed: Signal,
        gated: Signal,
        left: Signal,
        valid: Signal,
        ready: Signal,
    ) -> tuple[Value, Value, Value, Value]:
        """What enters: a sum with its scale and its tag, the tag of a row's element; the last of a pass."""
        sum_layout = data.StructLayout({"sum": signed(self.sum_bits), "scale": ScalarLayout})
        one = Signal(sum_layout)
        tag, embed_tag = Signal(TagLayout(self.lanes)), Signal(TagLayout(self.lanes))
        if self.lanes == 1:
            m.d.comb += [
                valid.eq(self.sums.valid),
                self.sums.ready.eq(ready),
                one.sum.eq(self.sums.payload.sum[0]),
                one.scale.eq(setup.scale[0]),
            ]
            return one, tag, embed_tag, left == 0

        m.submodules.turns = turns = Turns(
            lanes=self.lanes, bits=self.sum_bits, rows=self.waiting_rows
        )
        wiring.connect(m, wiring.flipped(self.sums), turns.i)
        m.d.comb += [
            turns.start.eq(begin & ~embed),
            turns.outputs.eq(setup.outputs),
            turns.pairs.eq(gated),
            turns.scale.eq(setup.scale),
            valid.eq(turns.o.valid),
            turns.o.ready.eq(ready),
            one.sum.eq(turns.o.payload.sum),
            one.scale.eq(turns.o.payload.scale),
            tag.eq(turns.o.payload.tag),
        ]
        # Rows of embeddings come one lane after the other.
        lane, first = Signal(range(self.lanes)), Signal(init=1)
        taken = self.rows.valid & self.rows.ready
        lane_end = lane == self.lanes - 1
        m.d.comb += [
            embed_tag.lane.eq(lane),
            embed_tag.first.eq(first),
            embed_tag.last.eq(left == 0),
            embed_tag.tail.eq(left < VECTOR_LANES),
        ]
        with m.If(taken):
            m.d.sync += first.eq(embed_tag.last)
            with m.If(embed_tag.last):
                m.d.sync += lane.eq(Mux(lane_end, 0, lane + 1))
        final = Mux(embed, embed_tag.last & lane_end, turns.o.payload.final)
        return one, tag, embed_tag, final
