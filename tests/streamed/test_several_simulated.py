# SPDX-License-Identifier: Apache-2.0
"""One model over simulated boards, link and memory included: bit for bit one golden model of all of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from nomul.host.boards import Boards
from nomul.host.conversation import Conversation
from nomul.host.deployment import Deployment
from nomul.host.lanes import Lanes
from nomul.host.transport import Transport, open_transport
from nomul.hw.build.design import design_hash
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.protocol import LaneToken
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.sections import compile_sections
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess
from nomul.sim.board.streamed import build_streamed_board
from nomul.sim.golden import Golden
from nomul.sim.harness import seed

GEOMETRY = Geometry(hidden=37, intermediate=50, layers=4, vocab=30)  # a residual stream fills no whole block
LANES = 2
CONFIG = StreamedConfig.for_geometry(
    GEOMETRY, lanes=LANES, slots=16, state="memory", word_bytes=16, tile_outputs=32, memory_bytes=1 << 20
)
PATIENCE_S = 60.0  # of a slow machine


@pytest.fixture(scope="module")
def program() -> Path:
    return build_streamed_board(CONFIG)


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden(CONFIG.compile(fold(random_checkpoint(GEOMETRY, seed()))))


class Bench:
    """Simulated boards, each replaced by a new one when its process has ended."""

    def __init__(self, program: Path, count: int, stack: ExitStack):
        self._program, self._stack = program, stack
        self.processes = [stack.enter_context(BoardProcess(program)) for _ in range(count)]

    def connect(self, number: int) -> Transport:
        if not self.processes[number].alive:
            self.processes[number] = self._stack.enter_context(BoardProcess(self._program))
        return open_transport(self.processes[number].port)


@contextmanager
def opened(program: Path, count: int) -> Iterator[tuple[Boards, Bench]]:
    images = compile_sections(fold(random_checkpoint(GEOMETRY, seed())), CONFIG, count)
    deployments = [Deployment.of(image, CONFIG, design=design_hash(CONFIG)) for image in images]
    with ExitStack() as stack:
        bench = Bench(program, count, stack)
        yield stack.enter_context(Boards(
            [lambda k=k: bench.connect(k) for k in range(count)], deployments, patience_s=PATIENCE_S
        )), bench  # fmt: skip


def continued(golden: Golden, prompt: list[int], count: int) -> list[int]:
    golden.reset()
    out = []
    for token in prompt[:-1]:
        golden.step(token)
    token = prompt[-1]
    for _ in range(count):
        token = int(golden.step(token)[0])
        out.append(token)
    return out


def users_get_what_they_get_alone(connection: Boards, golden: Golden, count: int) -> None:
    rng = random.Random(seed())
    lanes = Lanes(connection.board)
    wanted = {}
    for _ in range(count):
        prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(rng.randint(1, 9))]
        tokens = rng.randint(1, 8)
        wanted[lanes.add(prompt, tokens)] = continued(golden, prompt, tokens)
    found: dict[int, list[int]] = {user: [] for user in wanted}
    for user, token in lanes.run():
        found[user].append(token)
    assert found == wanted


def logits_are_golden(connection: Boards, golden: Golden) -> None:
    """Every logit of every lane, of a step in which all lanes go on."""
    pipeline = connection.board
    lanes = pipeline.identity.lanes
    rows = [[LaneToken(token=(3 * k + t) % GEOMETRY.vocab, slot=k, fresh=t == 0, logits=True) for k in range(lanes)]
            for t in range(3)]  # fmt: skip
    list(pipeline.run(rows))
    for lane in range(lanes):
        golden.reset()
        for t in range(3):
            golden.step((3 * lane + t) % GEOMETRY.vocab)
        np.testing.assert_array_equal(pipeline.logits(GEOMETRY.vocab, lane=lane), golden.logits[0])
        assert pipeline.logit_scale(lane) == golden.logit_scale[0]


def test_two_boards(program: Path, golden: Golden):
    with opened(program, 2) as (connection, _):
        assert connection.board.identity.lanes == 4 * LANES
        users_get_what_they_get_alone(connection, golden, 7)
        logits_are_golden(connection, golden)


def test_a_board_is_reset_in_mid_token_and_another_dies(program: Path, golden: Golden, tmp_path: Path):
    """The conversation goes on from the states that were saved, and no token is wrong."""
    wanted = continued(golden, [5, 1, 7], 30)
    with opened(program, 2) as (connection, bench):
        talk = Conversation(connection, [5, 1, 7])
        found = list(talk.generate(10))
        talk.save(tmp_path / "talk")
        tokens = talk.generate(10)
        found.append(next(tokens))
        bench.processes[0].reset()
        found += tokens
        bench.processes[1].kill()
        found += talk.generate(10)
        assert found == wanted
        assert connection.recoveries >= 2
        text = [*talk.tokens]
        lanes = Lanes(connection.board)
        user = lanes.add([9, 2], 12)
        job = lanes.job()
        got = [next(job)[1]]
        bench.processes[1].reset()
        with pytest.raises(NomulError, match=r"^board 2 of 2: it was reset, or another host opened it"):
            got += [token for _, token in job]
        assert lanes.users == [user]  # nothing of it is lost
    # Other boards, another day.
    with opened(program, 2) as (connection, _):
        talk = Conversation.restore(tmp_path / "talk", connection)
        assert [*talk.tokens, *talk.generate(20)] == text


@pytest.mark.sweep
def test_four_boards(program: Path, golden: Golden):
    with opened(program, 4) as (connection, bench):
        assert connection.board.identity.lanes == 8 * LANES
        users_get_what_they_get_alone(connection, golden, 20)
        logits_are_golden(connection, golden)
        talk = Conversation(connection, [5, 1, 7])
        found = list(talk.generate(6))
        bench.processes[2].kill()
        assert [*found, *talk.generate(6)] == continued(golden, [5, 1, 7], 12)
