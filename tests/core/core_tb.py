# SPDX-License-Identifier: Apache-2.0
"""cocotb side: a whole core, its memories filled through the bus, against the golden model."""

from __future__ import annotations

from functools import cache
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge, ReadOnly
from core_socket import CoreSocket

from nomul.model.core_config import CoreConfig
from nomul.model.counters import COUNTER_BYTES, EXPOSED, Counter, counter_words
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.image import regions
from nomul.model.isa import INSTRUCTION_BYTES, Mul, Stat, Statistic, Tile, encode
from nomul.model.program import Image, compile_model
from nomul.model.protocol import Fault, Region
from nomul.model.random_checkpoint import random_checkpoint
from nomul.sim.golden import Golden
from nomul.sim.harness import Bench, parameters

P = parameters()
CONFIG = CoreConfig(**P["config"])
MODELS: list[dict[str, Any]] = P["models"]
STALLS = (0.0, 0.4, 0.9)


@cache
def image_of(number: int) -> Image:
    model = fold(random_checkpoint(Geometry(**MODELS[number]), number + 1))
    image = compile_model(
        model, bytes_per_beat=CONFIG.bytes_per_beat, tile_outputs=CONFIG.tile_outputs
    )
    CONFIG.check(image)
    return image


def one(token: int, *, fresh: bool = False) -> dict[str, list[int]]:
    """A token for the one lane."""
    return {"token": [token], "slot": [0], "fresh": [int(fresh)], "active": [1], "logits": [1]}


class Chip:
    """A core as its link sees it: tokens, bus, abort."""

    def __init__(self, dut: Any):
        self.dut = dut
        self.bench = Bench(dut, CoreSocket(config=CONFIG))

    async def start(self, image: Image) -> None:
        for name in ("address", "write", "write_data", "read"):
            getattr(self.dut, f"bus__{name}").value = 0
        self.dut.give_up.value = 0
        await self.bench.start()
        for address, data in regions(image, CONFIG.weight_beats).items():
            await self.write(address, data)

    async def access(self, address: int, data: int | None = None) -> int:
        dut = self.dut
        await FallingEdge(dut.clk)
        assert not dut.busy.value
        strobe = dut.bus__read if data is None else dut.bus__write
        strobe.value, dut.bus__address.value, dut.bus__write_data.value = 1, address, data or 0
        for _ in range(20):
            await FallingEdge(dut.clk)
            strobe.value = 0
            if dut.bus__done.value:
                assert not dut.bus__error.value, f"nothing answers at {address:#x}"
                return int(dut.bus__read_data.value)
        raise AssertionError(f"no answer at {address:#x}")

    async def write(self, address: int, data: bytes) -> None:
        for k, byte in enumerate(data):
            await self.access(address + k, byte)

    async def read(self, address: int, count: int) -> bytes:
        return bytes([await self.access(address + k) for k in range(count)])

    async def idle(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            if not self.dut.busy.value:
                return

    async def tokens(self, tokens: list[int], *, reset: bool, stall: float) -> list[int]:
        """Arg-max after each; they wait in line, the first perhaps with a reset."""
        self.bench.send(
            "token_i",
            [one(t, fresh=reset and k == 0) for k, t in enumerate(tokens)],
            stall=stall,
        )
        found = await self.bench.receive("token_o", len(tokens), stall=stall)
        await self.idle()
        return [lanes[0] for lanes in found]

    async def logits(self, vocab: int) -> list[int]:
        raw = await self.read(Region.LOGITS.base, 4 * vocab)
        return [
            int.from_bytes(raw[k : k + 4], "little", signed=True) for k in range(0, len(raw), 4)
        ]

    async def counters(self) -> list[int]:
        raw = await self.read(Region.COUNTERS.base, COUNTER_BYTES * counter_words(1))
        return [int.from_bytes(raw[k : k + 4], "little") for k in range(0, len(raw), 4)]

    async def agrees(self, golden: Golden) -> list[int]:
        """Logits, their scale and the saturations are golden's; the counters."""
        assert await self.logits(golden.image.geometry.vocab) == golden.logits[0].tolist()
        words = await self.counters()
        mantissa, exponent = words[Counter.LOGIT_SCALE :]
        signed = exponent - (exponent >> 31 << 32)
        assert float(mantissa) * 2.0**signed == golden.logit_scale[0]
        assert words[Counter.SATURATED_RESIDUAL] == min(golden.saturated["residual"], 65535)
        assert words[Counter.SATURATED_T] == min(golden.saturated["t"], 65535)
        assert words[Counter.ERROR] == 0
        return words


def prompt(chip: Chip, image: Image, count: int) -> list[int]:
    return [chip.bench.rng.randrange(image.geometry.vocab) for _ in range(count)]


async def one_by_one(chip: Chip, golden: Golden, tokens: list[int]) -> set[tuple[int, ...]]:
    """Each token alone, everything compared after each; what the cycle counters showed."""
    seen = set()
    for k, token in enumerate(tokens):
        expected = int(golden.step(token)[0])
        assert await chip.tokens([token], reset=k == 0, stall=STALLS[k % 3]) == [expected]
        words = await chip.agrees(golden)
        assert words[Counter.TOKEN_CYCLES] == words[Counter.BEATS] + sum(words[c] for c in EXPOSED)
        seen.add(tuple(words[: Counter.SATURATED_RESIDUAL]))
    return seen


@cocotb.test(timeout_time=20, timeout_unit="ms")
@cocotb.parametrize(number=range(len(MODELS)))
async def equals_golden(dut, number: int) -> None:
    image = image_of(number)
    chip = Chip(dut)
    await chip.start(image)
    golden = Golden(image)
    seen = await one_by_one(chip, golden, prompt(chip, image, 4))
    # A second prompt gives what it gives alone; the saturations are counted on.
    alone = Golden(image)
    alone.saturated.update(golden.saturated)
    seen |= await one_by_one(chip, alone, prompt(chip, image, 3))
    assert len(seen) == 1, f"cycles depend on data, on stalls or on what came before: {seen}"
    (counts,) = seen
    assert counts[Counter.BEATS] == len(image.weights)
    # Its own words, and many tokens in line.
    third = Golden(image)
    token, greedy = 0, [0]
    for _ in range(5):
        token = int(third.step(token)[0])
        greedy.append(token)
    token, reset = 0, True
    for expected in greedy[1:]:
        (token,) = await chip.tokens([token], reset=reset, stall=0.0)
        assert token == expected
        reset = False
    line = prompt(chip, image, 6)
    expected = [int(third.step(token)[0]) for token in line]
    assert await chip.tokens(line, reset=False, stall=0.7) == expected
    assert await chip.logits(image.geometry.vocab) == third.logits[0].tolist()


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def a_token_can_be_given_up(dut) -> None:
    image = image_of(0)
    chip = Chip(dut)
    await chip.start(image)
    tokens = prompt(chip, image, 2)
    await chip.tokens(tokens, reset=True, stall=0.0)
    cycles = (await chip.counters())[Counter.TOKEN_CYCLES]
    begin = len(chip.bench.ports["token_o"].words)
    for after in (1, 5, *(chip.bench.rng.randrange(cycles - 2) for _ in range(6)), cycles - 2):
        chip.bench.send("token_i", [one(prompt(chip, image, 1)[0])])
        await chip.bench.sent("token_i")
        await chip.bench.step(after + 1)
        dut.give_up.value = 1
        await chip.idle()
        dut.give_up.value = 0
        await chip.bench.step(3)
        await ReadOnly()
        assert not dut.busy.value
        assert not dut.token_o__valid.value
        golden = Golden(image)
        expected = [int(golden.step(token)[0]) for token in tokens]
        assert await chip.tokens(tokens, reset=True, stall=0.0) == expected, after
        assert await chip.logits(image.geometry.vocab) == golden.logits[0].tolist()
        begin += len(tokens)
    assert len(chip.bench.ports["token_o"].words) == begin  # what was given up gave nothing
    dut.give_up.value = 1  # nothing to give up
    await chip.bench.step(5)
    dut.give_up.value = 0
    assert await chip.tokens(tokens, reset=True, stall=0.0) == expected


BAD = {
    "opcode": [15],
    "statistic": [encode(Stat(rd=0, statistic=Statistic.MAX0)) | 7 << 8],
    "no_end": [encode(Mul(rd=0, ra=0, rb=0))] * CONFIG.program_words,
    "too_many_tiles": [encode(Tile(outputs=2, chunks=1))] * 20,
}


@cocotb.test(timeout_time=10, timeout_unit="ms")
@cocotb.parametrize(name=list(BAD))
async def a_bad_program_is_an_error(dut, name: str) -> None:
    image = image_of(0)
    chip = Chip(dut)
    await chip.start(image)
    tokens = prompt(chip, image, 2)
    words = [encode(i) for i in image.program]
    at = len(words) - 1 if len(BAD[name]) > 1 else chip.bench.rng.randrange(len(words))
    address = Region.PROGRAM.base + INSTRUCTION_BYTES * at
    bad = BAD[name][: CONFIG.program_words - at]
    await chip.write(address, b"".join(word.to_bytes(8, "little") for word in bad))
    if name == "too_many_tiles":  # more weights than there are: it waits, until it is given up
        chip.bench.send("token_i", [one(tokens[0], fresh=True)])
        await chip.bench.step(5000)
        assert dut.busy.value
        dut.give_up.value = 1
        await chip.idle()
        dut.give_up.value = 0
    else:
        assert await chip.tokens(tokens[:1], reset=True, stall=0.0) == [0]
        assert int(dut.error.value) == Fault.PROGRAM
        assert (await chip.counters())[Counter.ERROR] == 1
    # Nothing of it stays.
    await chip.write(address, words[at].to_bytes(8, "little"))
    golden = Golden(image)
    expected = [int(golden.step(token)[0]) for token in tokens]
    assert await chip.tokens(tokens, reset=True, stall=0.0) == expected
    await chip.agrees(golden)
