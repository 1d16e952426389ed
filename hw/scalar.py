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
_GROUP = 8  # bits that normalisation looks at together

#: A scalar instruction: ``op`` is its opcode; fields that it lacks are ignored.
CommandLayout = data.StructLayout({
    "op": range(isa.Stat.OPCODE + 1),
    "rd": _REGISTER,
    "ra": _REGISTER,
    "rb": _REGISTER,
    "mantissa": MANTISSA_BITS,
    "exponent": signed(EXPONENT_BITS),
    "statistic": range(max(Statistic) + 1),
})


def _leading(bits: Value) -> tuple[Value, Value]:
    """One-hot of the highest bit set, and whether any is."""
    one_hot = [bits[k] & ~bits[k + 1 :].any() for k in range(len(bits) - 1)] + [bits[-1]]
    return Cat(one_hot), bits.any()


def _pick(one_hot: Value, choices: list[Value]) -> Value:
    """The choice whose bit of ``one_hot`` is set; zero if none is."""
    picked: Value = Const(0)
    for select, choice in zip(one_hot, choices, strict=True):  # type: ignore[call-overload]
        picked = picked | Mux(select, choice, 0)
    return picked


class ScalarUnit(wiring.Component):
    """Scalar registers of every lane, and the instructions that work on them, bit for bit.

    Commands are executed in order, one at a time, in all lanes at once. One that is taken in a cycle is complete
    ``LATENCY`` cycles later; in that cycle the next one can be taken, and sees the result. So a Stat that is taken
    when the statistics become valid, and a Recip of it, give the value of a register after 2 + 3 cycles.

    .. code-block:: text

        command   |stat |     |recip|     |     |quant|
        ready     _/‾‾‾‾‾\\_____/‾‾‾‾‾\\___________/‾‾‾‾‾
        value                                   |recip's result

    Reading a register that was not written since ``clear`` gives zero. One table of inverses (DP16KD) and two
    multipliers (MULT18X18D) a lane.

    Parameters
    ----------
    lanes : int
        ``L``, at least 1.

    Members
    -------
    command : ``In(stream.Signature(CommandLayout))``
    stats : ``In(StatsLayout(lanes))``
        Read in the cycle in which a Stat is taken.
    clear : ``In(1)``
        Sets all registers to zero; while no command is in progress.
    value : ``Out(ArrayLayout(ScalarLayout, lanes))``
        Register ``ra`` of the command offered, valid or not, after all commands taken; look at it while
        ``command.ready`` is high.
    """

    #: Cycles from a command to the next one, by opcode.
    LATENCY = {
        isa.Const.OPCODE: 1,
        isa.Mul.OPCODE: 2,
        isa.Stat.OPCODE: 2,
        isa.Add.OPCODE: 3,
        isa.Recip.OPCODE: 3,
        isa.Rsqrt.OPCODE: 3,
    }

    def __init__(self, *, lanes: int):
        if lanes < 1:
            raise ValueError(f"ScalarUnit: lanes is {lanes}; it must be at least 1")
        self.lanes = lanes
        super().__init__({
            "command": In(stream.Signature(CommandLayout)),
            "stats": In(StatsLayout(lanes)),
            "clear": In(1),
            "value": Out(data.ArrayLayout(ScalarLayout, lanes)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        offered = self.command.payload
        remaining = Signal(range(max(self.LATENCY.values()) + 1))
        accept, finish = Signal(), Signal()
        m.d.comb += [
            self.command.ready.eq(remaining <= 1),
            accept.eq(self.command.valid & self.command.ready),
            finish.eq(remaining == 1),
        ]
        op, rd = Signal.like(offered.op), Signal.like(offered.rd)
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
                for opcode, cycles in self.LATENCY.items():
                    with m.Case(opcode):
                        m.d.sync += remaining.eq(cycles)

        for number in range(self.lanes):
            m.submodules[f"lane{number}"] = lane = _Lane()
            maxima = [self.stats.max[k][number] for k in range(MAXIMA)]
            statistics = {
                **dict(enumerate(maxima)),
                Statistic.SQUARES: self.stats.squares[number],
                Statistic.SUMS: self.stats.sums[number],
            }
            with m.Switch(offered.statistic):
                for which, value in statistics.items():
                    with m.Case(which):
                        m.d.comb += lane.statistic.eq(value)
            m.d.comb += [
                lane.accept.eq(accept), lane.finish.eq(finish),
                lane.offered.eq(offered), lane.op.eq(op), lane.rd.eq(rd),
                lane.known_a.eq(written.bit_select(offered.ra, 1)),
                lane.known_b.eq(written.bit_select(offered.rb, 1)),
                self.value[number].eq(lane.value),
            ]
        return m


class _Lane(wiring.Component):
    """Registers and arithmetic of one lane; :class:`ScalarUnit` says when.

    Stages run freely from the operand registers, which hold from one command to the next; the result of a
    command is right in the cycle of ``finish``.
    """

    def __init__(self) -> None:
        super().__init__({
            "accept": In(1),
            "finish": In(1),
            "offered": In(CommandLayout),
            "op": In(CommandLayout["op"].shape),  # of the command in progress
            "rd": In(_REGISTER),
            "known_a": In(1),
            "known_b": In(1),
            "statistic": In(SQUARES_BITS),
            "value": Out(ScalarLayout),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        result = Signal(ScalarLayout)

        # Registers: written when a command finishes; read in that cycle, they give its result.
        m.submodules.registers = registers = memory.Memory(
            shape=Shape.cast(ScalarLayout), depth=isa.REGISTERS, init=[]
        )
        write = registers.write_port()
        m.d.comb += [write.addr.eq(self.rd), write.data.eq(result), write.en.eq(self.finish)]

        def read(register: Value, known: Value) -> Signal:
            port = registers.read_port(domain="comb")
            bypass, value = Signal(), Signal(ScalarLayout)
            m.d.comb += [
                port.addr.eq(register),
                bypass.eq(self.finish & (self.rd == register)),
                value.eq(Mux(bypass, result, Mux(known, port.data, 0))),
            ]
            return value

        read_a, read_b = read(self.offered.ra, self.known_a), read(self.offered.rb, self.known_b)
        m.d.comb += self.value.eq(read_a)
        a, b = Signal(ScalarLayout), Signal(ScalarLayout)  # b holds the constant of a Const
        is_const = self.offered.op == isa.Const.OPCODE
        with m.If(self.accept):
            m.d.sync += [
                a.eq(read_a),
                b.mantissa.eq(Mux(is_const, self.offered.mantissa, read_b.mantissa)),
                b.exponent.eq(Mux(is_const, self.offered.exponent, read_b.exponent)),
            ]
        top = MANTISSA_BITS - 1  # bit that every mantissa but zero's has
        some_a, some_b = a.mantissa[top], b.mantissa[top]

        results = {
            isa.Const.OPCODE: b,
            isa.Mul.OPCODE: self.mul(m, a, b, some_a & some_b),
            isa.Add.OPCODE: self.add(m, a, b, some_a, some_b),
            isa.Recip.OPCODE: self.inverse(m, read_a, a, some_a),
            isa.Stat.OPCODE: self.normalised(m),
        }
        selected = Signal(len(results))
        with m.If(self.accept):
            for k, opcode in enumerate(results):
                opcodes = [opcode, isa.Rsqrt.OPCODE] if opcode == isa.Recip.OPCODE else [opcode]
                m.d.sync += selected[k].eq(self.offered.op.matches(*opcodes))
        m.d.comb += result.as_value().eq(_pick(selected, [r.as_value() for r in results.values()]))
        return m

    @staticmethod
    def made(m: Module, name: str, mantissa: Value, exponent: Value, zero: Value | int) -> Signal:
        """A scalar from a normalised mantissa and an exponent that may be out of range."""
        made = Signal(ScalarLayout, name=name)
        beyond = exponent[EXPONENT_BITS - 1 :]
        fits = beyond.all() | ~beyond.any()
        with m.If(zero | ~fits & exponent[-1]):
            m.d.comb += made.as_value().eq(0)
        with m.Elif(~fits):
            m.d.comb += [made.mantissa.eq(~0), made.exponent.eq((1 << EXPONENT_BITS - 1) - 1)]
        with m.Else():
            m.d.comb += [made.mantissa.eq(mantissa), made.exponent.eq(exponent)]
        return made

    def mul(self, m: Module, a: Signal, b: Signal, some: Value) -> Signal:
        """1: product, exponents for both cases of its leading bit. 2: choice."""
        product = Signal(2 * MANTISSA_BITS)
        low = Signal(signed(EXPONENT_BITS + 2))
        high = Signal.like(low)
        zero = Signal()
        m.d.sync += [
            product.eq(a.mantissa * b.mantissa),
            low.eq(a.exponent + b.exponent + (MANTISSA_BITS - 1)),
            high.eq(a.exponent + b.exponent + MANTISSA_BITS),
            zero.eq(~some),
        ]
        return self.made(
            m, "product_made",
            Mux(product[-1], product[MANTISSA_BITS:], product[MANTISSA_BITS - 1 : -1]),
            Mux(product[-1], high, low), zero,
        )

    def add(self, m: Module, a: Signal, b: Signal, some_a: Value, some_b: Value) -> Signal:
        """1: the larger exponent and the distance. 2: alignment. 3: sum."""
        ab, ba = a.exponent - b.exponent, b.exponent - a.exponent
        swap = Signal()
        m.d.comb += swap.eq(~some_a | some_b & ab[-1])
        distance = Mux(swap, ba, ab)[:EXPONENT_BITS]
        small_1, big_1, exponent_1 = Signal(MANTISSA_BITS), Signal(MANTISSA_BITS), Signal(EXPONENT_BITS)
        bits = MANTISSA_BITS.bit_length()
        shift = Signal(bits)
        small_2, big_2 = Signal.like(small_1), Signal.like(big_1)
        exponent_2 = Signal(signed(EXPONENT_BITS))
        m.d.sync += [
            big_1.eq(Mux(swap, b.mantissa, a.mantissa)),
            small_1.eq(Mux(swap, a.mantissa, b.mantissa)),
            exponent_1.eq(Mux(swap, b.exponent, a.exponent)),
            shift.eq(distance[:bits] | distance[bits:].any().replicate(bits)),
            big_2.eq(big_1), small_2.eq(small_1 >> shift), exponent_2.eq(exponent_1),
        ]
        total = Signal(MANTISSA_BITS + 1)
        m.d.comb += total.eq(big_2 + small_2)
        return self.made(
            m, "sum_made", Mux(total[-1], total[1:], total[:-1]), exponent_2 + total[-1], 0
        )

    def inverse(self, m: Module, read_a: Signal, a: Signal, some: Value) -> Signal:
        """0: address. 1: table. 2: slope times fraction. 3: base minus that."""
        m.submodules.table = table = memory.Memory(
            shape=unsigned(INVERSE_BASE_BITS + INVERSE_SLOPE_BITS),
            depth=len(INVERSE_TABLE),
            init=[int(base) | int(slope) << INVERSE_BASE_BITS for base, slope in INVERSE_TABLE],
            attrs={"ram_style": "block"},
        )
        port = table.read_port()
        rest = read_a.mantissa[:-1]
        m.d.comb += port.addr.eq(Mux(
            self.offered.op == isa.Rsqrt.OPCODE,
            # the octave is that of the power e + 17: its lowest bit is the exponent's, inverted
            Cat(rest[INVERSE_STEP_BITS:], ~read_a.exponent[0], 1),
            Cat(rest[INVERSE_STEP_BITS - 1 :], 0),
        ))
        entry = Signal.like(port.data)
        fraction = Signal(INVERSE_STEP_BITS)
        is_root = self.op == isa.Rsqrt.OPCODE
        base = Signal(INVERSE_BASE_BITS)
        product = Signal(INVERSE_SLOPE_BITS + INVERSE_STEP_BITS)
        exponent = Signal(signed(EXPONENT_BITS + 1))
        half_power = (a.exponent + (MANTISSA_BITS - 1)) >> 1
        zero = Signal()
        m.d.sync += [
            entry.eq(port.data),
            fraction.eq(Mux(is_root, a.mantissa[:INVERSE_STEP_BITS],
                            a.mantissa[: INVERSE_STEP_BITS - 1] << 1)),
            base.eq(entry[:INVERSE_BASE_BITS]),
            product.eq(entry[INVERSE_BASE_BITS:] * fraction),
            exponent.eq(Mux(is_root, -MANTISSA_BITS - half_power, 1 - 2 * MANTISSA_BITS - a.exponent)),
            zero.eq(~some),
        ]
        # base - (product + 512 >> 10) in one addition: the carry into it is the rounding bit, inverted
        drop = product[INVERSE_STEP_BITS:]
        minus = Cat(~product[INVERSE_STEP_BITS - 1], ~drop,
                    Const(~0, INVERSE_BASE_BITS - len(drop)))
        difference = (Cat(1, base) + minus)[1 : INVERSE_BASE_BITS + 1]
        return self.made(m, "inverse_made", difference, exponent, zero)

    def normalised(self, m: Module) -> Signal:
        """0: the statistic. 1: its leading group of bits. 2: its leading bit."""
        value = Signal(SQUARES_BITS)
        is_maximum = Signal()
        groups = [slice(k, k + _GROUP) for k in range(0, SQUARES_BITS, _GROUP)]
        some = Signal(len(groups))
        with m.If(self.accept):
            m.d.sync += [
                value.eq(self.statistic),
                some.eq(Cat(self.statistic[g].any() for g in groups)),
                is_maximum.eq(self.offered.statistic < MAXIMA),
            ]
        top = MANTISSA_BITS - 1
        padded = Cat(Const(0, top), value)
        leading, any_group = _leading(some)
        window = Signal(_GROUP + top)
        base = Signal(signed(EXPONENT_BITS))
        zero, small = Signal(), Signal()
        m.d.sync += [
            window.eq(_pick(leading, [padded[g.start : g.stop + top] for g in groups])),
            base.eq(_pick(leading, [Const(g.start - top, signed(EXPONENT_BITS)) for g in groups])),
            zero.eq(~any_group),
            small.eq(is_maximum & ~value[top:].any()),
        ]
        position, _ = _leading(window[top:])
        made = Signal(ScalarLayout)
        with m.If(small):  # a maximum counts as 2¹⁷ at least
            m.d.comb += [made.mantissa.eq(1 << top), made.exponent.eq(0)]
        with m.Elif(~zero):
            m.d.comb += [
                made.mantissa.eq(_pick(position, [window[k : k + top + 1] for k in range(_GROUP)])),
                made.exponent.eq(base + _pick(position, [Const(k, 3) for k in range(_GROUP)])),
            ]
        return made
