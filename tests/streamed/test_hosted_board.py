# SPDX-License-Identifier: Apache-2.0
"""A streamed core behind the real controller whose memory the host brings up, as on a board: link to tokens in one.

The simulated PHY has no read path to set, and the simulated memory answers without its sequence; that registers,
commands and data go where they should is what is tested here, levelling in ``tests/link/test_bringup.py``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nomul.host.bringup import Registers, bring_up, is_up
from nomul.host.checkup import check_memory
from nomul.host.deployment import Deployment
from nomul.host.driver import Board
from nomul.hw.build.design import design_hash
from nomul.hw.dram.boards import ECPIX5, ULX3S, DramBoard
from nomul.hw.dram.controller import generate
from nomul.model.dram_control import CONTROL_BYTES
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.protocol import Region
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess
from nomul.sim.board.streamed import build_streamed_board
from nomul.sim.golden import Golden
from nomul.sim.harness import seed

GEOMETRY = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)


@pytest.mark.sweep
@pytest.mark.parametrize("dram", [ECPIX5, ULX3S], ids=lambda dram: dram.part.kind)
def test_from_reset_to_tokens(rng: np.random.Generator, dram: DramBoard):
    config = StreamedConfig.for_geometry(
        GEOMETRY, word_bytes=dram.word_bytes, memory_bytes=dram.part.capacity, tile_outputs=32
    )
    image = config.compile(fold(random_checkpoint(GEOMETRY, seed())))
    program = build_streamed_board(config, dram=dram, hosted=True)
    control = generate(dram, model=True).control(dram)
    with BoardProcess(program) as process, Board.open(process.port, design=design_hash(config)) as board:
        assert board.identity.region_bytes[Region.CONTROL] == CONTROL_BYTES
        assert not is_up(board)
        registers = Registers(board, control.registers)
        registers.write([("sdram_dfii_pi0_address", 0x1234), ("sdram_dfii_pi1_baddress", 3)])
        assert registers.read("sdram_dfii_pi0_address") == 0x1234
        assert registers.read("sdram_dfii_pi1_baddress") == 3
        assert bring_up(board, control, rng=rng) == []
        assert is_up(board)
        assert check_memory(board, 1 << 16, rng=rng) > 1 << 16
        deployment = Deployment.of(image, config)
        deployment.load(board)
        golden = Golden(image)
        wanted, token = [], 3
        for _ in range(4):
            token = golden.step(token).item()
            wanted.append(token)
        assert list(board.generate([3], 4)) == wanted
    with BoardProcess(program) as process, Board.open(process.port) as board:
        with pytest.raises(NomulError, match=r"^board: its memory must be brought up first, and what that takes "):
            deployment.load(board)
        replace(deployment, control=control).load(board)  # does all of it
        assert is_up(board)
        assert list(board.generate([3], 4)) == wanted
