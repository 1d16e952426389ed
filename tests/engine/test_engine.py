# SPDX-License-Identifier: Apache-2.0
"""Both engines against the golden function, on the generated Verilog; their validation and area."""

from __future__ import annotations

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.sim import Simulator

from nomul.hw import engine as engines
from nomul.hw.build.bench_engines import CONFIGURATIONS
from nomul.hw.build.synth import synthesise
from nomul.hw.engine.select import decode
from nomul.hw.engine.table import walk_of_sums
from nomul.model.ternary import DECODE, ENCODE
from nomul.sim.harness import run, seed

ENGINES = ["TableEngine", "SelectEngine"]


def geometry(g: int, lanes: int, outputs: int, chunks: int, acts: int) -> dict[str, int]:
    return {"bytes_per_beat": g, "lanes": lanes, "outputs": outputs, "inputs": chunks * 5 * g,
            "acts_per_beat": acts}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", [
    geometry(1, 1, 16, 1, 1),    # the smallest
    geometry(3, 2, 33, 4, 5),    # an odd tree, two lanes
    geometry(4, 1, 400, 2, 4),   # beats that cross tables
])
def test_equals_golden(engine: str, shape: dict[str, int]):
    component = getattr(engines, engine)(**shape)
    run(component, "engine_tb", parameters={"engine": engine, "geometry": shape})


def test_equals_golden_after_synthesis():
    """ECP5 cells instead of what they are made from; ``make synthesised`` has all units."""
    shape = geometry(3, 2, 33, 4, 5)
    run(engines.TableEngine(**shape), "engine_tb",
        parameters={"engine": "TableEngine", "geometry": shape}, synthesis=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_80_trits_a_cycle(engine: str):
    """The width that the figures speak of; three chunks of a short tile."""
    shape = geometry(16, 1, 300, 3, 4)
    component = getattr(engines, engine)(**shape)
    run(component, "engine_tb", parameters={"engine": engine, "geometry": shape})


@pytest.mark.sweep
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_measured_configurations(name: str):
    """Each engine that has figures, with all its accumulators and its longest row."""
    component = CONFIGURATIONS[name]
    shape = {key: getattr(component, key)
             for key in ("bytes_per_beat", "lanes", "outputs", "inputs", "acts_per_beat")}
    run(component, "engine_tb",
        parameters={"engine": type(component).__name__, "geometry": shape}, limit_s=1800)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("change", "message"), [
    ({"bytes_per_beat": 0}, "bytes_per_beat is 0; it must be a positive integer"),
    ({"lanes": -1}, "lanes is -1; it must be a positive integer"),
    ({"outputs": 1.5}, "outputs is 1.5; it must be a positive integer"),
    ({"acts_per_beat": 7},
     "acts_per_beat is 7; it must divide the 80 inputs of a chunk of 16 bytes"),
    ({"inputs": 20401}, "inputs is 20401; 255 chunks of 80 hold 20400"),
    ({"outputs": 1 << 17}, "outputs is 131072; a tile has at most 131071"),
])
def test_refuses_what_cannot_work(engine: str, change: dict, message: str):
    with pytest.raises(ValueError, match=f"^{engine}: {message}$"):
        getattr(engines, engine)(**(geometry(16, 1, 64, 2, 5) | change))


@pytest.mark.parametrize(("inputs", "width"), [(1, 8), (540, 18), (2816, 20), (6912, 21)])
def test_sums_have_room(inputs: int, width: int):
    """±127·K fits the sums' shape, for the largest K of it."""
    shape = engines.SelectEngine(bytes_per_beat=36, lanes=1, outputs=1, inputs=inputs).sum_shape
    assert shape == signed(width)
    assert 127 * inputs < 1 << width - 1


def test_tables_have_every_sum():
    """The steps, followed with numbers, store at each byte the sum of its five products."""
    rng = np.random.default_rng(seed())
    acts = rng.integers(-127, 128, 5)
    table, total = {}, 0
    for step in walk_of_sums():
        total += -acts[step["act"]] if step["minus"] else acts[step["act"]]
        table[step["byte"]] = total
    assert table == {int(byte): int(DECODE[byte] @ acts) for byte in ENCODE}


def test_decoder_is_the_models():
    """The select engine's logic against the model's table, for all 256 bytes."""
    byte, out = Signal(8), Signal(10)
    m = Module()
    m.d.comb += out.eq(Cat(*decode(byte)))

    async def check(ctx):
        for value in range(256):
            ctx.set(byte, value)
            digits = [ctx.get(out) >> 2 * k & 3 for k in range(5)]
            assert [(0, 1, -1)[d] for d in digits] == DECODE[value].tolist(), value

    simulator = Simulator(m)
    simulator.add_testbench(check)
    simulator.run()


@pytest.mark.parametrize(("engine", "bram"), [
    ("TableEngine", 4 + 1 + 1 + 2),  # tables, activations, steps, 2048 accumulators of 17 bits
    ("SelectEngine", 2),             # accumulators
])
def test_takes_no_multipliers(engine: str, bram: int):
    shape = geometry(4, 1, 2048, 16, 5)
    result = synthesise(getattr(engines, engine)(**shape), name=f"facts_{engine.lower()}", seeds=())
    assert result.multipliers == 0
    assert result.bram == bram
