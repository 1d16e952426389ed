# SPDX-License-Identifier: Apache-2.0
"""cocotb side: the sequencer between stand-ins, checked by a golden walk of the program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.fetch import PROGRAM_LATENCY, Fetch
from nomul.hw.ports import (
    EMBED,
    MAX_BITS,
    MAXIMA,
    SQUARES_BITS,
    SUMS_BITS,
    StatsLayout,
    TokensLayout,
)
from nomul.hw.scalar import ScalarUnit
from nomul.hw.sequencer import Sequencer
from nomul.model import isa, scalar
from nomul.model.counters import EXPOSED, Counter
from nomul.model.isa import Mode, Statistic
from nomul.model.scalar import MANTISSA_BITS, ZERO, Scalar
from nomul.sim.harness import Bench, pack_bits, parameters, unpack_bits

P = parameters()
LANES, WORDS = P["lanes"], P["words"]
PROGRAM = isa.assemble(P["program"])
STREAMS = ("pass_o", "quant_o", "tile_o", "row_o")


def for_all(tokens: list[int], fresh: list[int]) -> dict[str, list[int]]:
    """A token for every lane, each with a state of its own."""
    ones = [1] * LANES
    return {"token": tokens, "slot": [*range(LANES)], "fresh": fresh, "active": ones, "logits": ones}



def number(rng: Any, bits: int) -> int:
    return rng.getrandbits(rng.randint(0, bits))


def some_stats(rng: Any) -> dict[str, Any]:
    return {
        "max": [[number(rng, MAX_BITS) for _ in range(LANES)] for _ in range(MAXIMA)],
        "squares": [number(rng, SQUARES_BITS) for _ in range(LANES)],
        "sums": [number(rng, SUMS_BITS) for _ in range(LANES)],
    }


def walk(stats: list[dict[str, Any]], tokens: list[int]) -> list[tuple[str, dict[str, Any]]]:
    """What a token's program hands out, in order; ``stats[k]`` are right after pass ``k``."""
    lanes = [[ZERO] * isa.REGISTERS for _ in range(LANES)]
    out: list[tuple[str, dict[str, Any]]] = []
    passes = 0

    def values(register: int) -> list[dict[str, int]]:
        return [lane[register]._asdict() for lane in lanes]

    for i in PROGRAM:
        match i:
            case isa.Const():
                for r in lanes:
                    r[i.rd] = Scalar(i.mantissa, i.exponent)
            case isa.Mul():
                for r in lanes:
                    r[i.rd] = scalar.mul(r[i.ra], r[i.rb])
            case isa.Add():
                for r in lanes:
                    r[i.rd] = scalar.add(r[i.ra], r[i.rb])
            case isa.Recip():
                for r in lanes:
                    r[i.rd] = scalar.recip(r[i.ra])
            case isa.Rsqrt():
                for r in lanes:
                    r[i.rd] = scalar.rsqrt(r[i.ra])
            case isa.Stat():
                now = stats[passes - 1]
                for lane, r in enumerate(lanes):
                    if i.statistic is Statistic.SQUARES:
                        value = now["squares"][lane]
                    elif i.statistic is Statistic.SUMS:
                        value = now["sums"][lane]
                    else:
                        value = max(now["max"][i.statistic][lane], 1 << MANTISSA_BITS - 1)
                    r[i.rd] = scalar.from_int(value)
            case isa.Embed():
                passes += 1
                out += [
                    (
                        "pass_o",
                        {
                            "mode": EMBED,
                            "outputs": i.elements,
                            "address": i.norm,
                            "shift": i.shift,
                            "vectors": i.vectors,
                            "square": i.square,
                            "send": 0,
                            "scale": None,
                        },
                    ),
                    ("row_o", {"wide": i.wide, "elements": i.elements, "stride": i.stride, "token": tokens}),
                ]
            case isa.Pass():
                passes += 1
                out.append(
                    (
                        "pass_o",
                        {
                            "mode": i.mode,
                            "outputs": i.outputs,
                            "address": i.address,
                            "shift": i.shift,
                            "vectors": i.vectors,
                            "square": i.square,
                            "send": i.send,
                            "scale": values(i.rs),
                        },
                    )
                )
            case isa.Quant():
                out.append(
                    (
                        "quant_o",
                        {
                            "source": i.source,
                            "elements": i.elements,
                            "norm": i.norm,
                            "reciprocal": values(i.rs),
                        },
                    )
                )
            case isa.Tile():
                out.append(("tile_o", {"outputs": i.outputs, "chunks": i.chunks}))
            case isa.End():
                return out
    raise AssertionError


@dataclass
class Stub:
    """Program memory, vector unit and engine, as far as the sequencer sees them."""

    bench: Bench
    stats: list[dict[str, Any]]
    memory: list[int]
    slow: float
    enabled: list[tuple[bool, int]] = field(default_factory=list)
    offered: list[tuple[int, str]] = field(default_factory=list)  # cycle and stream of each item
    taken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STREAMS, 0))
    beats: list[int] = field(default_factory=list)
    fresh: set[int] = field(default_factory=set)
    started: list[int] = field(default_factory=list)
    flushed: list[int] = field(default_factory=list)
    finished: int = 0  # passes

    async def run(self) -> None:
        bench, rng = self.bench, self.bench.rng
        dut = bench.dut
        fetched = [0] * PROGRAM_LATENCY
        waiting = dict.fromkeys(STREAMS, False)
        open_beats: list[int] = []  # of tiles taken
        outputs_left: list[int] = []  # of passes taken; EMBED: 0
        tile_outputs: list[int] = []
        settle = idle = flushing = 0
        while True:
            await FallingEdge(dut.clk)
            if flushing:
                for name in STREAMS:
                    bench.ports[name].held = None  # a flush withdraws what is offered
            dut.program__data.value = fetched[-1]
            # The engine: beats of the tiles it has; somebody must take a tile's sums at its end.
            able = open_beats and (open_beats[0] > 1 or any(outputs_left))
            beat = bool(able) and rng.random() >= self.slow
            dut.beat.value = int(beat)
            if beat:
                open_beats[0] -= 1
                if not open_beats[0]:
                    open_beats.pop(0)
                    unfinished = next(k for k, left in enumerate(outputs_left) if left)
                    outputs_left[unfinished] -= tile_outputs.pop(0)
            # The vector unit: a pass is done some cycles after its last beat.
            if outputs_left and not outputs_left[0] and rng.random() < 0.2:
                outputs_left.pop(0)
                self.finished += 1
            settle = max(0, settle - 1)
            idle = not outputs_left or settle > 0  # it may take two cycles to see a pass
            dut.idle.value = int(idle)
            right = idle and not outputs_left and self.finished
            now = self.stats[self.finished - 1] if right else some_stats(rng)
            shown = int(dut.stats_lane.value)
            dut.stats.value = pack_bits(StatsLayout(), {
                "max": [most[shown] for most in now["max"]],
                "squares": now["squares"][shown],
                "sums": now["sums"][shown],
            })  # fmt: skip
            best = [100 + self.finished + k for k in range(LANES)] if right else [7] * LANES
            dut.best.value = sum(v << 16 * k for k, v in enumerate(best))
            await ReadOnly()
            flushing = int(dut.flush.value)
            if flushing:
                self.flushed.append(bench.cycle)
                open_beats.clear(), outputs_left.clear(), tile_outputs.clear()
                waiting = dict.fromkeys(STREAMS, False)
            if int(dut.start.value):
                self.started.append(bench.cycle)
            if int(dut.busy.value):
                self.fresh.add(tuple(unpack_bits(TokensLayout(LANES), int(dut.token.value))["fresh"]))
            if beat:
                self.beats.append(bench.cycle)
            address = min(int(dut.program__address.value), len(self.memory) - 1)
            fetched = [self.memory[address], *fetched[:-1]]
            for name in STREAMS:
                valid = bool(getattr(dut, f"{name}__valid").value)
                if valid and not waiting[name]:
                    self.offered.append((bench.cycle, name))
                fired = valid and bool(getattr(dut, f"{name}__ready").value)
                waiting[name] = valid and not fired
                if fired and not self.flushed:
                    self.taken[name] += 1
                    payload = unpack_bits(
                        bench.ports[name].shape, int(getattr(dut, f"{name}__payload").value)
                    )
                    if name == "tile_o":
                        open_beats.append(payload["outputs"] * payload["chunks"])
                        tile_outputs.append(payload["outputs"])
                    elif name == "pass_o":
                        outputs_left.append(0 if payload["mode"] == EMBED else payload["outputs"])
                        settle = rng.choice([0, 0, 3])


def no_instruction(rng: Any) -> int:
    return rng.choice(
        [
            rng.randint(11, 15) | rng.getrandbits(60) << 4,
            isa.Pass.OPCODE | rng.choice([6, 7]) << 4,
            isa.Stat.OPCODE | rng.randint(5, 7) << 8,
        ]
    )


async def begin(dut: Any, memory: list[int], slow: float) -> tuple[Bench, Stub]:
    bench = Bench(dut, Sequencer(lanes=LANES, program_words=WORDS))
    for name in ("give_up", "beat", "idle", "stats", "best", "saturated", "program__data"):
        getattr(dut, name).value = 0
    passes = sum(isinstance(i, isa.Pass | isa.Embed) for i in PROGRAM)
    stub = Stub(bench, [some_stats(bench.rng) for _ in range(2 * passes)], memory, slow)
    await bench.start()
    cocotb.start_soon(stub.run())
    return bench, stub


def image() -> list[int]:
    """The program, then words that must not be executed."""
    words = [int(w) for w in isa.pack_program(PROGRAM)]
    return words + [isa.Tile.OPCODE | 1 << 4 | 1 << 21] * (WORDS - len(words))


def counters(dut: Any) -> list[int]:
    value = int(dut.counters.value)
    return [value >> 32 * k & 0xFFFFFFFF for k in range(Counter.LOGIT_SCALE + 2 * LANES)]


@cocotb.test(timeout_time=3, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.7], slow=[0.0, 0.5])
async def hands_out_what_the_program_says(dut, stall: float, slow: float) -> None:
    bench, stub = await begin(dut, image(), slow)
    passes = len(stub.stats) // 2
    dut.saturated.value = 0x12345678
    for turn in range(2):  # registers do not live on into the next token
        tokens = [bench.rng.getrandbits(16) for _ in range(LANES)]
        fresh = [int(turn == 0)] * LANES
        expected = walk(stub.stats[turn * passes :], tokens)
        stub.offered.clear(), stub.fresh.clear(), stub.beats.clear()
        monitors = {
            name: bench.expect(name, sum(n == name for n, _ in expected), stall=stall)
            for name in STREAMS
        }
        before = {name: len(port.words) for name, port in monitors.items()}
        bench.send("token_i", [for_all(tokens, fresh)])
        done = await bench.receive("token_o", 1, stall=stall)
        assert done == [[100 + stub.finished + k for k in range(LANES)]]
        assert stub.finished == (turn + 1) * passes
        for name, port in monitors.items():
            found = [unpack_bits(port.shape, w) for w in port.words[before[name] :]]
            wanted = [item for n, item in expected if n == name]
            assert len(found) == len(wanted)
            for a, b in zip(found, wanted, strict=True):
                for key, value in b.items():
                    assert value is None or a[key] == value, (name, key, a, b)
        assert sorted(stub.offered, key=lambda item: item[0]) == stub.offered
        order = [name for _, name in stub.offered]
        assert order[:2] in (["pass_o", "row_o"], ["row_o", "pass_o"])
        assert order[2:] == [name for name, _ in expected][2:]
        assert stub.fresh == {tuple(fresh)}
        await bench.step(4)
        check_counters(counters(dut), stub, bench, turn)


def check_counters(found: list[int], stub: Stub, bench: Bench, turn: int) -> None:
    """Recounts from outside: an item is issued in the cycle before it is first offered."""
    begin = stub.started[turn] + 1
    cycles = found[Counter.TOKEN_CYCLES]
    tiles = [i for i in PROGRAM if isinstance(i, isa.Tile)]
    assert found[Counter.BEATS] == len(stub.beats) == sum(t.outputs * t.chunks for t in tiles)
    assert cycles == found[Counter.BEATS] + sum(found[c] for c in EXPOSED)
    assert begin + cycles <= bench.times("token_o")[-1] + 1
    issued = {name: [at - 1 for at, n in stub.offered if n == name] for name in STREAMS}
    embed = acts = 0
    for now in range(begin, begin + cycles):
        if now in set(stub.beats):
            continue
        asked = sum(at < now for at in issued["quant_o"])
        told = sum(at < now for at in issued["tile_o"])
        owed = sum(t.outputs * t.chunks for t in tiles[:told]) - sum(at < now for at in stub.beats)
        embed += not asked
        acts += bool(asked and (asked > told or owed > 0))
    assert found[Counter.EXPOSED_EMBED] == embed
    assert found[Counter.EXPOSED_ACTS] == acts
    assert found[Counter.EXPOSED_DRAIN] > 0
    assert found[Counter.EXPOSED_SCALAR] > 0
    assert (found[Counter.SATURATED_RESIDUAL], found[Counter.SATURATED_T]) == (0x5678, 0x1234)
    assert found[Counter.ERROR] == 0
    logits = [
        (i, item)
        for i, item in walk(stub.stats[turn * (len(stub.stats) // 2) :], [0] * LANES)
        if i == "pass_o" and item["mode"] == Mode.LOGITS
    ]
    for lane, scale in enumerate(logits[-1][1]["scale"]):
        at = Counter.LOGIT_SCALE + 2 * lane
        assert (found[at], found[at + 1]) == (scale["mantissa"], scale["exponent"] & 0xFFFFFFFF)


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(how=["opcode", "endless"])
async def stops_at_what_is_no_instruction(dut, how: str) -> None:
    """An error ends the token with zeros, and the next program is right again."""
    words = [
        int(w) for w in isa.pack_program([isa.Const(rd=1, mantissa=1 << 17, exponent=3)] * WORDS)
    ]
    good = image()
    bench, stub = await begin(dut, list(words), 0.0)
    for turn in range(8 if how == "opcode" else 1):
        stub.memory[:] = words
        if how == "opcode":
            stub.memory[20 + turn] = no_instruction(bench.rng)
        bench.send("token_i", [for_all([1] * LANES, [0] * LANES)])
        assert await bench.receive("token_o", 1) == [[0] * LANES]
        await bench.step(4)
        found = counters(dut)
        assert found[Counter.ERROR] == 1
        assert len(stub.flushed) == turn + 1
        count = 20 + turn if how == "opcode" else WORDS
        each = ScalarUnit.latency(isa.Const.OPCODE, LANES)
        assert found[Counter.TOKEN_CYCLES] == Fetch.latency + (count - 1) * each + 1
    assert not stub.offered
    stub.memory[:] = good
    stub.flushed.clear()
    for name in STREAMS:
        bench.expect(name, 10000)
    bench.send("token_i", [for_all([1] * LANES, [0] * LANES)])
    assert await bench.receive("token_o", 1) != [[0] * LANES]
    await bench.step(4)
    assert counters(dut)[Counter.ERROR] == 0


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def gives_up_a_token(dut) -> None:
    bench, stub = await begin(dut, image(), 0.3)
    monitor = bench.expect("token_o", 1)
    for _ in range(10):
        for name in STREAMS:
            bench.expect(name, 10000, stall=0.3)
        bench.send("token_i", [for_all([1] * LANES, [1] * LANES)])
        await bench.step(bench.rng.randint(2, 120))
        count = len(stub.flushed)
        dut.give_up.value = 1
        await bench.step(2)
        assert not dut.busy.value
        assert len(stub.flushed) == count + 1
        assert not any(getattr(dut, f"{name}__valid").value for name in STREAMS)
        dut.give_up.value = 0
    assert not monitor.words
