# SPDX-License-Identifier: Apache-2.0
"""LiteDRAM's controllers over its model of memory: facts, contents, speed, timings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from nomul.hw.build.tools import build_folder
from nomul.hw.dram.boards import BOARDS, ECPIX5, ORANGECRAB, ULX3S, ULX3S_32M, VERSA, DramBoard
from nomul.hw.dram.controller import Settings, available, generate
from nomul.hw.dram.parts import MT41K256M16_125, Time
from nomul.hw.dram.wrapper import DramController
from nomul.hw.ports import BURST_WORDS
from nomul.sim.dram import Access, build_dram, run_dram
from nomul.sim.dram.bench import measure
from nomul.sim.harness import seed

#: Boards whose controllers differ in more than a name.
DISTINCT = [ECPIX5.name, ULX3S.name, ORANGECRAB.name, VERSA.name, ULX3S_32M.name]
needs_litedram = pytest.mark.skipif(available() is not None, reason=str(available()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Settings(postponing=9), "postponing is 9; a part allows 1 to 8"),
        (lambda: Settings(postponing=0), "postponing is 0; a part allows 1 to 8"),
        (lambda: Settings(buffer_depth=1), "buffer_depth is 1; at least 2"),
        (lambda: dataclasses.replace(MT41K256M16_125, rows=1000), "rows is 1000, not a power of two"),
        (lambda: dataclasses.replace(MT41K256M16_125, kind="DDR4"), "kind is 'DDR4'; SDR or DDR3"),
        (lambda: dataclasses.replace(MT41K256M16_125, data_bits=12), "data_bits is 12"),
        (lambda: dataclasses.replace(ULX3S, part=MT41K256M16_125), "is not for DDR3"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_boards():
    assert (ECPIX5.word_bytes, ECPIX5.cycles_per_word, ECPIX5.peak) == (16, 2, 600_000_000)
    assert ECPIX5.part.capacity == 512 << 20
    assert (ULX3S.word_bytes, ULX3S.cycles_per_word, ULX3S.peak) == (4, 1, 240_000_000)
    assert ULX3S.part.capacity == 64 << 20
    assert (ORANGECRAB.word_bytes, ORANGECRAB.peak, ORANGECRAB.part.capacity) == (16, 512_000_000, 128 << 20)
    assert (VERSA.word_bytes, VERSA.peak, VERSA.part.capacity) == (16, 600_000_000, 128 << 20)


def test_boards_that_differ_in_name_alone():
    """So what is shown of one holds for the others: chip and oscillator change the pins' side alone."""

    def kinds(names: Iterable[str]) -> set[DramBoard]:
        return {dataclasses.replace(BOARDS[name], name="", device="", input_hz=0) for name in names}

    assert kinds(BOARDS) == kinds(DISTINCT)


@needs_litedram
@pytest.mark.parametrize("name", DISTINCT)
def test_controller_is_that_of_the_board(name):
    """With PHY and with model: the same port, the PHY's settings, the data sheet's refresh."""
    board = BOARDS[name]
    real, model = generate(board, model=False), generate(board, model=True)
    for made in (real, model):
        assert made.word_bytes == board.word_bytes
        assert 1 << made.address_bits == board.words
        assert made.phy["nphases"] == board.ratio
        assert made.phy["cl"] == board.cl
        rfc = made.timing["tRFC"]
        assert rfc is not None
        assert board.part.t_rfc.ns <= rfc * 1e9 / board.clock_hz < board.part.t_rfc.ns + 2e9 / board.clock_hz
    assert real.phy == model.phy
    assert real.timing == model.timing
    assert f"module {real.module} (" in real.verilog
    assert "ddram_dq" in real.verilog or "sdram_dq" in real.verilog
    assert str(Path.cwd()) not in real.verilog
    assert "/*" not in real.verilog  # LiteX's tree of modules, whose order changes
    with pytest.raises(ValueError, match="is no model"):
        DramController(controller=real)


@needs_litedram
def test_ecp5_latencies():
    """Those of LiteDRAM's ECP5 PHY, not of its simulator."""
    phy = generate(ECPIX5, model=True).phy
    assert (phy["read_latency"], phy["write_latency"], phy["rdphase"], phy["wrphase"]) == (13, 3, 0, 1)


def random_traffic(board, contents, *, bursts):
    """Bursts within few rows of all banks; what they write, what they must read."""
    rng = np.random.default_rng(seed())
    memory, accesses, writes, reads = contents.copy(), [], [], []
    row = board.part.columns * board.part.data_bits // 8 // board.word_bytes
    blocks = [int(k) // BURST_WORDS for k in rng.integers(0, len(memory) // row, 24) * row]
    blocks += [0, len(memory) // BURST_WORDS - 1]
    for _ in range(bursts):
        first = int(rng.choice([0, 0, rng.integers(BURST_WORDS), BURST_WORDS - 1]))
        words = int(rng.choice([1, BURST_WORDS - first, rng.integers(1, BURST_WORDS - first + 1)]))
        address, write = int(rng.choice(blocks)) * BURST_WORDS + first, bool(rng.random() < 0.4)
        accesses.append(Access(address, words, write))
        if write:
            noise = rng.integers(0, 256, (words, board.word_bytes), dtype=np.uint8)
            memory[address : address + words] = noise
            writes.append(noise)
        else:
            reads.append(memory[address : address + words].copy())
    return accesses, np.concatenate(writes), np.concatenate(reads)


def image_file(name, size):
    path = build_folder("dram") / f"test-{name}.bin"
    contents = np.random.default_rng(seed()).integers(0, 256, size, dtype=np.uint8)
    contents.tofile(path)
    return path, contents


@needs_litedram
@pytest.mark.parametrize(
    "name", [*DISTINCT[:3], *(pytest.param(name, marks=pytest.mark.sweep) for name in DISTINCT[3:])]
)
def test_equals_memory(name):
    """Random reads and writes, data sheet's timings checked by the model."""
    board = BOARDS[name]
    image, contents = image_file(name, 1 << 20)
    program = build_dram(generate(board, model=True, check=True))
    accesses, writes, reads = random_traffic(
        board, contents.reshape(-1, board.word_bytes), bursts=1200
    )
    for stall in (0.0, 0.9):
        run = run_dram(
            program, board, accesses, image=image, writes=writes, stall=stall, seed=seed()
        )
        assert np.array_equal(run.reads, reads)
        assert not run.messages
    assert image.read_bytes() == contents.tobytes()


@needs_litedram
def test_the_check_of_timings_sees_a_slower_part():
    """The controller keeps LiteDRAM's table; the model checks those of a part that takes longer."""
    part = dataclasses.replace(ULX3S.part, t_rcd=Time(ns=60))
    board = dataclasses.replace(ULX3S, part=part)
    image, contents = image_file("slow", 1 << 20)
    program = build_dram(generate(board, Settings(datasheet=False), model=True, check=True))
    accesses, writes, _ = random_traffic(board, contents.reshape(-1, 4), bursts=300)
    run = run_dram(program, board, accesses, image=image, writes=writes)
    assert any("ACT->RD violation" in message for message in run.messages)


@needs_litedram
@pytest.mark.parametrize(("name", "linear", "short"), [(ECPIX5.name, 0.96, 0.96), (ULX3S.name, 0.98, 0.97)])
def test_efficiency(name, linear, short):
    """Of the pins' peak, over a long read and over one that is interrupted."""
    found = measure(BOARDS[name], Settings(), size=1 << 20, workloads=("linear", "short"))
    assert found["efficiency"]["linear"] >= linear
    assert found["efficiency"]["short"] >= short


def test_what_is_asked_for_must_fit():
    image = Path("none")
    with pytest.raises(ValueError, match=re.escape("crosses 64 words")):
        run_dram(image, ECPIX5, [Access(60, 5)], image=image)
    with pytest.raises(ValueError, match=re.escape("3 words are written, writes has 0")):
        run_dram(image, ECPIX5, [Access(0, 3, True)], image=image)
