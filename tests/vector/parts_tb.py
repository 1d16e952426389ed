# SPDX-License-Identifier: Apache-2.0
"""cocotb side: the vector unit's parts, each against NumPy integers, an input every cycle."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from nomul.hw.vector.argmax import ArgMax
from nomul.hw.vector.recurrence import Recurrence
from nomul.hw.vector.scaler import Scaler
from nomul.hw.vector.sigma import Activation, Sigma
from nomul.model.numbers import SIGMA_FRAC, STATE_FRAC, T_BITS, T_FRAC, round_shift, saturate, sigma
from nomul.sim.harness import pack_bits, parameters, unpack_bits

P = parameters()


class Feed:
    """Drives plain ports cycle by cycle: at the falling edge inputs change, outputs are read."""

    def __init__(self, dut: Any, component: Any):
        self.dut, self.shapes = dut, {
            name: member.shape for name, member in component.signature.members.items()
            if not member.is_signature
        }  # fmt: skip
        self.rng = np.random.default_rng(cocotb.RANDOM_SEED)

    async def start(self, **values: Any) -> None:
        Clock(self.dut.clk, 10, unit="ns").start()
        self.dut.rst.value = 1
        self.set(**values)
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            getattr(self.dut, name).value = pack_bits(self.shapes[name], value)

    def get(self, name: str) -> Any:
        return unpack_bits(self.shapes[name], int(getattr(self.dut, name).value))

    async def step(self, **values: Any) -> None:
        self.set(**values)
        await FallingEdge(self.dut.clk)


def silu(t: np.ndarray) -> np.ndarray:
    return round_shift(t * sigma(t), T_FRAC + SIGMA_FRAC - STATE_FRAC)


def arguments(rng: np.random.Generator, width: int, count: int) -> np.ndarray:
    """Arguments of σ: around every limit, evenly within the table, anywhere."""
    edge = 1 << width - 1
    near = [v + k for v in (0, 1 << 16, -(1 << 16), 1 << 17, -(1 << 17)) for k in range(-130, 131)]
    return np.concatenate([
        np.array([-edge, edge - 1, *(v for v in near if -edge <= v < edge)]),
        rng.integers(-(1 << 16), 1 << 16, count),
        rng.integers(-edge, edge, count // 4),
    ])


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "Sigma")
async def sigma_equals_golden(dut: Any) -> None:
    unit = Sigma(width=P["width"])
    feed = Feed(dut, unit)
    t = arguments(feed.rng, unit.width, 8000)
    complement = feed.rng.integers(0, 2, len(t))
    expected = np.where(complement, (1 << SIGMA_FRAC) - sigma(t), sigma(t))
    await feed.start(t=0, complement=0)
    found = []
    for k in range(len(t) + unit.latency):
        at = min(k, len(t) - 1)
        await feed.step(t=t[at], complement=complement[at])
        found.append(feed.get("sigma"))
    assert found[unit.latency - 1 :][: len(t)] == expected.tolist()


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "Activation")
async def activation_equals_golden(dut: Any) -> None:
    unit = Activation(width=P["width"])
    feed = Feed(dut, unit)
    wide = arguments(feed.rng, unit.width, 3000)
    n = len(wide)
    t = saturate(wide, T_BITS)
    forget = feed.rng.integers(0, 2, n)
    hold = feed.rng.integers(0, 2, n)
    lower = feed.rng.choice([0, 1, 65535, 32768, *feed.rng.integers(0, 1 << 16, 20)], n)
    one = 1 << SIGMA_FRAC
    keep = round_shift((one - lower) * (one - sigma(t)), SIGMA_FRAC)
    values = silu(t)
    await feed.start(t=0, forget=0, lower=0, hold=0)
    held = None
    for k in range(n + unit.latency):
        at = min(k, n - 1)
        done = k - unit.latency + 1
        await feed.step(t=wide[at], forget=forget[at], lower=lower[max(at - 1, 0)],
                        hold=hold[done] if 0 <= done < n else 1)
        if 0 <= done < n:
            if not hold[done]:
                held = ("keep", keep[done]) if forget[done] else ("silu", values[done])
            assert held is None or feed.get(held[0]) == held[1]


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "Scaler")
async def scaler_equals_integers(dut: Any) -> None:
    unit = Scaler(width=P["width"])
    feed = Feed(dut, unit)
    n, w = 4000, unit.width

    def some(bits: int) -> np.ndarray:
        edge = 1 << bits - 1
        return feed.rng.choice([-edge, edge - 1, 0, -1, *feed.rng.integers(-edge, edge, 40)], n)

    a, b, base = some(w), some(24), some(32)
    shift = feed.rng.integers(0, 64, n)
    product = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    expected = [int(c) + ((p + (1 << s >> 1)) >> int(s))
                for p, s, c in zip(product, shift.tolist(), base, strict=True)]
    await feed.start(a=0, b=0, shift=0, base=0)
    for k in range(n + unit.latency - 1):
        now, one_ago, three_ago = (min(max(k - late, 0), n - 1) for late in (0, 1, 3))
        await feed.step(a=a[now], b=b[now], shift=shift[one_ago], base=base[three_ago])
        if k >= unit.latency - 1:
            assert feed.get("total") == expected[k - unit.latency + 1]


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "ArgMax")
async def argmax_takes_the_first_of_equals(dut: Any) -> None:
    unit = ArgMax(lanes=P["lanes"], width=P["width"])
    feed = Feed(dut, unit)
    edge = 1 << unit.width - 1
    await feed.start(start=0, valid=0, value=[0] * unit.lanes)
    for turn in range(60):
        n = int(feed.rng.integers(1, 40))
        values = feed.rng.integers(-edge, edge, (n, unit.lanes))
        if turn % 3 == 0:
            values = feed.rng.choice([-edge, edge - 1], (n, unit.lanes))
        await feed.step(start=1, valid=0)
        for index, row in enumerate(values):
            while feed.rng.random() < 0.3:
                await feed.step(start=0, valid=0, value=[edge - 1] * unit.lanes)
            feed.set(start=0, valid=1, value=row)
            assert feed.get("index") == index
            await feed.step()
        await feed.step(valid=0)
        assert feed.get("best") == values.argmax(axis=0).tolist()


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "Recurrence")
async def recurrence_equals_golden(dut: Any) -> None:
    """Random gaps between elements; states of one layer while the others rest; fresh lanes."""
    unit = Recurrence(lanes=P["lanes"], hidden=P["hidden"], layers=P["layers"])
    feed = Feed(dut, unit)
    rng, lanes, d = feed.rng, unit.lanes, unit.hidden
    state = np.zeros((lanes, unit.layers * d), dtype=np.int64)
    limit = 1 << 23
    none = [0] * lanes
    await feed.start(start_forget=0, start_update=0, start_read=0, address=0, fresh=0, forget=0,
                     keep=none, update=0, silu=none, read=0)

    async def elements(strobe: str, port: str | None, values: np.ndarray, gap: float) -> None:
        """Strobes with random gaps; each one's value comes two cycles later."""
        late: list[Any] = [None, None]
        left = list(values)
        while left or any(v is not None for v in late):
            now = bool(left) and rng.random() >= gap
            late.append(left.pop(0) if now else None)
            value = late.pop(0)
            if port is not None:
                noise = rng.integers(0, 1 << 16, lanes)
                feed.set(**{port: noise if value is None else value})
            await feed.step(**{strobe: int(now)})
        feed.set(**{strobe: 0})

    for turn in range(24):
        gap = (0.0, 0.5)[turn % 2]
        layer = int(rng.integers(unit.layers))
        keep = rng.choice([0, 1, 65536, *rng.integers(0, 65537, 9)], (d, lanes))
        s = rng.choice([-limit, limit - 1, 0, *rng.integers(-limit, limit, 20)], (d, lanes))
        fresh = int(rng.integers(1 << lanes)) if turn % 4 == 0 else 0
        await feed.step(start_forget=1)
        feed.set(start_forget=0)
        await elements("forget", "keep", keep, gap)
        await feed.step(start_update=1, address=layer * d, fresh=fresh)
        feed.set(start_update=0)
        await elements("update", "silu", s, gap)
        for _ in range(unit.latency - 2):
            await feed.step()
        here = state[:, layer * d : (layer + 1) * d]
        for lane in range(lanes):
            if fresh >> lane & 1:
                here[lane] = 0
        here += round_shift(keep.T * (s.T - here), SIGMA_FRAC)
        t = saturate(round_shift(here, STATE_FRAC - T_FRAC), T_BITS)
        expected = round_shift(here * sigma(t), SIGMA_FRAC)
        await feed.step(start_read=1)
        feed.set(start_read=0)
        for k in range(d + 1):
            await feed.step(read=int(k < d))
            if k:
                assert feed.get("activated") == expected[:, k - 1].tolist(), (turn, k)
        feed.set(read=0)
