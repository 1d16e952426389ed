# SPDX-License-Identifier: Apache-2.0
"""Per-token scalars in hardware: registers and the operations of :mod:`nomul.model.scalar`."""

from __future__ import annotations

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model import isa
from nomul.model.isa import Statistic
from nomul.model.scalar import (
    EXPONENT_BITS,
    INVERSE_BASE_BITS,
    INVERSE_SLOPE_BITS,
    INVERSE_STEP_BITS,
    INVERSE_TABLE,
    MANTISSA_BITS,
)

from .ports import MAXIMA, SQUARES_BITS, ScalarLayout, StatsLayout

__all__ = ["CommandLayout", "ScalarUnit"]

_REGISTER = range(isa.REGISTERS)
_INVERSES = (isa.Recip.OPCODE, isa.Rsqrt.OPCODE)
_EXPONENT_MAX = (1 << EXPONENT_BITS - 1) - 1
_EXPONENT_MIN = -(1 << EXPONENT_BITS - 1)
_GROUP = 8  # bits that normalisation looks at together
_LATENCY = {  # cycles from an operand to its result
    isa.Const.OPCODE: 1,
    isa.Mul.OPCODE: 3,
    isa.Stat.OPCODE: 2,
    isa.Add.OPCODE: 4,
    isa.Recip.OPCODE: 4,
    isa.Rsqrt.OPCODE: 4,
}

#: A scalar instruction: ``op`` is its opcode; fields that it lacks are ignored.
CommandLayout = data.StructLayout(
    {
        "op": range(isa.Stat.OPCODE + 1),
        "rd": _REGISTER,
        "ra": _REGISTER,
        "rb": _REGISTER,
        "mantissa": MANTISSA_BITS,
        "exponent": signed(EXPONENT_BITS),
        "statistic": range(max(Statistic) + 1),
    }
)


def _leading(bits: Value) -> Value:
    """One-hot of the highest bit set."""
    return Cat(*(bits[k] & ~bits[k + 1 :].any() for k in range(len(bits) - 1)), bits[-1])


def _position(bits: Value) -> Value:
    """Number of the highest bit set; of a power of two of bits."""
    if len(bits) == 2:
        return bits[1]
    half = len(bits) // 2
    high = bits[half:].any()
    return Cat(Mux(high, _position(bits[half:]), _position(bits[:half])), high)


def _pick(one_hot: Value, choices: list[Value]) -> Value:
    """The choice whose bit of ``one_hot`` is set; zero if none is."""
    picked: Value = Const(0)
    for select, choice in zip(one_hot, choices, strict=True):
        picked = picked | Mux(select, choice, 0)
    return picked


class ScalarUnit(wiring.Component):
    """Scalar registers of every lane, and the instructions that work on them, bit for bit.

    Commands are executed in order, one at a time, in one pipeline that the lanes enter one behind the other. One
    that is taken in a cycle is complete ``latency(op, lanes)`` cycles later; in that cycle the next one can be
    taken, and sees the result. So with one lane a Stat that is taken when the statistics become valid, and a Recip
    of it, give the value of a register after 2 + 4 cycles.

    .. code-block:: text

        command   |stat |     |recip|     |     |quant|
        ready     _/‾‾‾‾‾\\_____/‾‾‾‾‾\\___________/‾‾‾‾‾
        value                                   |recip's result

    Reading a register that was not written since ``clear`` gives zero. One table of inverses
    (DP16KD) and two multipliers (MULT18X18D) whatever the lanes.

    Parameters
    ----------
    lanes : int
        ``L``, at least 1.

    Members
    -------
    command : ``In(stream.Signature(CommandLayout))``
    stats_lane : ``Out(range(max(lanes, 2)))``
        0 while ``command.ready`` is high; then lane 1, 2, … in the cycles after a Stat is taken.
    stats : ``In(StatsLayout())``
        Of lane ``stats_lane``, in the same cycle.
    clear : ``In(1)``
        Sets all registers to zero; while no command is in progress.
    value : ``Out(ArrayLayout(ScalarLayout, lanes))``
        Register ``ra`` of the command offered, valid or not, after all commands taken; look at it
        while ``command.ready`` is high.
    """

    def __init__(self, *, lanes: int):
        if lanes < 1:
            raise ValueError(f"ScalarUnit: lanes is {lanes}; it must be at least 1")
        self.lanes = lanes
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout)),
                "stats_lane": Out(range(max(lanes, 2))),
                "stats": In(StatsLayout()),
                "clear": In(1),
                "value": Out(data.ArrayLayout(ScalarLayout, lanes)),
            }
        )

    @staticmethod
    def latency(op: int, lanes: int) -> int:
        """Cycles from a command with that opcode to the next one."""
        return _LATENCY[op] + lanes - 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        offered, lanes = self.command.payload, self.lanes
        remaining = Signal(range(max(_LATENCY.values()) + lanes))
        accept, finish = Signal(), Signal()
        op, rd = Signal.like(offered.op), Signal.like(offered.rd)
        m.d.comb += [
            self.command.ready.eq(~remaining[1:].any()),
            accept.eq(self.command.valid & self.command.ready),
            finish.eq(remaining == 1),
        ]
        written = Signal(isa.REGISTERS)
        with m.If(remaining != 0):
            m.d.sync += remaining.eq(remaining - 1)
        with m.If(finish):
            m.d.sync += written.bit_select(rd, 1).eq(1)
        with m.If(self.clear):
            m.d.sync += written.eq(0)
        with m.If(accept):
            m.d.sync += [op.eq(offered.op), rd.eq(offered.rd)]
            with m.Switch(offered.op):
                for opcode in _LATENCY:
                    with m.Case(opcode):
                        m.d.sync += remaining.eq(self.latency(opcode, lanes))

        # Lane 0 enters when the command is taken, the others behind it.
        m.submodules.pipeline = pipeline = _Pipeline(aligned=lanes > 1)
        entering = Signal(CommandLayout)
        enter, write, write_lane = Signal(), Signal(), Signal.like(self.stats_lane)
        lane = Signal.like(self.stats_lane)  # that may enter
        if lanes > 1:
            taken = Signal(CommandLayout)
            with m.If(accept):
                m.d.sync += [taken.eq(offered), lane.eq(1)]
            with m.Elif(lane != 0):
                m.d.sync += lane.eq(Mux(lane == lanes - 1, 0, lane + 1))
            m.d.comb += [
                entering.eq(Mux(lane == 0, offered, taken)),
                enter.eq(accept | (lane != 0)),
                write.eq((remaining != 0) & (remaining <= lanes)),
                write_lane.eq(lanes - remaining),
            ]
        else:
            m.d.comb += [entering.eq(offered), enter.eq(accept), write.eq(finish)]
        m.d.comb += self.stats_lane.eq(lane)

        # Registers: read in the cycle in which they are written, they give the result. Operand a of
        # all lanes is shown; operand b is read by the lane that enters.
        result = pipeline.result
        same_a, same_b = finish & (rd == entering.ra), finish & (rd == entering.rb)
        known_a = written.bit_select(entering.ra, 1)
        known_b = written.bit_select(entering.rb, 1)
        shape = Shape.cast(ScalarLayout)
        for number in range(lanes):
            m.submodules[f"lane{number}"] = registers = memory.Memory(
                shape=shape, depth=isa.REGISTERS, init=[]
            )
            put, get = registers.write_port(), registers.read_port(domain="comb")
            m.d.comb += [
                put.en.eq(write & (write_lane == number)),
                put.addr.eq(rd),
                put.data.eq(result),
                get.addr.eq(entering.ra),
            ]
            kept = Mux(known_a | same_a, get.data, 0)
            if number == lanes - 1:  # the last one is just being written
                kept = Mux(same_a, result.as_value(), Mux(known_a, get.data, 0))
            m.d.comb += self.value[number].as_value().eq(kept)
        m.submodules.others = others = memory.Memory(
            shape=shape, depth=isa.REGISTERS * lanes, init=[]
        )
        put, get = others.write_port(), others.read_port(domain="comb")
        m.d.comb += [
            put.en.eq(write),
            put.addr.eq(Cat(rd, write_lane)),
            put.data.eq(result),
            get.addr.eq(Cat(entering.rb, lane)),
        ]
        if lanes == 1:
            b = Mux(same_b, result.as_value(), Mux(known_b, get.data, 0))
        else:  # lane 0, which enters in that cycle, was written before
            b = Mux(known_b | same_b, get.data, 0)

        statistics = {
            **{k: self.stats.max[k] for k in range(MAXIMA)},
            Statistic.SQUARES: self.stats.squares,
            Statistic.SUMS: self.stats.sums,
        }
        with m.Switch(entering.statistic):
            for which, value in statistics.items():
                with m.Case(which):
                    m.d.comb += pipeline.statistic.eq(value)
        m.d.comb += [
            pipeline.enter.eq(enter),
            pipeline.entering.eq(entering),
            pipeline.op.eq(op),
            pipeline.a.eq(self.value[lane] if lanes > 1 else self.value[0]),
            pipeline.b.eq(b),
        ]
        return m


class _Pipeline(wiring.Component):
    """The arithmetic; :class:`ScalarUnit` says when.

    Stages run freely from the operand registers. The result of an operand is right :data:`_LATENCY` cycles after
    it entered; if the stages are not ``aligned``, only while the operand registers hold.
    """

    def __init__(self, *, aligned: bool) -> None:
        self.aligned = aligned
        super().__init__(
            {
                "enter": In(1),
                "entering": In(CommandLayout),
                "op": In(CommandLayout["op"].shape),  # of the command in progress
                "a": In(ScalarLayout),
                "b": In(ScalarLayout),
                "statistic": In(SQUARES_BITS),
                "result": Out(ScalarLayout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = self.result
        a, b = Signal(ScalarLayout), Signal(ScalarLayout)  # b holds the constant of a Const
        is_const = self.entering.op == isa.Const.OPCODE
        with m.If(self.enter):
            m.d.sync += [
                a.eq(self.a),
                b.mantissa.eq(Mux(is_const, self.entering.mantissa, self.b.mantissa)),
                b.exponent.eq(Mux(is_const, self.entering.exponent, self.b.exponent)),
            ]
        top = MANTISSA_BITS - 1  # bit that every mantissa but zero's has
        some_a, some_b = a.mantissa[top], b.mantissa[top]

        results = {
            (isa.Const.OPCODE,): b,
            (isa.Mul.OPCODE,): self.mul(m, a, b, some_a & some_b),
            (isa.Add.OPCODE,): self.add(m, a, b, some_a, some_b),
            (isa.Stat.OPCODE,): self.normalised(m),
            _INVERSES: self.inverse(m, a, some_a),
        }
        selected = Signal(len(results))
        with m.If(self.enter):
            m.d.sync += selected.eq(Cat(self.entering.op.matches(*ops) for ops in results))
        m.d.comb += result.as_value().eq(_pick(selected, [r.as_value() for r in results.values()]))
        return m

    def mul(self, m: Module, a: Signal, b: Signal, some: Value) -> Signal:
        """1: product and exponent. 2: its leading bit, its range. 3: limits."""
        product, exponent, zero = (
            Signal(2 * MANTISSA_BITS, reset_less=True),
            Signal(signed(EXPONENT_BITS + 2)),
            Signal(),
        )
        m.d.sync += [
            product.eq(a.mantissa * b.mantissa),
            exponent.eq(a.exponent + b.exponent + (MANTISSA_BITS - 1)),
            zero.eq(~some),
        ]
        high = product[-1]
        mantissa, sum_2, zero_2 = Signal(MANTISSA_BITS), Signal.like(exponent), Signal()
        m.d.sync += [
            mantissa.eq(Mux(high, product[MANTISSA_BITS:], product[MANTISSA_BITS - 1 : -1])),
            sum_2.eq(exponent + high),
            zero_2.eq(zero),
        ]
        beyond = sum_2[EXPONENT_BITS - 1 :]
        fits = beyond.all() | ~beyond.any()
        made = Signal(ScalarLayout)
        with m.If(~fits & ~sum_2[-1]):
            m.d.comb += [made.mantissa.eq(~0), made.exponent.eq(_EXPONENT_MAX)]
        with m.Elif(fits):
            m.d.comb += [made.mantissa.eq(mantissa), made.exponent.eq(sum_2)]
        with m.If(zero_2):
            m.d.comb += made.as_value().eq(0)
        return made

    def add(self, m: Module, a: Signal, b: Signal, some_a: Value, some_b: Value) -> Signal:
        """1: the larger exponent and the distance. 2: alignment. 3: sum. 4: carry."""
        ab, ba = a.exponent - b.exponent, b.exponent - a.exponent
        swap = Signal()
        m.d.comb += swap.eq(~some_a | some_b & ab[-1])
        distance = Mux(swap, ba, ab)[:EXPONENT_BITS]
        bits = MANTISSA_BITS.bit_length()
        small_1, big_1, shift = Signal(MANTISSA_BITS), Signal(MANTISSA_BITS), Signal(bits)
        small_2, big_2 = Signal.like(small_1), Signal.like(big_1)
        total = Signal(MANTISSA_BITS + 1)
        exponents = [Signal(signed(EXPONENT_BITS), name=f"exponent_{k}") for k in (1, 2, 3)]
        above, largest = Signal(signed(EXPONENT_BITS)), Signal()
        m.d.sync += [
            big_1.eq(Mux(swap, b.mantissa, a.mantissa)),
            small_1.eq(Mux(swap, a.mantissa, b.mantissa)),
            shift.eq(distance[:bits] | distance[bits:].any().replicate(bits)),
            big_2.eq(big_1),
            small_2.eq(small_1 >> shift),
            total.eq(big_2 + small_2),
            exponents[0].eq(Mux(swap, b.exponent, a.exponent)),
            exponents[1].eq(exponents[0]),
            exponents[2].eq(exponents[1]),
            largest.eq(exponents[1] == _EXPONENT_MAX),
            above.eq(Mux(exponents[1] == _EXPONENT_MAX, _EXPONENT_MAX, exponents[1] + 1)),
        ]
        made = Signal(ScalarLayout)
        with m.If(total[-1]):
            m.d.comb += [
                made.mantissa.eq(total[1:] | largest.replicate(MANTISSA_BITS)),
                made.exponent.eq(above),
            ]
        with m.Else():
            m.d.comb += [made.mantissa.eq(total), made.exponent.eq(exponents[2])]
        return made

    def inverse(self, m: Module, a: Signal, some: Value) -> Signal:
        """1: address. 2: table. 3: slope times fraction. 4: base minus that."""
        m.submodules.table = table = memory.Memory(
            shape=unsigned(INVERSE_BASE_BITS + INVERSE_SLOPE_BITS),
            depth=len(INVERSE_TABLE),
            init=[int(base) | int(slope) << INVERSE_BASE_BITS for base, slope in INVERSE_TABLE],
            attrs={"ram_style": "block"},
        )
        port = table.read_port()
        is_root = self.op == isa.Rsqrt.OPCODE
        rest = a.mantissa[:-1]
        m.d.comb += port.addr.eq(
            Mux(
                is_root,
                # the octave is that of the power e + 17: its lowest bit is the exponent's, inverted
                Cat(rest[INVERSE_STEP_BITS:], ~a.exponent[0], 1),
                Cat(rest[INVERSE_STEP_BITS - 1 :], 0),
            )
        )
        entry = Signal.like(port.data, reset_less=True)  # the block RAM's own register
        fraction = Signal(INVERSE_STEP_BITS)
        base = Signal(INVERSE_BASE_BITS)
        product = Signal(INVERSE_SLOPE_BITS + INVERSE_STEP_BITS, reset_less=True)
        exponent = Signal(signed(EXPONENT_BITS + 1))
        half_power = (a.exponent + (MANTISSA_BITS - 1)) >> 1
        exponent_2, some_2 = Signal(signed(EXPONENT_BITS)), Signal()

        def late(value: Signal) -> Value:
            """A cycle later, if the operand may have changed by then."""
            after = Signal.like(value)
            if self.aligned:
                m.d.sync += after.eq(value)
            return after if self.aligned else value

        some_1 = Signal()
        m.d.comb += some_1.eq(some)
        late_exponent = late(exponent)
        fits = late(late(some_1)) & (late_exponent >= _EXPONENT_MIN)  # never too large
        m.d.sync += [
            entry.eq(port.data),
            fraction.eq(
                Mux(
                    is_root,
                    a.mantissa[:INVERSE_STEP_BITS],
                    a.mantissa[: INVERSE_STEP_BITS - 1] << 1,
                )
            ),
            base.eq(entry[:INVERSE_BASE_BITS]),
            product.eq(entry[INVERSE_BASE_BITS:] * late(fraction)),
            exponent.eq(
                Mux(is_root, -MANTISSA_BITS - half_power, 1 - 2 * MANTISSA_BITS - a.exponent)
            ),
            some_2.eq(fits),
            exponent_2.eq(Mux(fits, late_exponent, 0)),
        ]
        # base - (product + 512 >> 10), rounded by the borrow of one bit more
        difference = (Cat(0, base) - product[INVERSE_STEP_BITS - 1 :])[1 : INVERSE_BASE_BITS + 1]
        made = Signal(ScalarLayout)
        m.d.comb += [made.mantissa.eq(Mux(some_2, difference, 0)), made.exponent.eq(exponent_2)]
        return made

    def normalised(self, m: Module) -> Signal:
        """0: the statistic. 1: its leading group of bits. 2: its leading bit."""
        value, is_maximum = Signal(SQUARES_BITS), Signal()
        groups = [slice(k, k + _GROUP) for k in range(0, SQUARES_BITS, _GROUP)]
        some = Signal(len(groups))
        with m.If(self.enter):
            m.d.sync += [
                value.eq(self.statistic),
                some.eq(Cat(self.statistic[g].any() for g in groups)),
                is_maximum.eq(self.entering.statistic < MAXIMA),
            ]
        top = MANTISSA_BITS - 1
        padded = Cat(Const(0, top), value)
        leading = _leading(some)
        window, position = Signal(_GROUP + top), Signal(range(_GROUP))
        base = Signal(signed(EXPONENT_BITS))
        zero, small = Signal(), Signal()
        m.d.sync += [
            window.eq(_pick(leading, [padded[g.start : g.stop + top] for g in groups])),
            position.eq(_pick(leading, [_position(value[g]) for g in groups])),
            base.eq(_pick(leading, [Const(g.start - top, signed(EXPONENT_BITS)) for g in groups])),
            zero.eq(~some.any()),
            small.eq(is_maximum & ~value[top:].any()),
        ]
        made = Signal(ScalarLayout)
        with m.If(small):  # a maximum counts as 2¹⁷ at least
            m.d.comb += [made.mantissa.eq(1 << top), made.exponent.eq(0)]
        with m.Elif(~zero):
            m.d.comb += [
                made.mantissa.eq(window.bit_select(position, MANTISSA_BITS)),
                made.exponent.eq(base + position),
            ]
        return made
