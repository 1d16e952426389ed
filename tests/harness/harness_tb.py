# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the harness's own test."""

from __future__ import annotations

import time

import cocotb
from test_harness import Increment

from nomul.sim.harness import Bench, parameters

P = parameters()
ADD = P["add"]


@cocotb.test(timeout_time=100, timeout_unit="us")
@cocotb.parametrize(stall_in=[0.0, 0.5], stall_out=[0.0, 0.8])
async def increments(dut, stall_in: float, stall_out: float) -> None:
    if P.get("hang"):
        time.sleep(60)
    bench = Bench(dut, Increment(fault=P["fault"]))
    await bench.start()
    values = [bench.rng.randint(-128, 127) for _ in range(100)]
    bench.send("i", values, stall=stall_in)
    assert await bench.receive("o", 100, stall=stall_out) == [v + ADD for v in values]
    took = bench.times("o")[-1] - bench.times("i")[0]
    assert took == 100 if stall_in == stall_out == 0.0 else took > 110


@cocotb.test(timeout_time=10, timeout_unit="us")
async def resets_in_mid_work(dut) -> None:
    bench = Bench(dut, Increment(fault=P["fault"]))
    await bench.start()
    bench.send("i", [1, 2, 3])
    await bench.step(4)
    await bench.start()
    bench.send("i", [7])
    assert await bench.receive("o", 1) == [7 + ADD]
    assert len(bench.times("o")) == 1
