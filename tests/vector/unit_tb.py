# SPDX-License-Identifier: Apache-2.0
"""cocotb side: the whole vector unit against the golden one."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, Timer

from nomul.hw.ports import EMBED, LOGITS_COMING, NORM_LATENCY
from nomul.hw.vector import VectorUnit
from nomul.hw.vector.turns import BLOCK, Turns
from nomul.hw.vector.unit import OVERLAP
from nomul.model import isa, scalar
from nomul.model.isa import Mode, Source
from nomul.model.numbers import ACT_MAX, SOURCE_BITS, product_shift
from nomul.model.scalar import Scalar
from nomul.sim.golden_vector import Vectors
from nomul.sim.harness import Bench, pack_bits, parameters, unpack_bits

P = parameters()
UNIT = VectorUnit(**P["geometry"])
L = UNIT.lanes
LAYERS = P["layers"]
SPAN = LAYERS * UNIT.hidden  # elements of a recurrent state
SLOTS = UNIT.state_elements // SPAN
NORM_WORDS = 4096
MOST = ACT_MAX * UNIT.inputs  # largest sum


class Machine:
    """The unit under test beside the golden one; both get the same work."""

    def __init__(self, dut: Any, stall: float = 0.0):
        self.dut, self.stall = dut, stall
        self.bench = Bench(dut, UNIT)
        self.rng = np.random.default_rng(cocotb.RANDOM_SEED)
        self.norms = self.rng.integers(0, 1 << 16, (NORM_WORDS, 4)).astype(np.uint16)
        self.norms[self.rng.random(NORM_WORDS) < 0.1] = 0x8000
        self.norms[self.rng.random(NORM_WORDS) < 0.1] = 0x7FFF
        self.norms[self.rng.random(NORM_WORDS) < 0.1] = 0
        self.golden = Vectors(
            self.norms, hidden=UNIT.hidden, intermediate=UNIT.intermediate,
            state_values=SPAN, lanes=L, slots=SLOTS,
        )  # fmt: skip
        self.logits: list[tuple[int, int, int]] = []
        self.idle_since = 0  # cycle, 0 while busy
        self.coming = 0  # logits since there is no room
        self.fresh: list[int] = []
        self.held: list[Any] | None = None  # sums, if they are to be sent later

    async def start(self) -> None:
        dut = self.dut
        dut.stats_lane.value = dut.state__read.value = dut.state__write.value = 0
        dut.state__address.value = dut.state__write_data.value = 0
        dut.logits__room.value = 1
        self.alone()
        await self.bench.start()
        for port in ("norm_a", "norm_b"):
            cocotb.start_soon(self._norm_memory(port))
        cocotb.start_soon(self._watch())
        await self.clear_states()
        self.alone()

    async def clear_states(self) -> None:
        """Every state from zero, whatever was there before."""
        for slots in (range(L), range(SLOTS - L, SLOTS)):
            self.set_lanes(list(slots), [1] * L, [1] * L)
            for layer in range(LAYERS):
                self.gates(UNIT.hidden, layer)
            await self.idle()

    async def _norm_memory(self, port: str) -> None:
        address = getattr(self.dut, f"{port}__address")
        data = getattr(self.dut, f"{port}__data")
        words = [sum(int(v) << 16 * k for k, v in enumerate(word)) for word in self.norms]
        late = deque([0] * NORM_LATENCY)
        while True:
            await FallingEdge(self.dut.clk)
            late.append(words[int(address.value) % NORM_WORDS])
            data.value = late.popleft()

    async def _watch(self) -> None:
        shape = UNIT.signature.members["logits"].signature.members["sum"].shape
        while True:
            await FallingEdge(self.dut.clk)
            if not self.dut.idle.value:
                self.idle_since = 0
            elif not self.idle_since:
                self.idle_since = self.bench.cycle
            if self.dut.logits__valid.value:
                found = unpack_bits(shape, int(self.dut.logits__sum.value))
                lane, index = int(self.dut.logits__lane.value), int(self.dut.logits__index.value)
                self.logits.append((lane, index, found))
                self.coming += 1
            if self.dut.logits__room.value:
                self.coming = 0
            assert self.coming <= LOGITS_COMING
            self.dut.logits__room.value = int(self.rng.random() >= self.stall / 2)

    def set_lanes(self, slots: list[int], active: list[int], fresh: list[int]) -> None:
        """For a token; ``fresh`` only where a lane is active and the first of its slot."""
        self.golden.slots = np.array(slots)
        self.golden.active = np.array(active, dtype=bool)
        self.fresh = fresh
        shape = UNIT.signature.members["base"].shape
        self.dut.base.value = pack_bits(shape, [SPAN * slot for slot in slots])
        self.dut.active.value = sum(int(v) << k for k, v in enumerate(active))
        self.dut.fresh.value = sum(int(v) << k for k, v in enumerate(fresh))

    def alone(self) -> None:
        """Each lane a text of its own, none of them new."""
        self.set_lanes(list(range(L)), [1] * L, [0] * L)

    def some_lanes(self) -> None:
        """Lanes of few slots or of many, some at rest, some that begin."""
        some = int(self.rng.integers(1, SLOTS + 1))
        slots = self.rng.integers(0, some, L).tolist()
        active = (self.rng.random(L) < self.rng.choice([0.5, 1.0])).astype(int).tolist()
        fresh = [
            int(active[k] and slots[k] not in slots[:k] and self.rng.random() < 0.3)
            for k in range(L)
        ]
        self.set_lanes(slots, active, fresh)

    async def idle(self) -> None:
        """All sums taken, everything drained."""
        await self.bench.sent("pass_i")
        await self.bench.sent("sums")
        await self.bench.sent("rows")
        await self.bench.step()
        while not self.dut.idle.value:
            await self.bench.step()

    # -- random work ---------------------------------------------------------------------------

    def sums(self, outputs: int) -> np.ndarray:
        kind = self.rng.integers(5)
        shape = (L, outputs)
        if kind == 0:
            return np.full(shape, self.rng.choice([-MOST, MOST]))
        if kind == 1:
            return self.rng.choice([-MOST, 0, MOST, 1, -1], shape)
        if kind == 2:
            return np.zeros(shape, dtype=np.int64)
        return np.rint(self.rng.normal(0, MOST / 5, shape)).clip(-MOST, MOST).astype(np.int64)

    def scales(self, middle: int, spread: int) -> list[Scalar]:
        """A scale a lane whose products have about ``middle`` bits before the point."""
        def one() -> Scalar:
            if self.rng.random() < 0.03:
                return scalar.ZERO
            exponent = middle - 17 - MOST.bit_length() + int(self.rng.integers(-spread, spread + 1))
            return Scalar(int(self.rng.integers(1 << 17, 1 << 18)), max(-512, min(511, exponent)))
        return [one() for _ in range(L)]

    def reduction(self, elements: int) -> dict[str, int]:
        words = -(-elements // 4)
        return {
            "address": int(self.rng.integers(0, NORM_WORDS - 4 * words)),
            "vectors": int(self.rng.integers(4)),
            "square": int(self.rng.integers(2)),
        }

    # -- the same work for both ------------------------------------------------------------------

    def run_pass(self, i: isa.Pass, sums: np.ndarray, scales: list[Scalar]) -> None:
        self.golden.run(i, sums, scales)
        self.bench.send("pass_i", [{
            "mode": i.mode, "outputs": i.outputs, "address": i.address, "shift": i.shift,
            "vectors": i.vectors, "square": i.square, "send": i.send, "scale": [s._asdict() for s in scales],
        }])  # fmt: skip
        words = [{"sum": column, "last": int(self.rng.integers(2))} for column in sums.T]
        if self.held is None:
            self.bench.send("sums", words, stall=self.stall)
        else:
            self.held += words

    def embed(self, elements: int) -> None:
        fields = self.reduction(elements)
        i = isa.Embed(elements=elements, stride=0, shift=int(self.rng.integers(32)),
                      norm=fields.pop("address"), wide=0, **fields)
        values = self.rng.integers(-127, 128, (L, elements))
        row_scale = self.rng.choice([0, 1, 65535, *self.rng.integers(0, 1 << 16, 9)], L)
        if self.rng.random() < 0.2:
            values[:] = 0
        rows = [{"value": v, "scale": row_scale[lane]} for lane in range(L) for v in values[lane]]
        if UNIT.sections and self.rng.random() < 0.5:  # residual streams; the scale may be anything
            i = replace(i, wide=1)
            edge = 1 << SOURCE_BITS - 1
            x = self.rng.choice([-edge, edge - 1, *self.rng.integers(-edge, edge, 4 * elements)], (L, elements))
            self.golden.begin(i, x)
            rows = [row | {"value": 0, "x": int(one)} for row, one in zip(rows, x.reshape(-1), strict=True)]
        else:
            self.golden.embed(i, values, row_scale)
            if UNIT.sections:
                rows = [row | {"x": 0} for row in rows]
        self.bench.send("pass_i", [{
            "mode": EMBED, "outputs": elements, "address": i.norm, "shift": i.shift,
            "vectors": i.vectors, "square": i.square, "send": 0, "scale": [scalar.ZERO._asdict()] * L,
        }])  # fmt: skip
        self.bench.send("rows", rows, stall=self.stall)

    def gates(self, elements: int, layer: int | None = None) -> None:
        """FORGET, INPUT and OUTPUT, one behind the other."""
        spread = int(self.rng.choice([2, 12]))
        address = int(self.rng.integers(NORM_WORDS - elements))
        layer = int(self.rng.integers(LAYERS)) if layer is None else layer
        fields = self.reduction(elements)
        self.run_pass(
            self.setting(Mode.FORGET, elements, address=address), self.sums(elements),
            self.scales(2, spread))
        for lane in range(L):
            if self.fresh[lane]:
                at = layer * UNIT.hidden
                self.golden.state[self.golden.slots[lane], at : at + elements] = 0
        self.run_pass(
            self.setting(Mode.INPUT, elements, address=layer * UNIT.hidden), self.sums(elements),
            self.scales(2, spread))
        shift = int(self.rng.integers(product_shift(UNIT.inputs), 32))
        self.run_pass(
            self.setting(Mode.OUTPUT, elements, shift=shift, **fields), self.sums(elements),
            self.scales(2, spread))

    def residual(self, elements: int, *, send: bool = False) -> None:
        if send:
            self.logits.clear()
        self.run_pass(
            self.setting(Mode.RESIDUAL, elements, **self.reduction(elements), send=int(send)), self.sums(elements),
            self.scales(*((15, 2) if self.rng.random() < 0.2 else (3, 15))))

    def gated(self, elements: int) -> None:
        shift = int(self.rng.integers(product_shift(UNIT.inputs), 32))
        self.run_pass(
            self.setting(Mode.GATED, 2 * elements, shift=shift, **self.reduction(elements)),
            self.sums(2 * elements), self.scales(2, int(self.rng.choice([2, 12]))))

    def head(self, outputs: int) -> None:
        sums = self.sums(outputs)
        self.logits.clear()
        self.run_pass(self.setting(Mode.LOGITS, outputs), sums, self.scales(2, 2))

    @staticmethod
    def setting(mode: Mode, outputs: int, **fields: int) -> isa.Pass:
        return isa.Pass(mode=mode, rs=0, outputs=outputs, **(
            {"address": 0, "shift": 0, "vectors": 0, "square": 0, "send": 0} | fields))

    def begin_quant(self, source: Source, elements: int) -> tuple[int, list[list[int]]]:
        """Issues a quantisation; the beats that it must give."""
        norm = int(self.rng.integers(0, NORM_WORDS - elements))
        vector = self.golden.x if source is Source.RESIDUAL else self.golden.product
        v = np.abs(vector[:, :elements] * self.golden.norm(norm, elements)).max(axis=1)
        reciprocals = [scalar.recip(scalar.from_int(max(int(most), 1 << 17))) for most in v]
        i = isa.Quant(rs=0, source=source, elements=elements, norm=norm)
        q = self.golden.quant(i, reciprocals)
        chunk = 5 * UNIT.bytes_per_beat
        padded = np.zeros((L, -(-elements // chunk) * chunk), dtype=np.int64)
        padded[:, :elements] = q
        beats = padded.reshape(L, -1, chunk // 4, 4).transpose(1, 0, 2, 3)
        expected = [
            {"x": [int(x) for x in beat], "last": int(lane == L - 1 and k == chunk // 4 - 1)}
            for lanes in beats for lane, row in enumerate(lanes) for k, beat in enumerate(row)
        ]
        self.bench.send("quant_i", [{
            "source": source, "elements": elements, "norm": norm,
            "reciprocal": [r._asdict() for r in reciprocals],
        }])  # fmt: skip
        return len(expected), expected

    async def quant(self, source: Source, elements: int) -> None:
        count, expected = self.begin_quant(source, elements)
        assert await self.bench.receive("acts", count, stall=self.stall) == expected

    async def check_stats(self, vectors: int, *, sums: bool) -> None:
        for lane in range(L):
            self.dut.stats_lane.value = lane
            await Timer(1, unit="ps")
            stats = unpack_bits(UNIT.signature.members["stats"].shape, int(self.dut.stats.value))
            assert stats["squares"] == self.golden.squares[lane]
            assert stats["max"][:vectors] == self.golden.maxima[:vectors, lane].tolist()
            if sums:
                assert stats["sums"] == self.golden.sums_squared[lane]

    def check_logits(self, *, sent: bool = False) -> None:
        best = unpack_bits(UNIT.signature.members["best"].shape, int(self.dut.best.value))
        assert best["index"] == ([0] * L if sent else self.golden.logits.argmax(axis=1).tolist())
        outputs = self.golden.logits.shape[1]
        order = sorted(
            ((lane, index) for lane in range(L) for index in range(outputs)),
            key=lambda at: (at[1] // BLOCK, at[0], at[1]),
        ) if L > 1 else [(0, index) for index in range(outputs)]  # fmt: skip
        assert [(lane, index) for lane, index, _ in self.logits] == order
        for lane, index, found in self.logits:
            assert found == self.golden.logits[lane, index]

    def check_counts(self) -> None:
        shape = UNIT.signature.members["saturated"].shape
        found = unpack_bits(shape, int(self.dut.saturated.value))
        assert found == {k: min(v, 0xFFFF) for k, v in self.golden.saturated.items()}


@cocotb.test(timeout_time=40, timeout_unit="ms")
@cocotb.parametrize(stall=[0.0, 0.3, 0.8])
async def passes_equal_golden(dut: Any, stall: float) -> None:
    """Random tokens' worth of passes: statistics after bursts, quantisations while passes run."""
    machine = Machine(dut, stall)
    await machine.start()
    rng = machine.rng
    vectors = 0

    def note(i: Any) -> None:
        nonlocal vectors
        vectors = i

    original = machine.reduction

    def reduction(elements: int) -> dict[str, int]:
        fields = original(elements)
        note(fields["vectors"])
        return fields

    machine.reduction = reduction  # type: ignore[method-assign]
    for turn in range(P["rounds"]):
        d = UNIT.hidden if turn % 3 == 0 else int(rng.integers(1, UNIT.hidden + 1))
        m = UNIT.intermediate if turn % 3 == 1 else int(rng.integers(1, UNIT.intermediate + 1))
        machine.some_lanes() if rng.random() < 0.7 else machine.alone()
        gated = False
        machine.embed(d)
        for _ in range(int(rng.integers(1, 6))):
            match rng.integers(4):
                case 0:
                    machine.gates(d)
                    gated = False
                case 1:
                    machine.residual(d)
                case 2:
                    machine.gated(m)
                    gated = True
                case 3:
                    machine.head(int(rng.integers(1, UNIT.vocab + 1)))
            if rng.random() < 0.7:
                await machine.idle()
                await machine.check_stats(vectors, sums=True)
                if rng.random() < 0.5:
                    await machine.quant(Source.RESIDUAL, d)
                    if machine.golden.product.any():
                        await machine.quant(Source.PRODUCT, machine.golden.product.shape[1])
        await machine.idle()
        await machine.check_stats(vectors, sums=True)

        # Quantisations of the vector that the running pass does not write.
        count, expected = machine.begin_quant(Source.RESIDUAL, d)
        machine.bench.expect("acts", count, stall=stall)
        await machine.bench.sent("quant_i")
        machine.gated(m) if gated else machine.gates(d)
        port = machine.bench.ports["acts"]
        await port.done.wait()
        assert [unpack_bits(port.shape, w) for w in port.words[-count:]] == expected
        await machine.idle()
        await machine.check_stats(vectors, sums=True)
        count, expected = machine.begin_quant(Source.PRODUCT, machine.golden.product.shape[1])
        machine.bench.expect("acts", count, stall=stall)
        machine.residual(d)
        await port.done.wait()
        assert [unpack_bits(port.shape, w) for w in port.words[-count:]] == expected

        outputs = UNIT.vocab if turn % 3 == 2 else int(rng.integers(1, UNIT.vocab + 1))
        machine.head(outputs)
        await machine.idle()
        await machine.check_stats(vectors, sums=True)
        machine.check_counts()
        machine.check_logits()

        if UNIT.sections:  # the residual stream goes where logits go
            machine.embed(d)
            machine.residual(d, send=True)
            await machine.idle()
            await machine.check_stats(vectors, sums=False)
            machine.check_logits(sent=True)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def takes_the_stated_cycles(dut: Any) -> None:
    """Every mode: a sum every cycle, idle with everything right after the stated latency."""
    machine = Machine(dut)
    await machine.start()
    d, m = UNIT.hidden, UNIT.intermediate

    async def release() -> None:
        """With several lanes rows are taken before their pass: they come when it waits for them."""
        if L > 1:
            await machine.bench.step(3 + Turns.latency)
            machine.bench.send("sums", machine.held or ())
            machine.held = []

    machine.held = [] if L > 1 else None

    async def measure(mode: int, outputs: int, vectors: int, stream: str = "sums") -> None:
        before = len(machine.bench.times(stream))
        await release()
        await machine.idle()
        await machine.check_stats(vectors, sums=True)
        times = machine.bench.times(stream)[before:]
        singly = L == 1 or stream == "rows"
        assert len(times) == (L * outputs if stream == "rows" else outputs)
        if singly:
            pauses = 3 * (L - 1) if stream == "rows" else 0
            assert times[-1] - times[0] == len(times) - 1 + pauses
            assert machine.idle_since - times[-1] == UNIT.latency(mode, vectors)
        assert machine.idle_since - times[0] == UNIT.cycles(mode, outputs, vectors)

    for vectors in range(4):
        machine.reduction = lambda n, v=vectors: {  # type: ignore[method-assign,misc]
            "address": n, "vectors": v, "square": v & 1}
        machine.embed(d)
        await measure(EMBED, d, vectors, "rows")
        machine.residual(d)
        await measure(Mode.RESIDUAL, d, vectors)
        machine.gated(m)
        await measure(Mode.GATED, 2 * m, vectors)
        machine.gates(d)
        await release()
        await machine.idle()
        times = machine.bench.times("sums")[-3 * d :]
        if L == 1:
            if d >= OVERLAP:  # one cycle between passes
                assert times[-1] - times[0] == 3 * d - 1 + 2
            assert machine.idle_since - times[-1] == UNIT.latency(Mode.OUTPUT, vectors)
        elif d >= OVERLAP:  # one cycle, and what it takes to the first sum
            gap = 1 + Turns.start_latency
            passes = 3 * Turns.slots(d, L) + 2 * gap
            took = Turns.latency + passes - 1 + UNIT.latency(Mode.OUTPUT, vectors)
            assert machine.idle_since - times[0] == took
        machine.head(UNIT.vocab)
        await measure(Mode.LOGITS, UNIT.vocab, 0)
        for source, n in ((Source.RESIDUAL, d), (Source.PRODUCT, d), (Source.PRODUCT, 1)):
            taken, beats = len(machine.bench.times("quant_i")), len(machine.bench.times("acts"))
            await machine.quant(source, n)
            first, *_, last = machine.bench.times("acts")[beats:]
            begun = machine.bench.times("quant_i")[taken]
            assert first - begun == UNIT.quantiser_latency
            assert last + 1 - begun == UNIT.quantiser_cycles(n)

    for mode in (Mode.FORGET, Mode.INPUT):
        machine.run_pass(machine.setting(mode, d), machine.sums(d), machine.scales(2, 2))
        await release()
        await machine.idle()
        first = machine.bench.times("sums")[-d]
        assert machine.idle_since - first == UNIT.cycles(mode, d)
    if L > 1:
        return
    # A pass that may not overlap waits for the one before.
    machine.gates(d)
    machine.residual(d)
    await machine.idle()
    times = machine.bench.times("sums")[-2 * d :]
    assert times[d] - times[d - 1] == UNIT.latency(Mode.OUTPUT, 3) + 1


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def a_reset_in_mid_work_leaves_nothing_behind(dut: Any) -> None:
    machine = Machine(dut)
    await machine.start()
    for _ in range(4):
        machine.embed(UNIT.hidden)
        machine.gates(UNIT.hidden)
        machine.begin_quant(Source.RESIDUAL, UNIT.hidden)
        machine.bench.expect("acts", 3)
        await machine.bench.step(int(machine.rng.integers(5, 150)))
        await machine.bench.start()
        assert machine.dut.idle.value
        machine.golden.saturated = {"residual": 0, "t": 0}
        await machine.clear_states()
        machine.embed(UNIT.hidden)
        for layer in range(LAYERS):
            machine.gates(UNIT.hidden, layer)
        await machine.idle()
        await machine.check_stats(0, sums=True)
        machine.check_counts()
        await machine.quant(Source.PRODUCT, UNIT.hidden)


@cocotb.test(timeout_time=10, timeout_unit="ms")
async def states_are_moved_from_outside(dut: Any) -> None:
    """What is written through the port is what the next token goes on from, and what it leaves is read there."""
    machine = Machine(dut)
    await machine.start()
    port = {name: getattr(dut, f"state__{name}") for name in ("address", "read", "write")}
    limit = 1 << 23
    for _ in range(3):
        await machine.idle()
        state = machine.rng.integers(-limit, limit, (SLOTS, SPAN))
        machine.golden.state[:] = state
        for address, value in enumerate(state.flat):
            port["address"].value, port["write"].value = address, 1
            dut.state__write_data.value = int(value) % (1 << 24)
            await machine.bench.step()
        port["write"].value = 0
        machine.some_lanes()
        for layer in range(LAYERS):
            machine.gates(UNIT.hidden, layer)
        await machine.idle()
        await machine.check_stats(0, sums=True)
        found = []
        port["read"].value = 1
        for k in range(state.size + 2):
            port["address"].value = min(k, state.size - 1)
            await Timer(1, unit="ps")
            if k >= 2:
                found.append(dut.state__read_data.value.to_signed())
            await machine.bench.step()
        port["read"].value = 0
        assert found == machine.golden.state.reshape(-1).tolist()
