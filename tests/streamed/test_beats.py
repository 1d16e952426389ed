# SPDX-License-Identifier: Apache-2.0
"""pytest side of what the weight stream passes: gearbox, distributor, norm memory."""

from __future__ import annotations

import re

import pytest
from amaranth.sim import Simulator

from nomul.hw.build.synth import synthesise
from nomul.hw.streamed.distributor import Distributor
from nomul.hw.streamed.gearbox import Gearbox
from nomul.hw.streamed.norms import StreamedNormMemory
from nomul.sim.harness import run


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gearbox(i_bytes=0, o_bytes=4), "i_bytes is 0; it must be a power of two"),
        (lambda: Gearbox(i_bytes=8, o_bytes=12), "o_bytes is 12; it must be a power of two"),
        (lambda: Distributor(bytes_per_beat=4), "bytes_per_beat is 4; it must be a multiple of 8"),
        (lambda: Distributor(bytes_per_beat=20), "bytes_per_beat is 20; it must be a multiple of 8"),
        (lambda: StreamedNormMemory(words=0, row=1), "words is 0; it must be at least 1"),
        (lambda: StreamedNormMemory(words=8, row=3), "row is 3; it must be a power of two"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(("i_bytes", "o_bytes"), [(16, 8), (16, 1), (4, 32), (1, 2)])
def test_gearbox(i_bytes, o_bytes):
    options = {"i_bytes": i_bytes, "o_bytes": o_bytes}
    run(Gearbox(**options), "beats_tb", parameters={"kind": "gearbox", "options": options})


def test_gearbox_of_equal_widths_is_wire():
    unit = Gearbox(i_bytes=8, o_bytes=8)
    sim = Simulator(unit)

    async def check(ctx):
        for word in (0, 1, (1 << 64) - 1, 0x0123_4567_89AB_CDEF):
            for valid, ready in ((0, 0), (0, 1), (1, 0), (1, 1)):
                ctx.set(unit.i.payload, word)
                ctx.set(unit.i.valid, valid)
                ctx.set(unit.o.ready, ready)
                found = ctx.get(unit.o.payload), ctx.get(unit.o.valid), ctx.get(unit.i.ready)
                assert found == (word, valid, ready)

    sim.add_testbench(check)
    sim.run()


@pytest.mark.parametrize("bytes_per_beat", [8, 32])
def test_distributor(bytes_per_beat):
    options = {"bytes_per_beat": bytes_per_beat}
    run(Distributor(**options), "beats_tb", parameters={"kind": "distributor", "options": options})


@pytest.mark.parametrize("options", [{"words": 24, "row": 1}, {"words": 37, "row": 4}, {"words": 1, "row": 2}])
def test_norm_memory(options):
    run(StreamedNormMemory(**options), "beats_tb", parameters={"kind": "norms", "options": options})


def test_norm_memory_takes_no_more_block_ram_than_it_must():
    unit = StreamedNormMemory(words=2048, row=1)  # two copies of 2048 words of 64 bits
    assert synthesise(unit, name="streamednorms", seeds=()).bram == 2 * 8
