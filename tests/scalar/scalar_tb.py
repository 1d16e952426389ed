# SPDX-License-Identifier: Apache-2.0
"""cocotb side: random commands against nomul.model.scalar; what is read is checked every cycle."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import MAX_BITS, MAXIMA, SQUARES_BITS, SUMS_BITS, ScalarLayout, StatsLayout
from nomul.hw.scalar import CommandLayout, ScalarUnit
from nomul.model import isa, scalar
from nomul.model.isa import Statistic
from nomul.model.scalar import MANTISSA_BITS, ZERO, Scalar
from nomul.sim.harness import Bench, pack_bits, parameters, unpack_bits

LANES = parameters()["lanes"]
COMMANDS = 6000 // LANES
BINARY = {isa.Mul.OPCODE: scalar.mul, isa.Add.OPCODE: scalar.add}
UNARY = {isa.Recip.OPCODE: scalar.recip, isa.Rsqrt.OPCODE: scalar.rsqrt}


class Checker:
    """Follows the unit with golden registers; drives statistics that change every cycle."""

    def __init__(self, bench: Bench):
        self.bench, self.dut, self.rng = bench, bench.dut, bench.rng
        self.registers = [[ZERO] * isa.REGISTERS for _ in range(LANES)]
        self.checked = self.taken = 0
        self.pending: dict[int, dict[str, int]] = {}

    def number(self, bits: int) -> int:
        """Zero, one bit, all bits or anything, of a random length."""
        length = self.rng.randint(0, bits)
        return self.rng.choice(
            [0, 1 << max(length - 1, 0), (1 << length) - 1, self.rng.getrandbits(length)]
        )

    async def run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            stats = {
                "max": [[self.number(MAX_BITS) for _ in range(LANES)] for _ in range(MAXIMA)],
                "squares": [self.number(SQUARES_BITS) for _ in range(LANES)],
                "sums": [self.number(SUMS_BITS) for _ in range(LANES)],
            }
            lane = int(self.dut.stats_lane.value)
            shown = {
                "max": [most[lane] for most in stats["max"]],
                "squares": stats["squares"][lane],
                "sums": stats["sums"][lane],
            }
            self.dut.stats.value = pack_bits(StatsLayout(), shown)
            await ReadOnly()
            for k in [k for k in self.pending if k == lane]:  # a Stat reads the lanes one after the other
                command = self.pending.pop(k)
                self.registers[k][command["rd"]] = self.execute(command, self.registers[k], stats, k)
            if self.dut.rst.value or not self.dut.command__ready.value:
                continue
            command = unpack_bits(CommandLayout, int(self.dut.command__payload.value))
            value = int(self.dut.value.value)
            for lane, registers in enumerate(self.registers):
                bits = value >> lane * ScalarLayout.size & (1 << ScalarLayout.size) - 1
                found = Scalar(**unpack_bits(ScalarLayout, bits))
                assert found == registers[command["ra"]], (lane, command, found)
                self.checked += 1
            assert not self.pending
            if self.dut.command__valid.value:
                self.taken += 1
                for lane, registers in enumerate(self.registers):
                    if lane and command["op"] == isa.Stat.OPCODE:
                        self.pending[lane] = command
                    else:
                        registers[command["rd"]] = self.execute(command, registers, stats, lane)

    def execute(self, c: dict[str, int], r: list[Scalar], stats: Any, lane: int) -> Scalar:
        if c["op"] == isa.Const.OPCODE:
            return Scalar(c["mantissa"], c["exponent"])
        if c["op"] in BINARY:
            return BINARY[c["op"]](r[c["ra"]], r[c["rb"]])
        if c["op"] in UNARY:
            return UNARY[c["op"]](r[c["ra"]])
        match Statistic(c["statistic"]):
            case Statistic.SQUARES:
                return scalar.from_int(stats["squares"][lane])
            case Statistic.SUMS:
                return scalar.from_int(stats["sums"][lane])
            case which:
                return scalar.from_int(max(stats["max"][which][lane], 1 << MANTISSA_BITS - 1))


def command(bench: Bench, **fields: int) -> dict[str, int]:
    """A command with noise in the fields that it does not use."""
    rng = bench.rng
    return {
        "op": 0,
        "rd": rng.randrange(16),
        "ra": rng.randrange(16),
        "rb": rng.randrange(16),
        "mantissa": rng.getrandbits(MANTISSA_BITS),
        "exponent": rng.randint(-512, 511),
        "statistic": rng.randrange(len(Statistic)),
        **fields,
    }


def anything(bench: Bench) -> dict[str, int]:
    """A random command; constants are often extreme or alike, so that ranges overflow."""
    rng = bench.rng
    op = rng.choice(
        [isa.Const, isa.Const, isa.Mul, isa.Add, isa.Add, isa.Recip, isa.Rsqrt, isa.Stat]
    )
    if op is not isa.Const:
        return command(bench, op=op.OPCODE)
    top = 1 << MANTISSA_BITS - 1
    mantissa = rng.choice([top, 2 * top - 1, top + rng.randrange(top), top + rng.randrange(top)])
    exponent = rng.choice(
        [-512, -511, 510, 511, rng.randint(-512, 511), *(rng.randint(-40, 40) for _ in "123456")]
    )
    if rng.random() < 0.05:
        mantissa = exponent = 0
    return command(bench, op=isa.Const.OPCODE, mantissa=mantissa, exponent=exponent)


async def begin(dut: Any) -> tuple[Bench, Checker]:
    bench = Bench(dut, ScalarUnit(lanes=LANES))
    dut.clear.value = dut.stats.value = 0
    await bench.start()
    checker = Checker(bench)
    cocotb.start_soon(checker.run())
    return bench, checker


@cocotb.test(timeout_time=500, timeout_unit="us")
@cocotb.parametrize(stall=[0.0, 0.3])
async def equals_the_model(dut, stall: float) -> None:
    bench, checker = await begin(dut)
    bench.send("command", [anything(bench) for _ in range(COMMANDS)], stall=stall)
    await bench.sent("command")
    await bench.step(5)
    assert checker.taken == COMMANDS
    assert checker.checked >= COMMANDS * LANES


@cocotb.test(timeout_time=500, timeout_unit="us")
async def inverts_every_segment(dut) -> None:
    bench, checker = await begin(dut)
    commands = []
    for segment in range(bench.rng.randrange(LANES), 512, LANES):
        low = (1 << MANTISSA_BITS - 1) + (segment << 8)
        for mantissa in (low, low + 255, low + bench.rng.randrange(256)):
            exponent = bench.rng.randint(-60, 60)
            commands += [
                command(bench, op=isa.Const.OPCODE, rd=1, mantissa=mantissa, exponent=exponent),
                command(bench, op=isa.Recip.OPCODE, rd=2, ra=1),
                command(bench, op=isa.Rsqrt.OPCODE, rd=3, ra=1),
                command(bench, op=isa.Mul.OPCODE, rd=4, ra=2, rb=3),
                command(bench, op=isa.Mul.OPCODE, rd=5, ra=4, rb=3),
                command(bench, op=isa.Add.OPCODE, rd=5, ra=5, rb=2),
            ]
    bench.send("command", commands)
    await bench.sent("command")
    await bench.step(3)
    assert checker.taken == len(commands)


@cocotb.test(timeout_time=50, timeout_unit="us")
async def takes_the_stated_cycles(dut) -> None:
    bench, _ = await begin(dut)
    kinds = (isa.Const, isa.Mul, isa.Add, isa.Recip, isa.Rsqrt, isa.Stat)
    operations = [kind.OPCODE for kind in kinds for _ in range(3)]
    bench.rng.shuffle(operations)
    operations.append(isa.Const.OPCODE)
    bench.send("command", [command(bench, op=op, mantissa=1 << 17) for op in operations])
    times = await bench.sent("command")
    took = [b - a for a, b in pairwise(times)]
    assert took == [ScalarUnit.latency(op, LANES) for op in operations[:-1]]


@cocotb.test(timeout_time=50, timeout_unit="us")
async def clear_zeroes_registers(dut) -> None:
    bench, checker = await begin(dut)
    bench.send(
        "command",
        [
            command(bench, op=isa.Const.OPCODE, rd=k, mantissa=1 << 17, exponent=k)
            for k in range(16)
        ],
    )
    await bench.sent("command")
    await bench.step(20)
    dut.clear.value = 1
    await FallingEdge(dut.clk)
    checker.registers = [[ZERO] * isa.REGISTERS for _ in range(LANES)]
    dut.clear.value = 0
    await bench.step(100)
    bench.send("command", [anything(bench) for _ in range(50)])
    await bench.sent("command")
    await bench.step(5)
