# SPDX-License-Identifier: Apache-2.0
"""cocotb side of what writes: the writer of runs, and the writer of logits."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import LOGITS_COMING, TokensLayout
from nomul.hw.streamed.logits import LogitWriter
from nomul.hw.streamed.ports import BasesLayout
from nomul.hw.streamed.writer import PIECE_BYTES, Writer
from nomul.model.isa import Part
from nomul.model.memory_map import BLOCK
from nomul.sim.harness import Bench, pack_bits, parameters
from nomul.sim.harness.memory import MemoryModel

P = parameters()
KIND, OPTIONS = P["kind"], P["options"]
WORD = OPTIONS["word_bytes"]
BURST = 16
PIECES = WORD // PIECE_BYTES


async def begin(dut: Any, unit: Any, **memory: Any) -> tuple[Bench, MemoryModel]:
    bench = Bench(dut, unit)
    for name in ("read_valid", "read_data", "read_error", "write_error", "unacknowledged"):
        getattr(dut, f"memory__{name}").value = 0
    if KIND == "logits":
        for name in ("port__valid", "token", "bases", "idle"):
            getattr(dut, name).value = 0
    await bench.start()
    return bench, MemoryModel(bench, "memory", word_bytes=WORD, **memory)


if KIND == "writer":

    def run_of(address: int, values: list[int], noise: Any) -> list[dict[str, int]]:
        """Pieces; all addresses but the first are noise."""
        last = len(values) - 1
        return [
            {"value": v, "address": address if not k else noise.getrandbits(32), "last": int(k == last)}
            for k, v in enumerate(values)
        ]

    async def quiet(dut: Any, memory: MemoryModel, cycles: int = 4000) -> None:
        """Waits until the unit is not busy; all is written then."""
        for _ in range(cycles):
            await FallingEdge(dut.clk)
            if not dut.busy.value:
                break
        else:
            raise AssertionError("busy for ever")
        await FallingEdge(dut.clk)
        await FallingEdge(dut.clk)
        assert memory.idle

    @cocotb.test(timeout_time=10, timeout_unit="ms")
    @cocotb.parametrize(i_stall=[0.0, 0.5], stall=[0.0, 0.6])
    async def writes_runs(dut, i_stall: float, stall: float) -> None:
        bench, memory = await begin(dut, Writer(**OPTIONS), stall=stall)
        rng = bench.rng
        wanted: dict[int, int] = {}
        sizes = [1, PIECES, PIECES + 1, BURST * PIECES, BURST * PIECES - 1, 3 * BURST * PIECES + 1]
        runs = []
        for size in [*sizes, *(rng.randint(1, 50 * PIECES) for _ in range(12))]:
            at = rng.choice([0, BURST - 1, rng.getrandbits(20), (1 << 32) - 64])
            values = [rng.choice([0, (1 << 32) - 1, rng.getrandbits(32)]) for _ in range(size)]
            runs.append((at, values))
            filled = range(at * PIECES, at * PIECES + -(-size // PIECES) * PIECES)
            wanted = {k: v for k, v in wanted.items() if k not in filled}
            wanted.update(enumerate(values, at * PIECES))
        pieces = [piece for at, values in runs for piece in run_of(at, values, rng)]
        bench.send("i", pieces, stall=i_stall)
        await bench.sent("i")
        await quiet(dut, memory)
        for k, value in wanted.items():
            assert memory.word(k // PIECES) >> 32 * (k % PIECES) & 0xFFFF_FFFF == value
        words = {at + k for at, values in runs for k in range(-(-len(values) // PIECES))}
        assert words == set(memory.content)  # and nothing else
        for burst in memory.bursts:
            assert burst.write
            assert burst.address % BURST + burst.words <= BURST
        # As few bursts as there can be.
        assert len(memory.bursts) == sum(
            (at + -(-len(v) // PIECES) - 1) // BURST - at // BURST + 1 for at, v in runs)

    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def takes_a_piece_a_cycle_and_commands_when_all_is_there(dut) -> None:
        bench, memory = await begin(dut, Writer(**OPTIONS))
        size = BURST * PIECES
        bench.send("i", run_of(0, [*range(2 * size)], bench.rng))
        await bench.sent("i")
        await quiet(dut, memory)
        taken, words = bench.times("i"), bench.times("memory__write")
        commands = [burst.cycle for burst in memory.bursts]
        assert taken[size - 1] - taken[0] == size - 1
        assert commands[0] == taken[size - 1] + 1
        assert words[:BURST] == [*range(commands[0] + 1, commands[0] + 1 + BURST)]
        assert taken[size] == words[BURST - 1] + 1

    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def is_busy_from_the_first_piece_to_the_last_word(dut) -> None:
        bench, memory = await begin(dut, Writer(**OPTIONS), stall=0.5)
        for size in (1, 3, PIECES):
            bench.send("i", run_of(7, [5] * size, bench.rng), stall=0.5)
            count = len(memory.written)
            begun, ended = len(bench.times("i")), False
            for _ in range(300):
                await FallingEdge(dut.clk)
                taken = len(bench.times("i")) - begun  # before this cycle
                await ReadOnly()
                if 0 < taken < size:
                    assert dut.busy.value
                words = len(bench.ports["memory__write"].words) - count
                ended = taken == size and words == -(-size // PIECES)
                if ended:
                    break
            assert ended
            await quiet(dut, memory, 3)


if KIND == "logits":
    LANES, BITS, VOCAB = OPTIONS["lanes"], OPTIONS["bits"], P["vocab"]
    RUN = 8
    STRIDE = -(-VOCAB * PIECE_BYTES // BLOCK)

    class Vector:
        """Gives logits in the order of the vector unit, and heeds ``room`` as late as it may."""

        def __init__(self, bench: Bench, stall: float):
            self.bench, self.stall = bench, stall
            self.fell = 0

        async def give(self, logits: list[list[int]]) -> None:
            dut, rng = self.bench.dut, self.bench.rng
            order = [
                (lane, index)
                for first in range(0, VOCAB, RUN)
                for lane in range(LANES)
                for index in range(first, min(first + RUN, VOCAB))
            ]
            history = [1] * LOGITS_COMING
            for lane, index in order:
                while True:
                    await FallingEdge(dut.clk)
                    history = [*history[1:], int(dut.port__room.value)]
                    # a sum that is taken now arrives up to LOGITS_COMING cycles later
                    go = (history[0] or any(history)) and rng.random() >= self.stall
                    dut.port__valid.value = int(go)
                    dut.port__index.value = index if go else rng.getrandbits(16)
                    dut.port__lane.value = lane if go else rng.randrange(LANES)
                    dut.port__sum.value = (logits[lane][index] if go else rng.getrandbits(BITS)) & (1 << BITS) - 1
                    if go:
                        break
                    self.fell += 1
            await FallingEdge(dut.clk)
            dut.port__valid.value = 0

    @cocotb.test(timeout_time=20, timeout_unit="ms")
    @cocotb.parametrize(stall=[0.0, 0.4], memory_stall=[0.0, 0.5, 0.95])
    async def writes_wanted_logits(dut, stall: float, memory_stall: float) -> None:
        bench, memory = await begin(dut, LogitWriter(**OPTIONS), stall=memory_stall)
        rng = bench.rng
        for turn in range(4):
            block = rng.randint(1, 1000)
            bases = [{"block": rng.getrandbits(20), "stride": rng.getrandbits(10)} for _ in Part]
            bases[Part.LOGITS] = {"block": block, "stride": STRIDE}
            wanted = [1] * LANES if not turn else [rng.getrandbits(1) for _ in range(LANES)]
            active = [1] * LANES if turn < 2 else [rng.getrandbits(1) for _ in range(LANES)]
            token = {"token": [0] * LANES, "slot": [0] * LANES, "fresh": [0] * LANES,
                     "active": active, "logits": wanted}
            await FallingEdge(dut.clk)
            dut.idle.value = 0
            dut.bases.value = pack_bits(BasesLayout, bases)
            dut.token.value = pack_bits(TokensLayout(LANES), token)
            lowest = -(1 << BITS - 1)
            logits = [
                [rng.choice([lowest, -lowest - 1, -1, 0, rng.randint(lowest, -lowest - 1)]) for _ in range(VOCAB)]
                for _ in range(LANES)
            ]
            memory.content.clear()
            vector = Vector(bench, stall)
            await vector.give(logits)
            if memory_stall > 0.9 and turn == 0 and VOCAB > 40:
                assert vector.fell  # there was no room
            dut.idle.value = 1
            for _ in range(4000):
                await FallingEdge(dut.clk)
                if not dut.busy.value:
                    break
            else:
                raise AssertionError("busy for ever")
            await bench.step(2)
            assert memory.idle
            touched = set()
            for lane in range(LANES):
                first = (block + lane * STRIDE) * BLOCK
                if wanted[lane] and active[lane]:
                    found = memory.get(first, VOCAB * PIECE_BYTES)
                    values = [int.from_bytes(found[k : k + 4], "little", signed=True) for k in range(0, len(found), 4)]
                    assert values == logits[lane], f"lane {lane} of {turn}"
                    touched |= {*range(first // WORD, (first + STRIDE * BLOCK) // WORD)}
            assert set(memory.content) <= touched
