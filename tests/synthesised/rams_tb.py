# SPDX-License-Identifier: Apache-2.0
"""Random reads and writes, often of the same word in the same cycle; random products."""

from __future__ import annotations

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from rams import BITS, SHAPES, TABLE, contents

from nomul.sim.harness import seed

CYCLES = 3000
LEAST = -(1 << 17)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def keeps_what_is_written(dut) -> None:
    rng = random.Random(seed())
    words = {name: contents(*shape) for name, shape in SHAPES.items()}
    table = contents(*TABLE)
    shown = dict.fromkeys([*SHAPES, "table"], 0)  # as configuration leaves it
    factors, product = (0, 0), 0
    for name in ("at", "to", "data", "write", "read", "a", "b", "rst"):
        getattr(dut, name).value = 0
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start(start_high=False))
    await FallingEdge(dut.clk)
    for _ in range(CYCLES):
        for name, value in shown.items():
            assert int(getattr(dut, name).value) == value, name
        assert dut.product.value.to_signed() == product
        at, to = rng.randrange(1 << BITS), rng.randrange(1 << BITS)
        if rng.random() < 0.5:
            at, to = at % 8, at % 8 if rng.random() < 0.5 else to % 8
        data, write, read = rng.getrandbits(36), rng.random() < 0.6, rng.random() < 0.8
        a, b = (rng.choice([LEAST, -LEAST - 1, rng.randint(LEAST, -LEAST - 1)]) for _ in "ab")
        for name, value in {"at": at, "to": to, "data": data, "write": write, "read": read}.items():
            getattr(dut, name).value = int(value)
        dut.a.value, dut.b.value = a, b
        await FallingEdge(dut.clk)
        for name, (width, depth) in SHAPES.items():
            if read:
                shown[name] = words[name][at % depth]
            if write:
                words[name][to % depth] = data & ((1 << width) - 1)
        if read:
            shown["table"] = table[at % TABLE[1]]
        product, factors = factors[0] * factors[1], (a, b)
