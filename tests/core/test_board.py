# SPDX-License-Identifier: Apache-2.0
"""The shipped model on the simulated board, driven through its link, against the golden model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nomul.host.cli.board import counters, open_board
from nomul.host.cli.common import compile_for, load_any
from nomul.host.driver import Board, BoardError
from nomul.hw.build.design import design_verilog
from nomul.model.core_config import CoreConfig
from nomul.model.counters import EXPOSED
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.image import regions
from nomul.model.program import Image
from nomul.model.protocol import Fault, Region, Status
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.tokenizer import BEGIN
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.golden import Golden

TOKENS = 256
PROMPTS = (b"def read_lines(path):", b"import os\nclass \xff")


@pytest.fixture(scope="module")
def built() -> tuple[Image, CoreConfig]:
    return compile_for(load_any(None).model, engine="select", bytes_per_beat=36)


@pytest.fixture(scope="module")
def program(built: tuple[Image, CoreConfig]) -> Path:
    return build_board(design_verilog(built[1]))


@pytest.fixture(scope="module")
def process(program: Path, built: tuple[Image, CoreConfig]) -> Iterator[BoardProcess]:
    """A board that holds the model."""
    with BoardProcess(program) as process:
        with Board.open(process.port) as board:
            board.load(regions(built[0], built[1].weight_beats))
        yield process


@pytest.fixture
def board(process: BoardProcess) -> Iterator[Board]:
    """A session of its own for each test."""
    with Board.open(process.port) as board:
        yield board


@pytest.fixture
def golden(built: tuple[Image, CoreConfig]) -> Golden:
    return Golden(built[0])


def continued(golden: Golden, prompt: bytes, count: int) -> list[int]:
    """What golden generates after a prompt, all of it fed but the last."""
    golden.reset()
    token, out = 0, []
    for given in (BEGIN, *prompt):
        token = int(golden.step(given)[0])
    for _ in range(count - 1):
        out.append(token)
        token = int(golden.step(token)[0])
    return [*out, token]


def same_logits(board: Board, golden: Golden) -> None:
    vocab = golden.image.geometry.vocab
    np.testing.assert_array_equal(board.logits(vocab), golden.logits[0])
    assert board.logit_scale() == golden.logit_scale[0]


def test_many_tokens(board: Board, golden: Golden):
    found = list(board.generate([BEGIN, *PROMPTS[0]], TOKENS))
    assert found == continued(golden, PROMPTS[0], TOKENS)
    same_logits(board, golden)
    assert len(set(found)) > 8  # text, not a stuck token


def test_two_prompts_in_a_row(board: Board, golden: Golden):
    for prompt in (*PROMPTS, PROMPTS[0]):
        assert list(board.generate([BEGIN, *prompt], 12)) == continued(golden, prompt, 12)
        same_logits(board, golden)


def test_cycles(board: Board, built: tuple[Image, CoreConfig]):
    seen = set()
    for token in (BEGIN, 100, 255):
        board.step(token, reset=token == BEGIN)
        found = counters(board)
        assert found["token_cycles"] == found["beats"] + sum(found[c.name.lower()] for c in EXPOSED)
        assert found["error"] == 0
        seen.add(found["token_cycles"])
    assert len(seen) == 1
    assert found["beats"] == len(built[0].weights)


def test_a_loaded_board_knows_the_vocabulary(process: BoardProcess, built: tuple[Image, CoreConfig]):
    with open_board(process.port, *built) as (board, _):
        with pytest.raises(NomulError, match=r"^board: token 1 of the prompt is 256; it must be 0 to 255"):
            board.generate([BEGIN, 256], 1)
        assert len(list(board.generate([BEGIN, 255], 1))) == 1


def test_an_aborted_job(board: Board, golden: Golden):
    tokens = board.generate([BEGIN, *PROMPTS[0]], 1000)
    next(tokens)
    tokens.close()
    with pytest.raises(BoardError, match=r"^board: refused JOB: its state is gone") as error:
        board.step(1)
    assert error.value.status == Status.STATE
    assert list(board.generate([BEGIN, *PROMPTS[1]], 3)) == continued(golden, PROMPTS[1], 3)


def test_a_program_that_is_none(board: Board, built: tuple[Image, CoreConfig], golden: Golden):
    board.write(Region.PROGRAM.base, bytes([15]))
    with pytest.raises(NomulError, match=r"^board: step 1 of 3 failed: its program holds something"):
        list(board.force([1, 2, 3]))
    assert board.statistics().fault == Fault.PROGRAM
    assert board.load(regions(built[0], built[1].weight_beats)) > 0
    assert list(board.generate([BEGIN, *PROMPTS[1]], 3)) == continued(golden, PROMPTS[1], 3)


def test_a_reset_in_mid_token(board: Board, process: BoardProcess, golden: Golden):
    tokens = board.generate([BEGIN, *PROMPTS[0]], 1000)
    next(tokens)
    process.reset()
    with pytest.raises(BoardError, match=r"^board: it was reset, or another host opened it"):
        list(tokens)
    board.close()
    with Board.open(process.port) as again:
        assert list(again.generate([BEGIN, *PROMPTS[1]], 6)) == continued(golden, PROMPTS[1], 6)
        same_logits(again, golden)


def test_one_board_runs_smaller_models_too(program: Path):
    model = fold(random_checkpoint(Geometry(hidden=37, intermediate=200, layers=2, vocab=19), 4))
    image, config = compile_for(model, engine="select", bytes_per_beat=36)
    assert config == CoreConfig()
    golden, ids = Golden(image), [3, 1, 18, 0, 7]
    with BoardProcess(program) as process, Board.open(process.port) as board:
        board.load(regions(image, config.weight_beats))
        assert list(board.force(ids)) == [int(golden.step(token)[0]) for token in ids]
        same_logits(board, golden)
