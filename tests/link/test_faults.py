# SPDX-License-Identifier: Apache-2.0
"""Lines that harm bytes, stall and vanish; boards that are reset, killed and powered off: tokens equal golden's."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from faulty import BYTES, FaultyLine
from golden_board import GEOMETRY, GoldenBoard, Wire, on_chip

from nomul.host.bridge import Bridge
from nomul.host.connection import Connection
from nomul.host.conversation import Conversation
from nomul.host.deployment import Deployment
from nomul.host.lanes import Lanes
from nomul.host.sampling import Sampler
from nomul.host.transport import SerialTransport, Transport
from nomul.hw.build.design import design_hash, design_verilog
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.golden import Golden
from nomul.sim.harness import seed

RECOVERY_S = 5.0
PATIENCE_S = 20.0  # where it is not the time that is tested, and the machine may be slow
LIMIT_S = 300.0  # no board of these tests lives longer
LANES = 16
SAMPLER = Sampler(temperature=1.2, top_k=30, top_p=0.95)


def continued(golden: Golden, prompts: list[list[int]], count: int) -> list[list[int]]:
    """What golden generates after each prompt, in a lane of its own."""
    golden.reset()
    texts = [list(prompt) for prompt in prompts]
    lanes = golden.lanes
    assert len(texts) == lanes
    at = 0
    while any(len(text) < len(prompt) + count for text, prompt in zip(texts, prompts, strict=True)):
        for text, token in zip(texts, golden.step([text[at] for text in texts]), strict=True):
            if at == len(text) - 1:
                text.append(int(token))
        at += 1
    return [text[len(p) : len(p) + count] for text, p in zip(texts, prompts, strict=True)]


def sampled(golden: Golden, prompt: list[int], count: int, number: int) -> list[int]:
    """What golden's logits give one user."""
    golden.reset()
    rng, out = np.random.default_rng(number), []
    for given in prompt:
        golden.step(given)
    for _ in range(count):
        out.append(SAMPLER.choose(golden.logits[0] * golden.logit_scale[0], rng))
        golden.step(out[-1])
    return out


def lasting(lanes: Lanes, connection: Connection) -> Iterator[tuple[int, int]]:
    while lanes.users:
        try:
            yield from lanes.run()
        except NomulError as error:
            connection.recover(error)


def all_happened(line: FaultyLine) -> bool:
    return all(line.harm.values())


def test_10_000_tokens_with_faults_equal_golden():
    """8,800 by sixteen users in the lanes of one board, 1,200 by one user on another, greedy and sampled.

    The boards are Python's, with the golden model of a tiny geometry for a core.
    """
    rng = random.Random(seed())
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment, lanes=LANES)
    line = FaultyLine(connect=lambda: Wire(board), rng=rng, stalls=0.004, vanishes=0.01)
    prompts = [[rng.randrange(GEOMETRY.vocab) for _ in range(rng.randrange(1, 30))] for _ in range(LANES)]
    expected = continued(Golden(image, lanes=LANES, slots=LANES), prompts, 550)
    happens = {600: board.reset, 2000: board.power_cycle}
    total = 0
    with Connection(line, deployment, rng=rng, patience_s=PATIENCE_S) as connection:
        lanes = Lanes(connection.board)
        users = [lanes.add(prompt, 550) for prompt in prompts]
        found: dict[int, list[int]] = {user: [] for user in users}
        for user, token in lasting(lanes, connection):
            found[user].append(token)
            total += 1
            happens.pop(total, lambda: None)()
        assert [found[user] for user in users] == expected
        assert connection.board.retries > 0
        assert connection.recoveries >= 2
    assert not happens
    assert all_happened(line)

    single = GoldenBoard(image, deployment)
    line = FaultyLine(connect=lambda: Wire(single), rng=rng, stalls=0.004, vanishes=0.01)
    golden = Golden(image)
    happens = {total + 150: single.reset, total + 1010: single.power_cycle, total + 1050: single.reset}
    with Connection(line, deployment, rng=rng, patience_s=PATIENCE_S) as connection:
        prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(20)]
        greedy = Conversation(connection, prompt)
        for _ in greedy.generate(1000):
            total += 1
            happens.pop(total, lambda: None)()
        assert greedy.tokens == [*prompt, *continued(golden, [prompt], 1000)[0]]
        free = Conversation(connection, prompt)
        for _ in free.generate(200, sampler=SAMPLER, seed=seed()):
            total += 1
            happens.pop(total, lambda: None)()
        assert free.tokens == [*prompt, *sampled(golden, prompt, 200, seed())]
        assert connection.recoveries >= 3
    assert not happens
    assert all_happened(line)
    assert total == 10_000


# The whole core in Verilator


@pytest.fixture(scope="module")
def built() -> tuple[Image, Deployment]:
    image, deployment = on_chip()
    return image, Deployment(
        parts=deployment.parts, vocab=deployment.vocab, design=design_hash(CoreConfig())
    )


@pytest.fixture(scope="module")
def program() -> Path:
    return build_board(design_verilog(CoreConfig()))


class Boards:
    """A simulated board, and the next one after it has died."""

    def __init__(self, program: Path):
        self.program = program
        self.process = BoardProcess(program, limit_s=LIMIT_S)

    def again(self) -> None:
        self.process.close()
        self.process = BoardProcess(self.program, limit_s=LIMIT_S)

    def connect(self) -> Transport:
        return SerialTransport(self.process.port)

    def send(self, number: int) -> None:
        self.process._process.send_signal(number)


@pytest.fixture
def boards(program: Path) -> Iterator[Boards]:
    boards = Boards(program)
    try:
        yield boards
    finally:
        boards.process.close()


def test_the_simulated_board_on_a_faulty_line(boards: Boards, built: tuple[Image, Deployment]):
    rng = random.Random(seed())
    image, deployment = built
    line = FaultyLine(connect=boards.connect, rng=rng, stalls=0.005, vanishes=0.005)
    with Connection(line, deployment, rng=rng, patience_s=PATIENCE_S) as connection:
        for count in (200, 100):
            prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(20)]
            talk = Conversation(connection, prompt)
            assert list(talk.generate(count)) == continued(Golden(image), [prompt], count)[0]
            boards.process.reset()
        talk = Conversation(connection, prompt)
        expected = sampled(Golden(image), prompt, 40, 5)
        assert list(talk.generate(40, sampler=SAMPLER, seed=5)) == expected
        assert connection.recoveries >= 2
    assert all(line.harm[name] for name in BYTES)


def killed(boards: Boards) -> None:
    boards.process.kill()
    boards.again()


def paused(boards: Boards) -> None:
    """For a moment in which requests are repeated."""
    boards.send(signal.SIGSTOP)
    time.sleep(0.5)
    boards.send(signal.SIGCONT)


@pytest.mark.parametrize("sampler", [Sampler(), SAMPLER], ids=["greedy", "sampled"])
@pytest.mark.parametrize("happens", [killed, paused, lambda boards: boards.process.reset()],
                         ids=["killed", "paused", "reset"])  # fmt: skip
def test_what_happens_in_mid_token(
    boards: Boards, built: tuple[Image, Deployment], happens: Callable[[Boards], None], sampler: Sampler
):
    image, deployment = built
    prompt = [5, 9, 2]
    golden = Golden(image)
    expected = (
        continued(golden, [prompt], 40)[0] if sampler.greedy else sampled(golden, prompt, 40, 1)
    )
    with Connection(boards.connect, deployment) as connection:
        talk = Conversation(connection, prompt)
        tokens = talk.generate(40, sampler=sampler)
        found = list(islice(tokens, 7))
        happens(boards)
        begin = time.monotonic()
        found.append(next(tokens))
        assert time.monotonic() - begin < RECOVERY_S
        found += tokens
    assert found == expected
    assert talk.tokens == prompt + expected


@pytest.mark.parametrize("way", ["killed", "frozen"])
def test_a_board_that_stays_away_is_an_error(
    boards: Boards, built: tuple[Image, Deployment], way: str
):
    """And when it is back, the conversation goes on."""
    image, deployment = built
    expected = continued(Golden(image), [[8]], 30)[0]
    with Connection(boards.connect, deployment) as connection:
        talk = Conversation(connection, [8])
        tokens = talk.generate(30_000)  # a late first answer may hold a thousand
        next(tokens)
        boards.send(signal.SIGKILL if way == "killed" else signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(NomulError, match=r"the board is gone|does not open|no answer to") as caught:
            list(tokens)
        assert time.monotonic() - begin < RECOVERY_S
        assert "\n" not in str(caught.value)
        if way == "killed":
            boards.again()
        else:
            boards.send(signal.SIGCONT)
        list(talk.generate(max(1, 31 - len(talk.tokens))))
        assert talk.tokens[1:31] == expected


def test_a_core_that_makes_no_token_is_an_error():
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    with Connection(lambda: Wire(board), deployment, patience_s=1.0) as connection:
        board.stuck = True
        talk = Conversation(connection, [1])
        begin = time.monotonic()
        with pytest.raises(NomulError, match=r"^board: no token within 1 s: reset it$"):
            list(talk.generate(3))
        assert time.monotonic() - begin < 2.0
        board.stuck = False
        assert list(talk.generate(3)) == continued(Golden(image), [[1]], 3)[0]


def test_a_link_that_was_away_costs_nothing():
    """In the same session the job goes on: not one token is fed twice."""
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    wires: list[Wire] = []

    def connect() -> Transport:
        wires.append(Wire(board))
        return wires[-1]

    with Connection(connect, deployment) as connection:
        talk = Conversation(connection, [7])
        for number, _ in enumerate(talk.generate(200)):
            if number in (20, 60):
                wires[-1].close()
        assert talk.tokens[1:] == continued(Golden(image), [[7]], 200)[0]
        assert (connection.recoveries, len(wires), board.fed) == (0, 3, 200)


def test_a_board_that_is_lost_again_and_again_is_an_error():
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    with Connection(lambda: Wire(board), deployment) as connection:
        talk = Conversation(connection, [7])
        list(talk.generate(5))
        board.work = board.reset  # type: ignore[method-assign]
        with pytest.raises(NomulError, match=r"^board: it was reset, or another host opened it"):
            list(talk.generate(5))
        assert connection.recoveries == 3
        del board.work  # type: ignore[method-assign]
        list(talk.generate(5))
        assert talk.tokens[1:] == continued(Golden(image), [[7]], 10)[0]


def test_another_model_on_the_board_is_replaced():
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    with Connection(lambda: Wire(board), deployment) as connection:
        talk = Conversation(connection, [7])
        list(talk.generate(5))
        with Connection(lambda: Wire(board), on_chip(4)[1]):  # another host has its way
            board.power_cycle()
        list(talk.generate(5))
        assert talk.tokens[1:] == continued(Golden(image), [[7]], 10)[0]


def test_what_can_not_be_mended_is_told_at_once():
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    with pytest.raises(NomulError, match=r"^board: its design is 474f4c44454e5f5f, expected 0{16}"):
        Connection(lambda: Wire(board), Deployment(parts={}, vocab=1, design=bytes(8)))
    with (
        Connection(lambda: Wire(board), deployment) as connection,
        pytest.raises(NomulError, match=r"^nothing to be done$"),
    ):
        connection.recover(NomulError("nothing to be done"))


# TCP


def test_a_bridge_that_dies_and_comes_back():
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    bridge = Bridge(lambda: Wire(board), "127.0.0.1:0")
    try:
        with Connection(bridge.name, deployment) as connection:
            talk = Conversation(connection, [3])
            tokens = talk.generate(100)
            list(islice(tokens, 10))
            bridge.close()
            bridge = Bridge(lambda: Wire(board), bridge.name)
            begin = time.monotonic()
            list(islice(tokens, 1))
            assert time.monotonic() - begin < RECOVERY_S
            list(tokens)
            assert talk.tokens[1:] == continued(Golden(image), [[3]], 100)[0]
            assert board.fed == 100
            bridge.close()
            begin = time.monotonic()
            with pytest.raises(NomulError, match=r"tcp://127.0.0.1:\d+: (the board is gone|does not open)"):
                list(talk.generate(3))
            assert time.monotonic() - begin < RECOVERY_S
    finally:
        bridge.close()


# The host's process


HOST = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from golden_board import on_chip
from nomul.host.connection import Connection
from nomul.host.conversation import Conversation
_, deployment = on_chip()
file = Path(sys.argv[2])
with Connection(sys.argv[1], deployment, patience_s=20.0) as connection:
    talk = Conversation(connection, [4, 8]) if not file.exists() else Conversation.restore(file, connection)
    for token in talk.generate(10_000):
        talk.save(file)
        print(len(talk.tokens), flush=True)
"""


def test_the_host_dies(tmp_path: Path):
    image, deployment = on_chip()
    board = GoldenBoard(image, deployment)
    file = tmp_path / "talk"
    with Bridge(lambda: Wire(board), "127.0.0.1:0") as bridge:
        for _ in range(2):
            host = subprocess.Popen(
                [sys.executable, "-c", HOST, bridge.name, str(file), str(Path(__file__).parent)],
                stdout=subprocess.PIPE, env={**os.environ, "NOMUL_SEED": str(seed())},
            )  # fmt: skip
            try:
                assert host.stdout is not None
                for _ in range(30):
                    assert host.stdout.readline()
            finally:
                host.kill()
                host.communicate()
        with Connection(bridge.name, deployment, patience_s=PATIENCE_S) as connection:
            talk = Conversation.restore(file, connection)
            assert len(talk.tokens) >= 2 + 30 + 30
            list(talk.generate(20))
    expected = continued(Golden(image), [[4, 8]], len(talk.tokens) - 2)[0]
    assert talk.tokens == [4, 8, *expected]
    assert json.loads(file.read_bytes().partition(b"\n")[0])["fed"] == 0
