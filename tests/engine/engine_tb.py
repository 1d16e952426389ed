# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the engines' tests; the same for both engines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cocotb
import numpy as np

from nomul.hw import engine as engines
from nomul.hw.engine.accumulate import HAZARD
from nomul.model.ternary import ENCODE, pack
from nomul.sim.golden_engine import engine as golden
from nomul.sim.harness import Bench, parameters

P = parameters()
CYCLE_NS = 10


def make() -> engines.Engine:
    return getattr(engines, P["engine"])(**P["geometry"])


ENGINE = make()
CHUNKS = max(1, ENGINE.inputs // ENGINE.chunk)
LIMIT_US = max(1000, ENGINE.outputs * CHUNKS // 2)  # 50 times the beats of the largest tile


@dataclass
class Tile:
    """Weights ``[chunks, outputs, G]`` and activations ``[chunks, lanes, 5·G]``."""

    weights: np.ndarray
    acts: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights.shape[1], self.weights.shape[0]

    def sums(self) -> list[dict]:
        rows = golden(self.weights, self.acts)
        return [{"sum": [int(v) for v in row], "last": int(k == len(rows) - 1)}
                for k, row in enumerate(rows)]

    def beats(self) -> list[dict]:
        """Activation beats."""
        w = ENGINE.acts_per_beat
        return [{"x": chunk[k:k + w], "last": int(k + w == chunk.size)}
                for chunk in self.acts.reshape(len(self.acts), -1) for k in range(0, chunk.size, w)]


def random_tile(rng: np.random.Generator, outputs: int, chunks: int) -> Tile:
    return Tile(rng.choice(ENCODE, (chunks, outputs, ENGINE.bytes_per_beat)),
                rng.integers(-127, 128, (chunks, ENGINE.lanes, ENGINE.chunk)))


def flat_tile(outputs: int, chunks: int, trit: int, act: int) -> Tile:
    """All trits and all activations the same: the largest sums there are."""
    trits = np.full((chunks, outputs, ENGINE.chunk), trit)
    return Tile(pack(trits), np.full((chunks, ENGINE.lanes, ENGINE.chunk), act))


async def multiply(bench: Bench, tiles: list[Tile], **stalls: float) -> None:
    """Streams the tiles one behind the other and compares every result."""
    bench.send("tile", [{"outputs": t.shape[0], "chunks": t.shape[1]} for t in tiles],
               stall=stalls.get("tile", 0.0))
    bench.send("acts", [beat for t in tiles for beat in t.beats()], stall=stalls.get("acts", 0.0))
    bench.send("weights", [beat for t in tiles for chunk in t.weights for beat in chunk],
               stall=stalls.get("weights", 0.0))
    expected = [row for t in tiles for row in t.sums()]
    got = await bench.receive("sums", len(expected), stall=stalls.get("sums", 0.0))
    assert got == expected


def generator() -> np.random.Generator:
    return np.random.default_rng(cocotb.RANDOM_SEED)


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
@cocotb.parametrize(stalls=[
    {}, {"acts": 0.5, "weights": 0.5}, {"sums": 0.8}, {"tile": 0.9, "sums": 0.3},
    {"tile": 0.5, "acts": 0.3, "weights": 0.3, "sums": 0.5}])
async def equals_golden(dut, stalls: dict[str, float]) -> None:
    """Random tiles back to back: one output, few, some, the most; every number of chunks."""
    rng, bench = generator(), Bench(dut, ENGINE)
    await bench.start()
    most = ENGINE.outputs
    shapes = [(1, 1), (1, CHUNKS), (3, 1), (most, CHUNKS), (1, 1), (1, 1), (2, CHUNKS),
              (most + 7, 1), (5, 1), (4, CHUNKS)]
    shapes += [(int(rng.integers(1, most + 1)), int(rng.integers(1, CHUNKS + 1))) for _ in range(4)]
    await multiply(bench, [random_tile(rng, *shape) for shape in shapes], **stalls)


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def extremes(dut) -> None:
    """The largest sums, of either sign, and rows of zeros."""
    bench = Bench(dut, ENGINE)
    await bench.start()
    tiles = [flat_tile(6, CHUNKS, trit, act)
             for trit, act in ((1, 127), (-1, 127), (1, -127), (-1, -127), (0, 127), (1, 0))]
    assert max(abs(v) for t in tiles for row in t.sums() for v in row["sum"]) == (
        127 * CHUNKS * ENGINE.chunk)
    await multiply(bench, tiles)


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def every_code(dut) -> None:
    """Every byte at every place of a beat."""
    rng, bench = generator(), Bench(dut, ENGINE)
    await bench.start()
    tile = random_tile(rng, len(ENCODE), 1)
    columns = [rng.permutation(ENCODE) for _ in range(ENGINE.bytes_per_beat)]
    tile.weights = np.stack(columns, 1)[None]
    await multiply(bench, [tile])


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def takes_the_stated_cycles(dut) -> None:
    rng, bench = generator(), Bench(dut, ENGINE)
    n = ENGINE.chunk_interval
    shapes = [(1, 1), (2, 1), (n, 1)]
    if CHUNKS > 1 and n <= ENGINE.outputs:
        shapes += [(n, CHUNKS), (n, 2)]
    for outputs, chunks in shapes:
        await bench.start()
        await multiply(bench, [random_tile(rng, outputs, chunks)])
        weights, sums = bench.times("weights"), bench.times("sums")
        assert sums[-1] - weights[0] == ENGINE.cycles(outputs, chunks)
        first_final = weights[-outputs]
        assert sums[0] - first_final == ENGINE.latency
        ready = bench.times("acts")[ENGINE.beats_per_chunk - 1]
        assert weights[0] - ready == ENGINE.prepare


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def short_chunks_wait_for_their_sums(dut) -> None:
    """With tables or activations in time, chunks of one tile start at least HAZARD cycles apart."""
    rng, bench = generator(), Bench(dut, ENGINE)
    if CHUNKS < 2:
        return
    await bench.start()
    tile = random_tile(rng, 1, CHUNKS)
    bench.send("acts", tile.beats())
    await bench.step(ENGINE.prepare * 3 + 3 * ENGINE.lanes * ENGINE.chunk)
    bench.send("tile", [{"outputs": 1, "chunks": CHUNKS}])
    bench.send("weights", tile.weights.reshape(CHUNKS, -1))
    assert await bench.receive("sums", 1) == tile.sums()
    times = bench.times("weights")
    assert all(b - a >= HAZARD for a, b in pairwise(times))
    assert times[1] - times[0] == HAZARD or P["engine"] == "SelectEngine"


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def tiles_follow_without_a_gap(dut) -> None:
    rng, bench = generator(), Bench(dut, ENGINE)
    await bench.start()
    n = ENGINE.chunk_interval
    await multiply(bench, [random_tile(rng, n, 1) for _ in range(4)])
    for path in ("weights", "sums"):
        times = bench.times(path)
        assert times[-1] - times[0] == len(times) - 1


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def chunks_need_their_interval(dut) -> None:
    """Shorter tiles begin exactly ``chunk_interval`` cycles apart: it is no looser than stated."""
    rng, bench = generator(), Bench(dut, ENGINE)
    await bench.start()
    tiles = [random_tile(rng, 2, 1) for _ in range(6)]
    await multiply(bench, tiles)
    first = bench.times("weights")[::2]
    assert all(b - a == ENGINE.chunk_interval for a, b in pairwise(first[2:]))


@cocotb.test(timeout_time=LIMIT_US, timeout_unit="us")
async def resets_in_mid_tile(dut) -> None:
    rng, bench = generator(), Bench(dut, ENGINE)
    for wait in (ENGINE.prepare // 2, ENGINE.prepare + 2 * ENGINE.lanes * ENGINE.chunk):
        await bench.start()
        tile = random_tile(rng, min(20, ENGINE.outputs), CHUNKS)
        bench.send("tile", [{"outputs": tile.shape[0], "chunks": tile.shape[1]}])
        bench.send("acts", tile.beats())
        bench.send("weights", tile.weights.reshape(-1, ENGINE.bytes_per_beat))
        bench.expect("sums", tile.shape[0], stall=0.9)
        await bench.step(wait)
    await bench.start()
    await multiply(bench, [random_tile(rng, 9, CHUNKS)])
