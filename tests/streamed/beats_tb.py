# SPDX-License-Identifier: Apache-2.0
"""cocotb side of what the weight stream passes: gearbox, distributor, norm memory."""

from __future__ import annotations

from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly

from nomul.hw.ports import NORM_ADDRESS_BITS, NORM_LATENCY, NormLayout
from nomul.hw.streamed.distributor import Distributor
from nomul.hw.streamed.gearbox import Gearbox
from nomul.hw.streamed.norms import StreamedNormMemory
from nomul.model.placement import NORM_WORD_BYTES, load_beats
from nomul.sim.harness import Bench, pack_bits, parameters

P = parameters()
KIND, OPTIONS = P["kind"], P["options"]


def cut(values: bytes, size: int) -> list[int]:
    """Words of ``size`` bytes, lowest byte first."""
    return [int.from_bytes(values[k : k + size], "little") for k in range(0, len(values), size)]


if KIND == "gearbox":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    @cocotb.parametrize(i_stall=[0.0, 0.5], o_stall=[0.0, 0.6])
    async def keeps_the_bytes(dut, i_stall: float, o_stall: float) -> None:
        unit = Gearbox(**OPTIONS)
        bench = Bench(dut, unit)
        await bench.start()
        wide = max(unit.i_bytes, unit.o_bytes)
        size = wide * 100
        values = bytes([*b"\0" * wide, *b"\xff" * wide, *bench.rng.randbytes(size - 2 * wide)])
        bench.send("i", cut(values, unit.i_bytes), stall=i_stall)
        found = await bench.receive("o", size // unit.o_bytes, stall=o_stall)
        assert found == cut(values, unit.o_bytes)
        taken, given = bench.times("i"), bench.times("o")
        if not i_stall and not o_stall:  # the narrower side has no pause
            narrow = taken if unit.i_bytes < unit.o_bytes else given
            assert narrow[-1] - narrow[0] == size // min(unit.i_bytes, unit.o_bytes) - 1
        if not o_stall:
            last = taken[max(1, unit.o_bytes // unit.i_bytes) - 1]
            assert given[0] - last == (unit.i_bytes != unit.o_bytes)


if KIND == "distributor":

    class Engine:
        """Takes tiles of so many beats, and says when each ends."""

        def __init__(self, bench: Bench, tiles: list[int]):
            self.bench, self.tiles = bench, list(tiles)
            cocotb.start_soon(self.run())

        async def run(self) -> None:
            dut, left = self.bench.dut, list(self.tiles)
            while left:
                await FallingEdge(dut.clk)
                # tile_end stands with the last beat, in the cycle in which it is taken
                dut.tile_end.value = 0
                port = self.bench.ports["o"]
                taken = len(port.words) - sum(self.tiles[: len(self.tiles) - len(left)])
                if taken == left[0]:
                    left.pop(0)
                    taken = 0
                if left and taken == left[0] - 1:
                    await cocotb.triggers.Timer(1, "ns")  # valid and ready of this cycle
                    fires = dut.o__valid.value and dut.o__ready.value
                    dut.tile_end.value = int(fires)
            dut.tile_end.value = 0

    @cocotb.test(timeout_time=5, timeout_unit="ms")
    @cocotb.parametrize(i_stall=[0.0, 0.5], o_stall=[0.0, 0.5], order_stall=[0.0, 0.9])
    async def follows_orders(dut, i_stall: float, o_stall: float, order_stall: float) -> None:
        size = OPTIONS["bytes_per_beat"]
        unit = Distributor(**OPTIONS)
        bench = Bench(dut, unit)
        dut.tile_end.value = 0
        await bench.start()
        rng = bench.rng
        orders: list[dict[str, int]] = []
        beats: list[list[int]] = []
        for_engine: list[list[int]] = []
        writes: list[tuple[int, list[int]]] = []
        tiles: list[int] = []
        for k in range(60):
            load = k % 3 == 0 or rng.random() < 0.4
            words = rng.choice([1, unit.row, unit.row + 1, 3 * unit.row - 1, 5 * unit.row])
            at = rng.choice([0, (1 << NORM_ADDRESS_BITS) - 8 * unit.row, 64 * rng.randint(0, 99)])
            orders.append({"load": int(load), "address": at, "words": words if load else rng.getrandbits(14)})
            count = load_beats(words, size) if load else rng.randint(1, 6)
            made = [list(rng.randbytes(size)) for _ in range(count)]
            beats += made
            if load:
                writes += [(at + n * unit.row, beat) for n, beat in enumerate(made)]
            else:
                for_engine += made
                tiles.append(count)
        seen: list[tuple[int, list[int]]] = []
        when: list[int] = []
        loads_due = sum(o["load"] for o in orders)

        async def watch() -> None:
            while True:
                await FallingEdge(dut.clk)
                now = bench.cycle
                await ReadOnly()
                if dut.norms__valid.value:
                    words = int(dut.norms__words.value)
                    seen.append((int(dut.norms__address.value), list(words.to_bytes(size, "little"))))
                    when.append(now)
                    assert dut.loading.value  # until the last is written
                asked = sum(orders[k]["load"] for k in range(len(bench.times("order"))))
                done = len(seen) == len(writes)
                if asked == loads_due and done and not dut.norms__valid.value:
                    assert not dut.loading.value

        cocotb.start_soon(watch())
        Engine(bench, tiles)
        bench.send("order", orders, stall=order_stall)
        bench.send("i", beats, stall=i_stall)
        assert await bench.receive("o", len(for_engine), stall=o_stall) == for_engine
        await bench.sent("i")
        await bench.step(4)
        assert seen == writes
        assert not dut.loading.value
        taken = bench.times("i")
        if not i_stall and not o_stall and not order_stall:
            assert taken[-1] - taken[0] == len(beats) - 1  # no gap between orders
            assert set(bench.times("o")) <= set(taken)
            assert {cycle - 1 for cycle in when} | set(bench.times("o")) == set(taken)

    @cocotb.test(timeout_time=1, timeout_unit="ms")
    async def keeps_16_orders(dut) -> None:
        bench = Bench(dut, Distributor(**OPTIONS))
        dut.tile_end.value = 0
        await bench.start()
        bench.send("order", [{"load": 1, "address": 0, "words": 1}] * 40)
        await bench.step(40)
        assert len(bench.times("order")) == 17  # and one at work
        assert dut.loading.value
        bench.send("i", [[0] * OPTIONS["bytes_per_beat"]] * 40)
        await bench.sent("i")
        await bench.step(3)
        assert not dut.loading.value


if KIND == "norms":

    @cocotb.test(timeout_time=2, timeout_unit="ms")
    async def reads_what_was_written(dut) -> None:
        unit = StreamedNormMemory(**OPTIONS)
        bench = Bench(dut, unit)
        dut.write__valid.value = 0
        await bench.start()
        rng = bench.rng
        rows = -(-unit.words // unit.row)
        bits = 8 * NORM_WORD_BYTES
        content: dict[int, int] = {}
        asked: list[tuple[Any, Any]] = []
        shape = NormLayout
        assert shape.size == bits
        for cycle in range(600):
            await FallingEdge(dut.clk)
            write = cycle < rows or rng.random() < 0.3
            row = cycle if cycle < rows else rng.randrange(rows)
            values = [rng.choice([0, (1 << bits) - 1, rng.getrandbits(bits)]) for _ in range(unit.row)]
            dut.write__valid.value = int(write)
            dut.write__address.value = row * unit.row
            dut.write__words.value = pack_bits(
                unit.write.signature.members["words"].shape,
                [[v >> 16 * k & 0xFFFF for k in range(4)] for v in values],
            )
            known = [a for a in content if not write or a // unit.row != row]
            picks = [rng.choice(known) if known else None for _ in range(2)]
            for port, pick in zip((dut.a__address, dut.b__address), picks, strict=True):
                port.value = 0 if pick is None else pick
            asked.append(tuple(None if p is None else content[p] for p in picks))
            if write:
                content.update({row * unit.row + k: v for k, v in enumerate(values)})
            await ReadOnly()
            if cycle >= NORM_LATENCY:
                for port, wanted in zip((dut.a__data, dut.b__data), asked[cycle - NORM_LATENCY], strict=True):
                    assert wanted is None or int(port.value) == wanted
