# SPDX-License-Identifier: Apache-2.0
"""The simulated board of a streamed core: driver, link, core and memory in one, and what can go wrong with it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nomul.host.connection import Connection
from nomul.host.conversation import Conversation
from nomul.host.deployment import Deployment
from nomul.host.driver import Board
from nomul.host.lanes import Lanes
from nomul.host.transport import open_transport
from nomul.hw.build.design import design_hash
from nomul.hw.dram.boards import ECPIX5
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.image import external_regions
from nomul.model.isa import OPCODE_BITS, Base, Part
from nomul.model.program import Image
from nomul.model.protocol import EXTERNAL, Fault, LaneToken
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess
from nomul.sim.board.streamed import build_streamed_board
from nomul.sim.golden import Golden
from nomul.sim.harness import seed
from nomul.sim.streamed.run import write_image

GEOMETRY = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
CONFIG = StreamedConfig.for_geometry(
    GEOMETRY, lanes=3, slots=4, state="memory", word_bytes=8, tile_outputs=32,
    memory_bytes=1 << 20,
)  # fmt: skip
SILENCE_S = 30.0  # 2²⁰ cycles on a slow machine


@pytest.fixture(scope="module")
def image() -> Image:
    return CONFIG.compile(fold(random_checkpoint(GEOMETRY, seed())))


@pytest.fixture(scope="module")
def program() -> Path:
    return build_streamed_board(CONFIG)


def opened(process: BoardProcess, image: Image, config: StreamedConfig = CONFIG) -> Board:
    board = Board.open(process.port, design=design_hash(config))
    board.logits_base, board.logits_stride = config.logits_place(image)
    return board


@pytest.fixture
def process(program: Path, image: Image) -> Iterator[BoardProcess]:
    """A board that holds the model."""
    with BoardProcess(program) as process:
        with opened(process, image) as board:
            board.load(dict(external_regions(image)))
        yield process


@pytest.fixture
def board(process: BoardProcess, image: Image) -> Iterator[Board]:
    with opened(process, image) as board:
        yield board


@pytest.fixture
def golden(image: Image) -> Golden:
    return Golden(image)


def continued(golden: Golden, prompt: list[int], count: int) -> list[int]:
    """What golden generates after a prompt."""
    golden.reset()
    token, out = 0, []
    for given in prompt:
        token = int(golden.step(given)[0])
    for _ in range(count - 1):
        out.append(token)
        token = int(golden.step(token)[0])
    return [*out, token]


def users_get_what_they_get_alone(board: Board, golden: Golden, rng: random.Random, count: int) -> None:
    lanes, wanted, found = Lanes(board, steps=7), {}, dict[int, list[int]]()
    for _ in range(count):
        prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(rng.choice([1, 2, 5, 11]))]
        length = rng.choice([1, 4, 9])
        wanted[lanes.add(prompt, length)] = continued(golden, prompt, length)
    for user, token in lanes.run():
        found.setdefault(user, []).append(token)
    assert found == wanted


def test_users_in_any_mix(board: Board, golden: Golden):
    users_get_what_they_get_alone(board, golden, random.Random(seed()), 9)


def test_logits_of_every_lane(board: Board, golden: Golden):
    """Two tokens of one text and one of another, in one step."""
    texts = [[3, 9], [5]]
    row = [LaneToken(token=5, slot=2, fresh=True, logits=True),
           LaneToken(token=3, slot=1, fresh=True, logits=True), LaneToken(token=9, slot=1, logits=True)]
    (best,) = board.run([row])
    for lane, text in ((0, texts[1]), (1, texts[0][:1]), (2, texts[0])):
        assert best[lane] == continued(golden, text, 1)[0]
        np.testing.assert_array_equal(board.logits(GEOMETRY.vocab, lane=lane), golden.logits[0])
    assert board.logits_lane == 2
    assert board.logit_scale() == golden.logit_scale[0]


def test_a_prompt_over_the_lanes(board: Board, golden: Golden):
    prompt = [random.Random(seed()).randrange(GEOMETRY.vocab) for _ in range(17)]
    assert list(board.generate(prompt, 12)) == continued(golden, prompt, 12)


def test_a_bit_flip_is_found_before_the_first_token(
    board: Board, process: BoardProcess, image: Image, golden: Golden
):
    parts = dict(external_regions(image))
    rng = random.Random(seed())
    for address, part in parts.items():
        process.flip((address ^ EXTERNAL) + rng.randrange(len(part)))
        with pytest.raises(NomulError, match=r"^board: external memory does not keep what is written"):
            board.verify(parts)
        assert 0 < board.load(parts) <= 4096  # the piece with the flip alone
    assert board.load(parts) == 0
    assert list(board.generate([1, 2], 4)) == continued(golden, [1, 2], 4)


def test_a_program_word_that_is_no_instruction(board: Board, image: Image, golden: Golden):
    word = Base.OPCODE | len(Part) << OPCODE_BITS  # a base of what is no part of memory
    board.write(EXTERNAL | 8, word.to_bytes(8, "little"))
    with pytest.raises(NomulError, match=r"^board: step 1 of 2 failed: its program holds something that is no"):
        list(board.force([1, 2, 3, 4]))
    assert board.statistics().fault == Fault.PROGRAM
    assert board.load(dict(external_regions(image))) > 0
    assert list(board.generate([1, 2], 4)) == continued(golden, [1, 2], 4)


def test_memory_that_cannot_be_read(board: Board, process: BoardProcess, image: Image, golden: Golden):
    for address, _ in external_regions(image):  # of each part what token 0 is the first to need
        process.spoil(address ^ EXTERNAL)
        with pytest.raises(NomulError, match=r"^board: step 1 of 3 failed: its external memory gave wrong data"):
            list(board.force(list(range(9))))
        assert board.statistics().fault == Fault.MEMORY
        with pytest.raises(NomulError, match=r"^board: refused JOB: its state is gone"):
            board.step(1)
        process.mend()
        assert list(board.generate([4, 7, 1], 3)) == continued(golden, [4, 7, 1], 3)


def test_memory_that_does_not_answer(board: Board, process: BoardProcess, golden: Golden):
    users_get_what_they_get_alone(board, golden, random.Random(seed()), 2)
    process.silence()
    begin = time.monotonic()
    with pytest.raises(NomulError, match=r"^board: step 1 of \d+ failed: its external memory does not answer"):
        list(board.generate([1, 2, 3], 5))
    assert time.monotonic() - begin < SILENCE_S
    assert board.statistics().fault == Fault.SILENCE
    process.mend()
    users_get_what_they_get_alone(board, golden, random.Random(seed()), 4)


def test_users_go_on_after_a_fault(board: Board, process: BoardProcess, golden: Golden):
    """Memory fails in mid-job: the users' texts are still there, and go on once it is mended."""
    lanes = Lanes(board, steps=3)
    prompts = [[1, 2, 3], [9], [30, 31]]
    wanted = {lanes.add(prompt, 8): continued(golden, prompt, 8) for prompt in prompts}
    found: dict[int, list[int]] = {user: [] for user in wanted}

    def until_it_fails() -> None:
        for number, (user, token) in enumerate(lanes.run()):
            found[user].append(token)
            if number == 4:
                process.spoil(0)  # the program's first word

    with pytest.raises(NomulError, match="gave wrong data"):
        until_it_fails()
    assert sum(map(len, found.values())) < 24
    process.mend()
    for user, token in lanes.run():
        found[user].append(token)
    assert found == wanted


def test_a_reset_in_mid_token(board: Board, process: BoardProcess, image: Image, golden: Golden):
    tokens = board.generate([1, 2], 400)
    next(tokens)
    process.reset()
    with pytest.raises(NomulError, match="it was reset, or another host opened it"):
        list(tokens)
    board.close()
    with opened(process, image) as again:
        assert again.load(dict(external_regions(image))) == 0  # memory keeps what it holds
        users_get_what_they_get_alone(again, golden, random.Random(seed()), 4)


def test_a_conversation_moves_to_another_board(
    program: Path, process: BoardProcess, image: Image, golden: Golden, tmp_path: Path
):
    """Its state is read from one memory and written to the other; the text before its last token is not fed again."""
    deployment = Deployment.of(image, CONFIG, design=design_hash(CONFIG))
    assert deployment.states is not None
    with Connection(lambda: open_transport(process.port), deployment) as connection:
        talk = Conversation(connection, [7, 1, 9])
        list(talk.generate(20))
        talk.save(tmp_path / "talk")
        text = list(talk.tokens)
    with (
        BoardProcess(program) as other,
        Connection(lambda: open_transport(other.port), deployment) as connection,
    ):
        talk = Conversation.restore(tmp_path / "talk", connection)
        assert talk.tokens == text
        talk.tokens[:-1] = [0] * (len(text) - 1)  # would give another text
        assert list(talk.generate(6)) == continued(golden, text, 6)


def test_a_memory_that_was_loaded_before(program: Path, image: Image, golden: Golden, tmp_path: Path):
    """Nothing is sent, and a byte that differs is found as ever."""
    file = tmp_path / "memory"
    write_image(image, file)
    with BoardProcess(program, memory=file) as process, opened(process, image) as board:
        file.unlink()
        assert board.load(dict(external_regions(image))) == 0
        users_get_what_they_get_alone(board, golden, random.Random(seed()), 3)
        process.flip(64)
        assert board.load(dict(external_regions(image))) > 0


def test_a_memory_file_that_is_missing(program: Path, tmp_path: Path):
    with pytest.raises(NomulError, match=r"^simulated board: it has ended \(status 1\)"):
        BoardProcess(program, memory=tmp_path / "none")


def test_behind_a_memory_controller(golden: Golden, tmp_path: Path):
    """The whole of it with LiteDRAM's controller and its model of the memory of an ECPIX-5."""
    config = StreamedConfig.for_geometry(
        GEOMETRY, lanes=2, slots=4, state="memory", tile_outputs=32, word_bytes=ECPIX5.word_bytes,
        memory_bytes=ECPIX5.part.capacity,
    )  # fmt: skip
    image = config.compile(fold(random_checkpoint(GEOMETRY, seed())))
    program = build_streamed_board(config, dram=ECPIX5)
    file = tmp_path / "memory"
    write_image(image, file)
    with BoardProcess(program, memory=file) as process, opened(process, image, config) as board:
        assert board.load(dict(external_regions(image))) == 0
    with BoardProcess(program) as process, opened(process, image, config) as board:
        assert board.identity.clock_hz == ECPIX5.clock_hz
        parts = dict(external_regions(image))
        board.load(parts)
        users_get_what_they_get_alone(board, golden, random.Random(seed()), 5)
        process.flip(64)
        assert 0 < board.load(parts) <= 4096


def test_a_memory_of_another_size():
    with pytest.raises(NomulError, match=r"^core: 1,048,576 bytes in words of 8; ecpix5-85f has 536,870,912 in"):
        build_streamed_board(CONFIG, dram=ECPIX5)
