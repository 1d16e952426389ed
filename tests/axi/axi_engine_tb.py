# SPDX-License-Identifier: Apache-2.0
"""cocotb side of an engine that streams over AXI: golden sums, at the rate of the engine."""

from __future__ import annotations

import cocotb
import numpy as np
from axi_engine import AxiEngine
from axi_ram import Ram
from cocotb.triggers import FallingEdge

from nomul.model.ternary import ENCODE
from nomul.sim.golden_engine import engine as golden
from nomul.sim.harness import Bench, parameters

OPTIONS = parameters()["options"]
G, OUTPUTS = OPTIONS["bytes_per_beat"], OPTIONS["outputs"]


@cocotb.test(timeout_time=2, timeout_unit="ms")
@cocotb.parametrize(stalled=[False, True])
async def equals_golden(dut, stalled: bool) -> None:
    component = AxiEngine(**OPTIONS)
    rng = np.random.default_rng(cocotb.RANDOM_SEED)
    bench = Bench(dut, component)
    ram = Ram(dut, bench.rng, word_bytes=G, size=1 << 20)
    ram.latency = 50
    dut.start.value = 0
    await bench.start()
    if stalled:
        ram.stall(0.3, 0.6)
    chunks = OPTIONS["inputs"] // component.engine.chunk
    for address in (0, 1000, 77):
        weights = rng.choice(ENCODE, (chunks, OUTPUTS, G)).astype(np.uint8)
        acts = rng.integers(-127, 128, (chunks, 1, component.engine.chunk))
        ram.write(address * G, weights.tobytes())
        await FallingEdge(dut.clk)
        dut.start.value, dut.address.value, dut.words.value = 1, address, chunks * OUTPUTS
        await FallingEdge(dut.clk)
        dut.start.value = 0
        bench.send("tile", [{"outputs": OUTPUTS, "chunks": chunks}])
        bench.send("acts", [{"x": chunk[0, k:k + 4], "last": k + 4 == chunk.size}
                            for chunk in acts for k in range(0, chunk.size, 4)])
        before = len(bench.times("sums"))
        got = await bench.receive("sums", OUTPUTS, stall=0.3 if stalled else 0.0)
        assert [row["sum"] for row in got] == golden(weights, acts).tolist()
        times = bench.times("sums")[before:]
        assert stalled or times[-1] - times[0] == OUTPUTS - 1  # no beat was late
    assert not dut.error.value
