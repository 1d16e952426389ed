# SPDX-License-Identifier: Apache-2.0
"""cocotb side: the vector unit's parts, each against NumPy integers, an input every cycle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from nomul.hw.vector.argmax import ArgMax
from nomul.hw.vector.recurrence import Recurrence
from nomul.hw.vector.scaler import Scaler
from nomul.hw.vector.sigma import Activation, Sigma
from nomul.hw.vector.turns import BLOCK
from nomul.model.numbers import SIGMA_FRAC, STATE_FRAC, T_BITS, T_FRAC, round_shift, saturate, sigma
from nomul.sim.harness import pack_bits, parameters, unpack_bits

P = parameters()


NO_TAG = {"lane": 0, "first": 0, "last": 0, "head": 0, "tail": 0}


def turns(elements: int, lanes: int) -> Iterator[tuple[int, int | None, dict[str, int]]]:
    """Lane, element and tag of every slot of a pass; no element in slots that stay empty."""
    if lanes == 1:
        yield from ((0, k, NO_TAG) for k in range(elements))
        return
    for block in range(0, elements, BLOCK):
        size = min(BLOCK, elements - block)
        for lane in range(lanes):
            for k in range(BLOCK):
                if k < size:
                    tag = {"first": int(k == 0), "last": int(k == size - 1), "head": int(k % 4 == 0)}
                    tail = int(k >= 4 or size <= 4)
                    yield lane, block + k, {"lane": lane, **tag, "tail": tail}
                elif lane < lanes - 1 or block + BLOCK < elements:
                    yield lane, None, NO_TAG


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
    lanes = unit.lanes
    await feed.start(start=0, valid=0, value=0, tag=NO_TAG)
    for turn in range(60):
        n = int(feed.rng.integers(1, 40))
        values = feed.rng.integers(-edge, edge, (n, unit.lanes))
        if turn % 3 == 0:
            values = feed.rng.choice([-edge, edge - 1], (n, unit.lanes))
        await feed.step(start=1, valid=0)
        for lane, index, tag in turns(n, lanes):
            while feed.rng.random() < 0.3:
                await feed.step(start=0, valid=0, value=edge - 1)
            if index is None:
                await feed.step(start=0, valid=0, value=edge - 1)
                continue
            feed.set(start=0, valid=1, value=values[index][lane], tag=tag)
            assert feed.get("index") == index
            await feed.step()
        await feed.step(valid=0)
        assert feed.get("best") == values.argmax(axis=0).tolist()


@cocotb.test(timeout_time=20, timeout_unit="ms", skip=P["unit"] != "Recurrence")
async def recurrence_equals_golden(dut: Any) -> None:
    """Random gaps between elements; lanes that share a state, that begin, that are at rest."""
    unit = Recurrence(
        lanes=P["lanes"], hidden=P["hidden"], state_elements=P["state_elements"]
    )
    feed = Feed(dut, unit)
    rng, lanes, d = feed.rng, unit.lanes, unit.hidden
    span = P["layers"] * d
    slots = unit.state_elements // span
    state = np.zeros((slots, span), dtype=np.int64)
    limit = 1 << 23
    await feed.start(start_forget=0, start_update=0, start_read=0, address=0, base=[0] * lanes,
                     fresh=0, active=0, tag=NO_TAG, forget=0, keep=0, update=0, silu=0, read=0,
                     read_last=0)
    for name in ("address", "read", "write", "write_data"):
        getattr(dut, f"state__{name}").value = 0

    async def elements(strobe: str, port: str, values: np.ndarray, gap: float) -> None:
        """Strobes with random gaps; a tag two cycles before each, its value two cycles after."""
        line: list[Any] = [None] * 5  # by cycles since the tag
        slots = list(turns(d, lanes))
        while slots or any(slot is not None for slot in line):
            slot = slots.pop(0) if slots and rng.random() >= gap else None
            slot = None if slot is None or slot[1] is None else slot
            line = [slot, *line[:-1]]
            value = int(rng.integers(0, 1 << 16)) if line[4] is None else values[line[4][1]][line[4][0]]
            tag = NO_TAG | {"lane": int(rng.integers(lanes))} if slot is None else slot[2]
            await feed.step(**{strobe: int(line[2] is not None), port: value, "tag": tag})
        feed.set(**{strobe: 0})

    for turn in range(24):
        gap = (0.0, 0.5)[turn % 2]
        layer = int(rng.integers(P["layers"]))
        keep = rng.choice([0, 1, 65536, *rng.integers(0, 65537, 9)], (d, lanes))
        s = rng.choice([-limit, limit - 1, 0, *rng.integers(-limit, limit, 20)], (d, lanes))
        slot = rng.permutation(slots)[:lanes] if turn < 4 else rng.integers(0, slots, lanes)
        first = np.array([slot[k] not in slot[:k] for k in range(lanes)])
        active = rng.random(lanes) < 0.7 if turn >= 4 else np.ones(lanes, dtype=bool)
        fresh = first & active & (rng.random(lanes) < 0.3) if turn >= 4 else first
        at = slice(layer * d, (layer + 1) * d)
        if turn < 4:  # every state once, whatever was there before
            layer, at = turn % P["layers"], slice(turn % P["layers"] * d, (turn % P["layers"] + 1) * d)
        feed.set(
            base=[int(k) * span for k in slot],
            fresh=sum(int(v) << k for k, v in enumerate(fresh)),
            active=sum(int(v) << k for k, v in enumerate(active)),
        )
        await feed.step(start_forget=1)
        feed.set(start_forget=0)
        await elements("forget", "keep", keep, gap)
        await feed.step(start_update=1, address=layer * d)
        feed.set(start_update=0)
        await elements("update", "silu", s, gap)
        for _ in range(unit.latency - 2):
            await feed.step()
        h = np.zeros((lanes, d), dtype=np.int64)
        for lane in range(lanes):
            before = np.zeros(d, dtype=np.int64) if fresh[lane] else state[slot[lane], at]
            h[lane] = before + round_shift(keep.T[lane] * (s.T[lane] - before), SIGMA_FRAC)
            if active[lane]:
                state[slot[lane], at] = h[lane]
        t = saturate(round_shift(h, STATE_FRAC - T_FRAC), T_BITS)
        expected = round_shift(h * sigma(t), SIGMA_FRAC)
        await feed.step(start_read=1)
        feed.set(start_read=0)
        order = [(lane, k, tag) for lane, k, tag in turns(d, lanes) if k is not None]
        for count in range(len(order) + 1):
            now = count < len(order)
            await feed.step(read=int(now), read_last=order[count][2]["last"] if now else 0)
            if count:
                lane, k, _ = order[count - 1]
                assert feed.get("activated") == expected[lane, k], (turn, lane, k)
        feed.set(read=0)
