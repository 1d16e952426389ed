# SPDX-License-Identifier: Apache-2.0
"""Per-token scalars in hardware: registers and the operations of :mod:`nomul.model.scalar`."""

from __future__ import annotations

from typing import ClassVar

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

    Commands are executed in order, one at a time, in all lanes at once. One that is taken in a
    cycle is complete ``LATENCY`` cycles later; in that cycle the next one can be taken, and sees
    the result. So a Stat that is taken when the statistics become valid, and a Recip of it, give
    the value of a register after 2 + 4 cycles.

    .. code-block:: text

        command   |stat |     |recip|     |     |quant|
        ready     _/‾‾‾‾‾\\_____/‾‾‾‾‾\\___________/‾‾‾‾‾
        value                                   |recip's result

    Reading a register that was not written since ``clear`` gives zero. One table of inverses
    (DP16KD) and two multipliers (MULT18X18D) a lane.

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
        Register ``ra`` of the command offered, valid or not, after all commands taken; look at it
        while ``command.ready`` is high.
    """

    #: Cycles from a command to the next one, by opcode.
    LATENCY: ClassVar[dict[int, int]] = {
        isa.Const.OPCODE: 1,
        isa.Mul.OPCODE: 3,
        isa.Stat.OPCODE: 2,
        isa.Add.OPCODE: 4,
        isa.Recip.OPCODE: 4,
        isa.Rsqrt.OPCODE: 4,
    }

    def __init__(self, *, lanes: int):
        if lanes < 1:
            raise ValueError(f"ScalarUnit: lanes is {lanes}; it must be at least 1")
        self.lanes = lanes
        super().__init__(
            {
                "command": In(stream.Signature(CommandLayout)),
                "stats": In(StatsLayout(lanes)),
                "clear": In(1),
                "value": Out(data.ArrayLayout(ScalarLayout, lanes)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        offered = self.command.payload
        remaining = Signal(range(max(self.LATENCY.values()) + 1))
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
                lane.accept.eq(accept),
                lane.finish.eq(finish),
                lane.offered.eq(offered),
                lane.op.eq(op),
                lane.rd.eq(rd),
                lane.known_a.eq(written.bit_select(offered.ra, 1)),
                lane.known_b.eq(written.bit_select(offered.rb, 1)),
                self.value[number].eq(lane.value),
            ]
        return m


class _Lane(wiring.Component):
    """Registers and arithmetic of one lane; :class:`ScalarUnit` says when.

    Stages run freely from the operand registers, which hold from one command to the next; the
    result of a command is right in the cycle of ``finish``.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "accept": In(1),
                "finish": In(1),
                "offered": In(CommandLayout),
                "op": In(CommandLayout["op"].shape),  # of the command in progress
                "rd": In(_REGISTER),
                "known_a": In(1),
                "known_b": In(1),
                "statistic": In(SQUARES_BITS),
                "value": Out(ScalarLayout),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # Registers: written when a command finishes; read in that cycle, they give its result.
        result = Signal(ScalarLayout)
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
            (isa.Const.OPCODE,): b,
            (isa.Mul.OPCODE,): self.mul(m, a, b, some_a & some_b),
            (isa.Add.OPCODE,): self.add(m, a, b, some_a, some_b),
            (isa.Stat.OPCODE,): self.normalised(m),
            _INVERSES: self.inverse(m, a, some_a),
        }
        selected = Signal(len(results))
        with m.If(self.accept):
            m.d.sync += selected.eq(Cat(self.offered.op.matches(*ops) for ops in results))
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
        fits = some & (exponent >= _EXPONENT_MIN)  # never too large
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
            product.eq(entry[INVERSE_BASE_BITS:] * fraction),
            exponent.eq(
                Mux(is_root, -MANTISSA_BITS - half_power, 1 - 2 * MANTISSA_BITS - a.exponent)
            ),
            some_2.eq(fits),
            exponent_2.eq(Mux(fits, exponent, 0)),
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
        with m.If(self.accept):
            m.d.sync += [
                value.eq(self.statistic),
                some.eq(Cat(self.statistic[g].any() for g in groups)),
                is_maximum.eq(self.offered.statistic < MAXIMA),
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
