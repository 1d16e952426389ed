# SPDX-License-Identifier: Apache-2.0
"""The vector unit: consumes sums in passing, reduces what it stores, quantises for the engine."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import (
    EMBED,
    ActsLayout,
    LogitSignature,
    NormSignature,
    PassLayout,
    QuantLayout,
    RowLayout,
    StatsLayout,
    SumsLayout,
)
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

    A pass consumes one sum a cycle and lane, multiplies it with its scale, shifts, rounds, adds to
    the residual stream or passes it through σ, all in one pipeline that never stalls; see
    ``docs/units/vector-unit.md``. Passes are processed in order. A FORGET pass and the INPUT pass
    behind it, and that one and the OUTPUT pass behind it, overlap when the former has at least
    ``OVERLAP`` outputs; else a pass begins when the one before has drained. Everything equals
    :mod:`nomul.sim.golden` bit for bit.

    Parameters
    ----------
    lanes : int
        ``L``, independent streams.
    hidden, intermediate, layers : int
        Largest model; ``layers · hidden`` elements of state a lane.
    inputs : int
        Longest row of a matrix; gives the width of a sum.
    bytes_per_beat : int
        ``G`` of the engine, a multiple of 4.
    vocab : int
        Outputs of the largest LOGITS pass.

    Members
    -------
    pass_i : ``In(stream.Signature(PassLayout(lanes)))``
        Two wait besides the one at work. ``outputs`` is at least 1, of a GATED pass even.
    rows : ``In(stream.Signature(RowLayout(lanes)))``
        What an EMBED pass consumes.
    sums : ``In(stream.Signature(SumsLayout(lanes, acc_bits(inputs))))``
        What the other passes consume. ``last`` is not looked at: a pass counts.
    quant_i, acts, norm_b
        The quantiser's: :class:`nomul.hw.vector.quantiser.Quantiser`.
    norm_a : ``Out(NormSignature())``
        Norm vectors of the reduction, and lower bounds.
    stats : ``Out(StatsLayout(lanes))``
        Of the latest reducing pass (OUTPUT, GATED, RESIDUAL, EMBED); ``sums`` of the latest OUTPUT
        pass. Valid when idle.
    idle : ``Out(1)``
        No pass waits or is at work.
    fresh : ``In(lanes)``
        The recurrent state reads as zero; stands for a token.
    best : ``Out(StructLayout({"index": ArrayLayout(16, lanes)}))``
        Arg-max of the latest LOGITS pass. Valid when idle.
    logits : ``Out(LogitSignature(lanes, bits))``
        Its sums, one cycle after each is taken.
    saturated : ``Out(StructLayout({"residual": 16, "t": 16}))``
        Values limited so far, all lanes; stay at their maximum.
    """

    def __init__(
        self,
        *,
        lanes: int,
        hidden: int,
        intermediate: int,
        layers: int,
        inputs: int,
        bytes_per_beat: int,
        vocab: int,
    ):
        sizes = {
            "lanes": lanes,
            "hidden": hidden,
            "intermediate": intermediate,
            "layers": layers,
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
        if layers * hidden > 1 << 20:
            raise ValueError(
                f"layers · hidden is {layers * hidden}; a pass addresses at most {1 << 20}"
            )
        # Second sums of GATED enter again in turn with new first ones; a pass that overlaps the one
        # before reads what that one has stored by then.
        assert _GATED_WAIT % 2 == 0
        assert self.latency(Mode.INPUT) < OVERLAP
        self.lanes = lanes
        self.hidden = hidden
        self.intermediate = intermediate
        self.layers = layers
        self.inputs = inputs
        self.bytes_per_beat = bytes_per_beat
        self.vocab = vocab
        self.sum_bits = acc_bits(inputs)
        self.residual_rows = -(-hidden // VECTOR_LANES)
        self.rows_total = self.residual_rows - (-max(hidden, intermediate) // VECTOR_LANES)
        super().__init__({
            "pass_i": In(stream.Signature(PassLayout(lanes))),
            "rows": In(stream.Signature(RowLayout(lanes))),
            "sums": In(stream.Signature(SumsLayout(lanes, self.sum_bits))),
            "quant_i": In(stream.Signature(QuantLayout(lanes))),
            "acts": Out(stream.Signature(ActsLayout)),
            "norm_a": Out(NormSignature()),
            "norm_b": Out(NormSignature()),
            "stats": Out(StatsLayout(lanes)),
            "idle": Out(1),
            "fresh": In(lanes),
            "best": Out(data.StructLayout({"index": data.ArrayLayout(TOKEN_BITS, lanes)})),
            "logits": Out(LogitSignature(lanes=lanes, bits=self.sum_bits)),
            "saturated": Out(data.StructLayout({"residual": COUNT_BITS, "t": COUNT_BITS})),
        })

    @staticmethod
    def latency(mode: int, vectors: int = 0) -> int:
        """Cycles from the last sum taken to ``idle``, everything stored and ``stats`` valid."""
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
        """Cycles from the first sum taken to ``idle``, with a sum every cycle."""
        return outputs - 1 + self.latency(mode, vectors)

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
        m.submodules.memory = vectors = VectorMemory(lanes=self.lanes, rows=self.rows_total)
        m.submodules.quantiser = quantiser = Quantiser(
            lanes=self.lanes,
            bytes_per_beat=self.bytes_per_beat,
            rows=self.residual_rows,
            row_bits=vectors.row_bits,
        )
        m.submodules.recurrence = recurrence = Recurrence(
            lanes=self.lanes, hidden=self.hidden, layers=self.layers
        )
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
        with m.If(pop):
            m.d.sync += even.eq(head.mode == Mode.GATED)
        m.d.comb += [
            self.sums.ready.eq(active & ~embed & ~(even & again)),
            self.rows.ready.eq(active & embed),
        ]
        fire = (self.sums.valid & self.sums.ready) | (self.rows.valid & self.rows.ready)
        aside = fire & (output | second)
        m.d.sync += waits.eq(
            Cat(fire & second, waits[:-1]) | (fire & output) << _GATED_WAIT - _OUTPUT_WAIT
        )
        last = left == 0
        m.d.sync += drained.eq((drain <= 1) & ~(fire & last))
        with m.If(drain != 0):
            m.d.sync += drain.eq(drain - 1)
        with m.If(fire):
            m.d.sync += [left.eq(left - 1), even.eq(second)]
            with m.If(last):
                m.d.sync += active.eq(0)
                with m.If(after >= drain):
                    m.d.sync += drain.eq(after)

        sums_layout = data.ArrayLayout(signed(self.sum_bits), self.lanes)
        waiting = memory.Memory(shape=unsigned(sums_layout.size), depth=16, init=[])
        m.submodules.waiting = waiting
        waiting_write, waiting_read = waiting.write_port(), waiting.read_port(domain="comb")
        front, back = Signal(4), Signal(4)
        m.d.comb += [
            waiting_write.en.eq(aside),
            waiting_write.addr.eq(back),
            waiting_write.data.eq(self.sums.payload.sum),
            waiting_read.addr.eq(front),
        ]
        m.d.sync += [back.eq(back + aside), front.eq(front + again)]
        waited = data.View(sums_layout, waiting_read.data)

        # What kind of element each stage holds, by cycles since it entered.
        enters = fire & ~aside
        to_forget = delay(m, enters & forget, _SILU - 1, name="to_forget", strobe=True)
        to_update = delay(m, enters & update, _SILU - 1, name="to_update", strobe=True)
        to_gate = delay(m, enters & gated, _SILU - 1, name="to_gate", strobe=True)
        stores, logits = again | (enters & (residual | embed)), enters & mode_is(Mode.LOGITS)
        to_store = delay(m, stores, _ELEMENT, name="to_store", strobe=True)
        to_logits = delay(m, logits, _OPERANDS, name="to_logits", strobe=True)
        fetch = to_forget[_FETCH] | to_store[_FETCH]

        # -- addresses -------------------------------------------------------------------------

        read_place = Signal(range(max(self.hidden, 4)))
        write_place = Signal.like(vectors.write_element)
        reads = to_store[_OPERANDS] & residual
        with m.If(reads):
            m.d.sync += read_place.eq(read_place + 1)
        with m.If(to_store[_ELEMENT]):
            m.d.sync += write_place.eq(write_place + 1)
        with m.If(begin & reducing):
            product_at = VECTOR_LANES * self.residual_rows
            m.d.sync += [read_place.eq(0), write_place.eq(Mux(output | gated, product_at, 0))]
        reads_row = Signal()  # reads, and the place is a row's first
        first = begin | ((read_place + reads)[:2] == 0)
        m.d.sync += reads_row.eq(to_store[0] & residual & first)
        m.d.comb += [
            vectors.write.eq(to_store[_ELEMENT]),
            vectors.write_element.eq(write_place),
            vectors.read_row.eq(Mux(reads_row, read_place[2:], quantiser.row)),
            quantiser.blocked.eq(reads_row),
            quantiser.rows_data.eq(vectors.read_data),
        ]
        row_here = delay(m, reads_row, 2, name="row_here")[-1]
        place = delay(m, read_place[:2], 2, name="place")[-1]

        # -- the pipeline of each lane ---------------------------------------------------------

        limited_t, limited_x = Signal(self.lanes), Signal(self.lanes)
        for lane in range(self.lanes):
            m.submodules[f"scaler_{lane}"] = scaler = Scaler(width=self.sum_bits)
            m.submodules[f"activation_{lane}"] = activation = Activation(width=scaler.total_bits)
            scale, row = setup.scale[lane], self.rows.payload

            # 1: operands.
            value = Mux(embed, row.value[lane], self.sums.payload.sum[lane])
            factor = Mux(embed, row.scale[lane], scale.mantissa)
            late = Mux(output, recurrence.activated[lane], activation.silu)
            a = Signal(scaler.a.shape(), name=f"a_{lane}", reset_less=True)
            b = Signal(scaler.b.shape(), name=f"b_{lane}", reset_less=True)
            m.d.sync += [a.eq(Mux(again, waited[lane], value)), b.eq(Mux(again, late, factor))]
            m.d.comb += [scaler.a.eq(a), scaler.b.eq(b)]

            # 2: the shift: clamp(-(exponent + fraction), 0, 63), or the instruction's.
            right = Signal(signed(12), name=f"right_{lane}")
            scale_shift = Signal(6, name=f"scale_shift_{lane}", reset_less=True)
            m.d.comb += right.eq(-scale.exponent - Mux(residual, X_FRAC, T_FRAC))
            m.d.sync += scale_shift.eq(
                Mux(right < 0, 0, right[:6] | right[6:].any().replicate(6))
            )
            by_pass = to_store[_OPERANDS + 1] & ~residual
            m.d.comb += scaler.shift.eq(Mux(by_pass, setup.shift, scale_shift))

            # 4: the residual element.
            x_row = Signal(
                vectors.read_data[lane].shape(), name=f"x_row_{lane}", reset_less=True
            )
            here = vectors.read_data[lane]
            with m.If(row_here):
                m.d.sync += x_row.eq(here)
            base = Signal(scaler.base.shape(), name=f"base_{lane}", reset_less=True)
            m.d.sync += base.eq(Mux(residual, Mux(place == 0, here[0], x_row[place]), 0))
            m.d.comb += scaler.base.eq(base)

            # 5 and 6: to σ, or saturated into memory and to the reduction.
            element = Signal(signed(SOURCE_BITS), name=f"element_{lane}", reset_less=True)
            size_6 = Signal(SOURCE_BITS, name=f"size_{lane}", reset_less=True)
            beyond = outside(scaler.total, SOURCE_BITS)
            negative = scaler.total[-1]
            size = magnitude(scaler.total)[:SOURCE_BITS]
            limit = Cat((~negative).replicate(SOURCE_BITS - 1), negative)
            m.d.comb += [
                activation.t.eq(scaler.total),
                activation.forget.eq(to_forget[_TOTAL]),
                activation.lower.eq(reduction.lower),
                activation.hold.eq(
                    ~(to_forget[_SILU - 1] | to_update[_SILU - 1] | to_gate[_SILU - 1])
                ),
            ]
            m.d.sync += [
                element.eq(clamp(scaler.total, SOURCE_BITS)),
                size_6.eq(Mux(beyond, limit, size)),
                limited_x[lane].eq(to_store[_TOTAL] & residual & beyond),
                limited_t[lane].eq(
                    (to_forget[_TOTAL] | to_update[_TOTAL] | to_gate[_TOTAL])
                    & outside(scaler.total, T_BITS)
                ),
            ]
            m.d.comb += [
                vectors.write_data[lane].eq(element),
                reduction.magnitude[lane].eq(size_6),
                recurrence.keep[lane].eq(activation.keep),
                recurrence.silu[lane].eq(activation.silu),
            ]

            # Beside it: the sum of squares of an OUTPUT pass.
            squared = Signal(2 * self.sum_bits, name=f"squared_{lane}", reset_less=True)
            m.d.sync += squared.eq(total(multiply(m, scaler.a, scaler.a)))
            square_sum = self.stats.sums[lane]
            with m.If(delay(m, again & output, 3, name=f"squared_valid_{lane}", strobe=True)[-1]):
                m.d.sync += square_sum.eq(square_sum + squared)
            with m.If(begin & output):
                m.d.sync += square_sum.eq(0)

        for limited, count in (
            (limited_x, self.saturated.residual),
            (limited_t, self.saturated.t),
        ):
            more = count + sum(limited)
            m.d.sync += count.eq(more[:COUNT_BITS] | more[COUNT_BITS:].any().replicate(COUNT_BITS))

        # -- what the pipeline feeds -----------------------------------------------------------

        m.d.comb += [
            recurrence.start_forget.eq(begin & forget),
            recurrence.start_update.eq(begin & update),
            recurrence.start_read.eq(~(active & output)),
            recurrence.address.eq(setup.address),
            recurrence.fresh.eq(self.fresh),
            recurrence.forget.eq(to_forget[_SILU - 2]),
            recurrence.update.eq(to_update[_SILU - 2]),
            recurrence.read.eq(fire & output),
            reduction.address.eq(setup.address),
            reduction.elements.eq(Mux(gated, setup.outputs >> 1, setup.outputs)),
            reduction.vectors.eq(setup.vectors),
            reduction.square.eq(setup.square),
            reduction.forget.eq(forget),
            reduction.start.eq(begin & (forget | reducing)),
            reduction.fetch.eq(fetch),
            self.stats.max.eq(reduction.max),
            self.stats.squares.eq(reduction.squares),
            argmax.start.eq(begin),
            argmax.valid.eq(to_logits[_OPERANDS]),
            self.best.index.eq(argmax.best),
            self.logits.valid.eq(to_logits[_OPERANDS]),
            self.logits.index.eq(argmax.index),
        ]
        for lane in range(self.lanes):
            a = m.submodules[f"scaler_{lane}"].a
            m.d.comb += [argmax.value[lane].eq(a), self.logits.sum[lane].eq(a)]

        wiring.connect(m, wiring.flipped(self.norm_a), reduction.norm)
        wiring.connect(m, wiring.flipped(self.norm_b), quantiser.norm)
        wiring.connect(m, wiring.flipped(self.quant_i), quantiser.quant_i)
        wiring.connect(m, wiring.flipped(self.acts), quantiser.acts)
        return m
