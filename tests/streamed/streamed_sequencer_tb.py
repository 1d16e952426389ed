# SPDX-License-Identifier: Apache-2.0
"""cocotb side of the sequencer of streamed programs: order, what waits for what, ends and faults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly
from tops import SequencerTop

from nomul.hw.ports import EMBED
from nomul.hw.streamed.ports import BasesLayout
from nomul.model import isa
from nomul.model.counters import EXPOSED, Counter
from nomul.model.isa import Mode, Part
from nomul.model.memory_map import BLOCK
from nomul.model.protocol import Fault
from nomul.sim.harness import Bench, parameters, unpack_bits

P = parameters()
LANES = P["lanes"]
PROGRAM = isa.assemble(P["program"])
STREAMS = ("pass_o", "quant_o", "tile_o", "row_o", "order_o", "move_o", "stream_o")
_BLOCK_WORDS = BLOCK // isa.INSTRUCTION_BYTES


class Bed:
    """A sequencer between stand-ins: the vector unit is always done; loads, moves and others take their time."""

    def __init__(self, dut: Any, stall: float = 0.0, words_stall: float = 0.0):
        self.dut, self.stall, self.words_stall = dut, stall, words_stall
        self.words: list[int] = []
        self.first: dict[str, list[int]] = {name: [] for name in STREAMS}  # cycles of first offers
        self.busy: dict[str, set[int]] = {"owed": set(), "moving": set(), "pending": set()}
        self.offers: dict[str, set[int]] = {"order_o": set(), "move_o": set()}
        self.starts: list[int] = []
        self.flushes: list[int] = []
        self.results: list[int] = []  # cycles of first offers
        self.fault = Fault.NONE
        self.pends = 0.0

    async def start(self) -> None:
        dut = self.dut
        self.bench = Bench(dut, SequencerTop(lanes=LANES))
        for name in ("give_up", "beat", "idle", "starved", "owed", "loading", "stats", "best", "saturated", "moving",
                     "pending", "memory_fault", "words__valid", "words__payload"):
            getattr(dut, name).value = 0
        self.bench.ports.pop("words")
        await self.bench.start()
        dut.idle.value = 1
        dut.best.value = sum(100 + k << 16 * k for k in range(LANES))
        for name in STREAMS:
            self.bench.expect(name, 1 << 30, stall=0.0 if name == "stream_o" else self.stall)
        cocotb.start_soon(self.run())

    def program(self, program: Sequence[isa.Instruction]) -> None:
        """What memory holds from now on; behind it is noise."""
        self.words = [int(word) for word in isa.pack_program(program)]

    async def run(self) -> None:
        dut, rng = self.dut, self.bench.rng
        at, offering, word = 0, False, 0
        left = {"owed": 0, "moving": 0}
        valid_before = dict.fromkeys((*STREAMS, "token_o"), False)
        while True:
            await FallingEdge(dut.clk)
            now = self.bench.cycle
            if not offering:
                offering = rng.random() >= self.words_stall
                word = self.words[at] if at < len(self.words) else rng.getrandbits(64)
            dut.words__valid.value, dut.words__payload.value = int(offering), word
            pending = rng.random() < self.pends
            for name, busy in (("owed", left["owed"]), ("moving", left["moving"]), ("pending", pending)):
                getattr(dut, name).value = int(bool(busy))
                if busy:
                    self.busy[name].add(now)
            dut.memory_fault.value = int(self.fault)
            left = {name: max(0, n - 1) for name, n in left.items()}
            await ReadOnly()
            flush = bool(dut.flush.value)
            if dut.start.value:
                self.starts.append(now)
                at, offering = 0, False
            elif offering and dut.words__ready.value:
                at, offering = at + 1, False
            for name in (*STREAMS, "token_o"):
                valid = bool(getattr(dut, f"{name}__valid").value)
                fired = valid and (name == "stream_o" or bool(getattr(dut, f"{name}__ready").value))
                if valid and not valid_before[name]:
                    (self.results if name == "token_o" else self.first[name]).append(now)
                valid_before[name] = valid and not fired
                if name in self.offers and valid:
                    self.offers[name].add(now)
                if fired and not flush:
                    if name == "move_o":
                        left["moving"] = rng.randint(1, 60)
                    if name == "order_o" and unpack_bits(
                        self.bench.ports[name].shape, int(dut.order_o__payload.value)
                    )["load"]:
                        left["owed"] = rng.randint(1, 60)
            if flush:
                self.flushes.append(now)
                for name in STREAMS:
                    self.bench.ports[name].held = None  # a flush withdraws what is offered
                valid_before = dict.fromkeys(valid_before, False)

    def taken(self, name: str) -> list[dict[str, Any]]:
        port = self.bench.ports[name]
        return [unpack_bits(port.shape, word) for word in port.words]

    async def token(self) -> list[int]:
        """Runs a token; its result."""
        rng = self.bench.rng
        ones = [1] * LANES
        token = {"token": [rng.getrandbits(16) for _ in ones], "slot": [*range(LANES)],
                 "fresh": ones, "active": ones, "logits": ones}
        self.bench.send("token_i", [token])
        return (await self.bench.receive("token_o", 1, stall=self.stall))[0]

    def counters(self) -> list[int]:
        value = int(self.dut.counters.value)
        return [value >> 32 * k & 0xFFFF_FFFF for k in range(Counter.LOGIT_SCALE + 2 * LANES)]


GOOD = [100 + k for k in range(LANES)]
ZEROS = [0] * LANES


def wanted(program: Sequence[isa.Instruction]) -> dict[str, list[dict[str, int]]]:
    """What a program hands out, as far as it says itself."""
    found: dict[str, list[dict[str, int]]] = {name: [] for name in STREAMS}
    for i in program:
        match i:
            case isa.Embed():
                found["pass_o"].append({"mode": EMBED, "outputs": i.elements, "address": i.norm, "shift": i.shift,
                                        "vectors": i.vectors, "square": i.square, "send": 0})
                found["row_o"].append({"wide": i.wide, "elements": i.elements, "stride": i.stride})
            case isa.Pass():
                found["pass_o"].append({"mode": i.mode, "outputs": i.outputs, "address": i.address,
                                        "shift": i.shift, "vectors": i.vectors, "square": i.square,
                                        "send": i.send})
            case isa.Quant():
                found["quant_o"].append({"source": i.source, "elements": i.elements, "norm": i.norm})
            case isa.Tile():
                found["tile_o"].append({"outputs": i.outputs, "chunks": i.chunks})
                found["order_o"].append({"load": 0})
            case isa.Load():
                found["order_o"].append({"load": 1, "address": i.address, "words": i.words})
            case isa.Recall() | isa.Keep():
                found["move_o"].append({"keep": int(isinstance(i, isa.Keep)), "address": i.address,
                                        "elements": i.elements})
            case isa.Stream():
                found["stream_o"].append({"block": i.block, "beats": i.beats})
    return found


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.7], words_stall=[0.0, 0.6])
async def hands_out_what_the_program_says(dut, stall: float, words_stall: float) -> None:
    bed = Bed(dut, stall, words_stall)
    bed.pends = 0.5
    await bed.start()
    bed.program(PROGRAM)
    tokens = 2
    for _ in range(tokens):
        assert await bed.token() == GOOD
        bases = unpack_bits(BasesLayout, int(dut.bases.value))
        for i in PROGRAM:
            if isinstance(i, isa.Base):
                assert bases[i.part] == {"block": i.block, "stride": i.stride}
        found = bed.counters()
        assert found[Counter.ERROR] == 0
        assert found[Counter.TOKEN_CYCLES] == sum(found[c] for c in EXPOSED)
    await bed.bench.step(5)
    for name, items in wanted(PROGRAM).items():
        seen = bed.taken(name)
        assert len(seen) == tokens * len(items), name
        for a, b in zip(seen, items * tokens, strict=True):
            for key, value in b.items():
                assert a[key] == value, (name, key, a, b)
    # What waits: who is offered in a cycle was issued in the one before.
    assert bed.first["row_o"]
    for cycle in bed.first["row_o"]:
        assert cycle - 1 not in bed.busy["owed"] | bed.offers["order_o"]
    passes = zip(bed.first["pass_o"], [*wanted(PROGRAM)["pass_o"]] * tokens, strict=True)
    inputs = [cycle for cycle, item in passes if item["mode"] == Mode.INPUT]
    assert inputs
    for cycle in inputs:
        assert cycle - 1 not in bed.busy["moving"] | bed.offers["move_o"]
    done = bed.busy["moving"] | bed.offers["move_o"] | bed.busy["pending"]
    assert len(bed.results) == len(bed.starts) == tokens
    for cycle in bed.results:
        assert cycle - 1 not in done
    for cycle in bed.starts:
        assert cycle not in done


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def nothing_begins_or_ends_while_memory_is_at_work(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    bed.program([isa.Stream(block=1, beats=0), isa.End()])
    bed.pends = 1.0
    token = cocotb.start_soon(bed.token())
    await bed.bench.step(100)
    assert not bed.starts
    bed.pends = 0.0
    await bed.bench.step(3)
    bed.pends = 1.0
    await bed.bench.step(100)
    assert len(bed.starts) == 1
    assert not token.done()
    assert dut.busy.value
    bed.pends = 0.0
    assert await token == GOOD


@cocotb.test(timeout_time=1, timeout_unit="ms")
@cocotb.parametrize(blocks=[1, 2, 5], words_stall=[0.0, 0.7])
async def a_program_ends_where_the_stream_begins(dut, blocks: int, words_stall: float) -> None:
    """At the latest: what lies behind is weights, and no instruction."""
    bed = Bed(dut, words_stall=words_stall)
    await bed.start()
    count = blocks * _BLOCK_WORDS
    base = isa.Base(part=Part.EMBEDDINGS, block=1, stride=2)
    head = [isa.Stream(block=blocks, beats=1)]
    bed.program([*head, *[base] * (count - 2), isa.End()])
    assert await bed.token() == GOOD
    after = [isa.Base(part=Part.LOGITS, block=77, stride=7)] * 20
    bed.program([*head, *[base] * (count - 1), *after, isa.End()])
    assert await bed.token() == ZEROS
    await bed.bench.step(3)
    assert bed.counters()[Counter.ERROR] == Fault.PROGRAM
    assert len(bed.flushes) == 1
    assert unpack_bits(BasesLayout, int(dut.bases.value))[Part.LOGITS]["block"] != 77
    bed.program([*head, *[base] * (count - 2), isa.End()])
    assert await bed.token() == GOOD
    assert bed.counters()[Counter.ERROR] == Fault.NONE


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def what_is_no_part_is_no_instruction(dut) -> None:
    bed = Bed(dut)
    await bed.start()
    bed.program([isa.Stream(block=4, beats=1)])
    bed.words.append(isa.Base.OPCODE | 3 << isa.OPCODE_BITS)
    assert await bed.token() == ZEROS
    await bed.bench.step(3)
    assert bed.counters()[Counter.ERROR] == Fault.PROGRAM


@cocotb.test(timeout_time=5, timeout_unit="ms")
@cocotb.parametrize(fault=[int(Fault.MEMORY), int(Fault.SILENCE)])
async def a_fault_of_memory_ends_the_token(dut, fault: int) -> None:
    """Whenever it strikes; the next token is right."""
    bed = Bed(dut, stall=0.3)
    await bed.start()
    bed.program(PROGRAM)
    for turn in range(8):
        token = cocotb.start_soon(bed.token())
        await bed.bench.step(bed.bench.rng.randint(3, 150))
        while not bed.starts or len(bed.starts) <= 2 * turn:
            await bed.bench.step()
        count = len(bed.flushes)
        assert not token.done()
        bed.fault = Fault(fault)
        await bed.bench.step(1)
        bed.fault = Fault.NONE
        assert await token == ZEROS
        await bed.bench.step(3)
        assert bed.counters()[Counter.ERROR] == fault == int(dut.fault.value)
        assert len(bed.flushes) == count + 1
        assert not any(getattr(dut, f"{name}__valid").value for name in STREAMS)
        assert await bed.token() == GOOD
        assert bed.counters()[Counter.ERROR] == Fault.NONE
    bed.fault = Fault(fault)  # nobody is concerned
    await bed.bench.step(2)
    bed.fault = Fault.NONE
    await bed.bench.step(3)
    assert len(bed.flushes) == 8
    assert bed.counters()[Counter.ERROR] == Fault.NONE
