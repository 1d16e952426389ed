# SPDX-License-Identifier: Apache-2.0
"""One model over several boards in Python, golden's sections for cores: what one golden model of all of it gives."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faulty import FaultyLine
from golden_board import DESIGN, GoldenBoard, Wire
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.host.boards import Boards, Sections
from nomul.host.conversation import Conversation
from nomul.host.deployment import Deployment
from nomul.host.lanes import Lanes
from nomul.host.pipeline import Pipeline
from nomul.host.sampling import Sampler
from nomul.host.serve.engine import Ask, Engine
from nomul.host.transport import LostError
from nomul.model.errors import NomulError
from nomul.model.fold import Model, fold
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.protocol import LaneToken
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.sections import compile_sections, cut, layer_ranges
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.golden import Golden
from nomul.sim.harness import seed

GEOMETRY = Geometry(hidden=18, intermediate=20, layers=5, vocab=61)  # rows of residual streams are no whole blocks
LANES, SLOTS = 2, 9
PATIENCE_S = 20.0
SAMPLER = Sampler(temperature=1.2, top_k=30, top_p=0.95)
CONFIG = StreamedConfig.for_geometry(
    GEOMETRY, lanes=LANES, slots=SLOTS, memory_bytes=1 << 16, state="memory", logits="memory"
)


def whole_model() -> Model:
    return fold(random_checkpoint(GEOMETRY, 3))


def golden() -> Golden:
    return Golden(CONFIG.compile(whole_model()))


def python_boards(count: int) -> tuple[list[GoldenBoard], list[Deployment]]:
    images = compile_sections(whole_model(), CONFIG, count)
    deployments = [Deployment.of(image, CONFIG, design=DESIGN) for image in images]
    boards = [
        GoldenBoard(image, deployment, lanes=LANES, slots=SLOTS)
        for image, deployment in zip(images, deployments, strict=True)
    ]
    return boards, deployments


@contextmanager
def opened(count: int, groups: int | None = None) -> Iterator[tuple[Boards, list[GoldenBoard]]]:
    boards, deployments = python_boards(count)
    with Boards(
        [lambda board=board: Wire(board) for board in boards], deployments, patience_s=PATIENCE_S, groups=groups,
        rng=random.Random(seed()),
    ) as connection:  # fmt: skip
        yield connection, boards


def continued(model: Golden, prompt: Sequence[int], count: int, number: int | None = None) -> list[int]:
    """What golden generates for one user; sampled with generator ``number``."""
    model.reset()
    rng, out = np.random.default_rng(number), list[int]()
    for token in prompt[:-1]:
        model.step(token)
    token = prompt[-1]
    for _ in range(count):
        token = int(model.step(token)[0])
        if number is not None:
            token = SAMPLER.choose(model.logits[0] * model.logit_scale[0], rng)
        out.append(token)
    return out


def lasting(lanes: Lanes, connection: Boards) -> Iterator[tuple[int, int]]:
    while lanes.users:
        try:
            yield from lanes.run()
        except NomulError as error:
            connection.recover(error)


@pytest.mark.parametrize(("count", "groups"), [(1, 2), (2, None), (3, None), (5, 1), (3, 4)])
def test_users_get_what_one_golden_model_gives(count: int, groups: int | None):
    """More users than lanes, prompts over several lanes and groups, some sampled."""
    rng = random.Random(seed())
    model = golden()
    with opened(count, groups) as (connection, _):
        pipeline = connection.board
        assert pipeline.identity.lanes == LANES * (groups or min(2 * count, SLOTS // LANES))
        lanes = Lanes(pipeline, logits=lambda k: pipeline.logits(GEOMETRY.vocab, lane=k) * pipeline.logit_scale(k))
        wanted = {}
        for k in range(12):
            prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(rng.randint(1, 17))]
            tokens = rng.randint(1, 12)
            number = k if k % 3 == 2 else None
            user = lanes.add(
                prompt, tokens, sampler=None if number is None else SAMPLER, rng=np.random.default_rng(number)
            )
            wanted[user] = continued(model, prompt, tokens, number)
        found: dict[int, list[int]] = {user: [] for user in wanted}
        for user, token in lanes.run():
            found[user].append(token)
        assert found == wanted


@pytest.mark.parametrize(("count", "slots", "groups"), [(4, 64, 8), (8, 256, 16)])
def test_more_lanes_than_a_board_may_have(count: int, slots: int, groups: int):
    """Boards of eight lanes, 128 in all at most, each a user's; as many groups as there are slots and lanes for."""
    rng = random.Random(seed())
    geometry = Geometry(hidden=18, intermediate=20, layers=8, vocab=61)
    whole = fold(random_checkpoint(geometry, 3))
    config = StreamedConfig.for_geometry(
        geometry, lanes=8, slots=slots, memory_bytes=1 << 16, state="memory", logits="memory"
    )
    images = compile_sections(whole, config, count)
    deployments = [Deployment.of(image, config, design=DESIGN) for image in images]
    boards = [GoldenBoard(*both, lanes=8, slots=slots) for both in zip(images, deployments, strict=True)]
    model = Golden(replace(config, memory_bytes=1 << 20).compile(whole))
    with Boards([lambda board=board: Wire(board) for board in boards], deployments, patience_s=PATIENCE_S) as all_:
        assert all_.board.identity.lanes == 8 * groups
        assert all_.board.identity.slots == slots
        lanes = Lanes(all_.board)
        wanted = {}
        for _ in range(8 * groups + 3):
            prompt = [rng.randrange(geometry.vocab) for _ in range(rng.randint(1, 3))]
            wanted[lanes.add(prompt, 2)] = continued(model, prompt, 2)
        found: dict[int, list[int]] = {user: [] for user in wanted}
        for user, token in lanes.run():
            found[user].append(token)
        assert found == wanted
        prompt = [rng.randrange(geometry.vocab) for _ in range(8 * groups + 5)]  # more than a row of one user's tokens
        assert list(all_.board.generate(prompt, 2)) == continued(model, prompt, 2)


def test_a_conversation_over_boards_is_saved_with_its_states(tmp_path: Path):
    model = golden()
    with opened(3) as (connection, boards):
        talk = Conversation(connection, [7, 1, 9])
        assert list(talk.generate(20)) == continued(model, [7, 1, 9], 20)
        talk.save(tmp_path / "talk")
        text = list(talk.tokens)
        fed = boards[0].fed
        assert list(connection.board.sample([3], 5, sampler=SAMPLER, seed=4)) == continued(model, [3], 5, 4)
        talk = Conversation.restore(tmp_path / "talk", connection)
        assert list(talk.generate(6)) == continued(model, text, 6)
        assert boards[0].fed - fed < 20  # the text was not fed again
    with opened(2) as (connection, _), pytest.raises(NomulError, match="belongs to the model"):
        Conversation.restore(tmp_path / "talk", connection)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_board_that_is_lost_costs_no_token(who: int):
    """Reset, without power, or replaced by one that holds nothing: users go on from their texts, states are lost."""
    model = golden()
    with opened(3) as (connection, boards):
        lanes = Lanes(connection.board, steps=8)
        prompts = [[1, 2, 3], [9], [30, 31], [4], [5, 5], [6]]
        wanted = {lanes.add(prompt, 30): continued(model, prompt, 30) for prompt in prompts}
        found: dict[int, list[int]] = {user: [] for user in wanted}
        happens = {20: boards[who].reset, 60: boards[who].power_cycle, 100: boards[who - 1].reset}
        for number, (user, token) in enumerate(lasting(lanes, connection)):
            found[user].append(token)
            happens.pop(number, lambda: None)()
        assert found == wanted
        assert not happens
        assert connection.recoveries >= 3


def test_a_conversation_goes_on_from_its_saved_states_when_boards_lose_their_power(tmp_path: Path):
    model = golden()
    with opened(2) as (connection, boards):
        talk = Conversation(connection, [8, 1])
        list(talk.generate(40))
        talk.save(tmp_path / "talk")
        text, fed = list(talk.tokens), boards[0].fed
        for board in boards:
            board.power_cycle()
        assert list(talk.generate(9)) == continued(model, text, 9)
        assert boards[0].fed - fed < 40
        assert connection.recoveries == 2


def test_lines_that_harm_bytes_stall_and_vanish():
    """Of all boards at once, 1e-3 of all bytes each way: tokens equal golden's."""
    rng = random.Random(seed())
    model = golden()
    boards, deployments = python_boards(2)
    lines = [
        FaultyLine(
            connect=lambda board=board: Wire(board), rng=random.Random(rng.random()), stalls=0.002, vanishes=0.005
        )
        for board in boards
    ]
    with Boards(lines, deployments, patience_s=PATIENCE_S, rng=rng) as connection:
        lanes = Lanes(connection.board)
        wanted = {}
        for _ in range(4):
            prompt = [rng.randrange(GEOMETRY.vocab) for _ in range(5)]
            wanted[lanes.add(prompt, 60)] = continued(model, prompt, 60)
        found: dict[int, list[int]] = {user: [] for user in wanted}
        for user, token in lasting(lanes, connection):
            found[user].append(token)
        assert found == wanted
        assert all(one.board.retries > 0 for one in connection.connections)


def test_a_board_that_does_not_come_back_is_an_error_that_names_it():
    boards, deployments = python_boards(2)
    cut = threading.Event()

    def second() -> Wire:
        if cut.is_set():
            raise LostError("no such port")
        return Wire(boards[1])

    with Boards([lambda: Wire(boards[0]), second], deployments, patience_s=1.0) as connection:
        tokens = connection.board.generate([1, 2], 50)
        next(tokens)
        cut.set()
        connection.connections[1].board._transport.close()
        with pytest.raises(NomulError, match=r"^board 2 of 2: ") as caught:
            list(tokens)
        with pytest.raises(NomulError, match="no such port"):
            connection.recover(caught.value)
        cut.clear()
        assert list(connection.board.generate([1, 2], 9)) == continued(golden(), [1, 2], 9)


def test_all_boards_work_at_once():
    """With all lanes in use every board has a group, but when a job begins and ends."""
    count, steps = 3, 12
    boards, deployments = python_boards(count)
    inside, meetings, changed, together = [0], [0], threading.Condition(), []

    class Slow(Wire):
        """Its core takes until all boards work, if they do."""

        def write(self, data: bytes) -> None:
            before = len(self.board.results)
            super().write(data)
            if len(self.board.results) <= before:
                return
            with changed:
                inside[0] += 1
                meeting = meetings[0]
                if inside[0] == count:
                    inside[0], meetings[0] = 0, meeting + 1
                    changed.notify_all()
                met = changed.wait_for(lambda: meetings[0] > meeting, timeout=1.0)
                inside[0] -= not met
                together.append(met)

    for board in boards:
        board.pace = 1
    with Boards([lambda board=board: Slow(board) for board in boards], deployments, groups=count) as connection:
        rows = [[LaneToken(token=k, slot=k, fresh=True) for k in range(LANES * count)],
                [LaneToken(token=None, slot=k) for k in range(LANES * count)]]  # fmt: skip
        assert len(list(connection.board.run(rows, steps))) == steps
    assert len(together) == count * count * steps
    # Boards at work in each turn: 1, 2, 3, 3, …, 3, 2, 1.
    assert sum(together) >= count * (count * steps - count + 1) * 0.9


def test_the_server_over_several_boards():
    """Its engine takes them for a board: more texts than lanes, some sampled, and a board that loses its power."""
    model = golden()

    async def served(connection: Boards, boards: list[GoldenBoard], asks: list[Ask]) -> list[list[int]]:
        pipeline = connection.board
        engine = Engine(
            pipeline, queue=64, recover=connection.recover,
            logits=lambda lane: pipeline.logits(GEOMETRY.vocab, lane=lane) * pipeline.logit_scale(lane),
        )  # fmt: skip
        engine.start()
        try:
            assert engine.lanes == pipeline.identity.lanes
            with engine.open(asks) as ticket:
                texts: list[list[int]] = [[] for _ in asks]
                while any(len(text) < ask.count for text, ask in zip(texts, asks, strict=True)):
                    for text, token in await asyncio.wait_for(ticket.tokens(), 60):
                        texts[text].append(token)
                    if sum(map(len, texts)) > 40 and not connection.recoveries:
                        boards[1].power_cycle()
                return texts
        finally:
            await asyncio.to_thread(engine.close)

    asks = [
        Ask(prompt=[k, 2 * k + 1], count=10 + k % 3, seed=k, sampler=SAMPLER if k % 4 == 3 else Sampler())
        for k in range(12)
    ]
    with opened(2) as (connection, boards):
        found = asyncio.run(served(connection, boards, asks))
        assert connection.recoveries
    for ask, text in zip(asks, found, strict=True):
        assert text == continued(model, ask.prompt, ask.count, None if ask.sampler.greedy else ask.seed)


def test_a_job_that_is_left_or_interrupted():
    model = golden()
    with opened(2) as (connection, _):
        tokens = connection.board.generate([1, 2], 400)
        next(tokens)
        tokens.close()
        assert list(connection.board.generate([1, 2], 5)) == continued(model, [1, 2], 5)
        tokens = connection.board.generate([1, 2], 400)
        next(tokens)
        connection.board.interrupt()
        with pytest.raises(NomulError, match="ended from elsewhere"):
            list(tokens)
        assert list(connection.board.generate([1, 2], 5)) == continued(model, [1, 2], 5)
        with pytest.raises(NomulError, match="lane 3 wanted no logits"):
            connection.board.logits(GEOMETRY.vocab, lane=3)
    with pytest.raises(NomulError, match="they are closed"):
        list(connection.board.generate([1], 2))


def test_what_does_not_go_together():
    model = whole_model()
    with pytest.raises(NomulError, match=r"^boards: 6 for 5 layers; each holds at least one: take 1 to 5$"):
        compile_sections(model, CONFIG, 6)
    with pytest.raises(NomulError, match=r"^boards: 0 for 5 layers"):
        compile_sections(model, CONFIG, 0)
    boards, deployments = python_boards(2)
    wires = [lambda board=board: Wire(board) for board in boards]
    with pytest.raises(NomulError, match=r"^boards: 2 boards for 1 sections"):
        Boards(wires, deployments[:1])
    with pytest.raises(NomulError, match=r"^boards: section 1 of 2 does not go with its neighbours"):
        Sections(deployments[::-1])
    other = GoldenBoard(compile_sections(model, CONFIG, 2)[1], deployments[1], lanes=LANES, slots=SLOTS,
                        design=b"ANOTHER_")  # fmt: skip
    with pytest.raises(NomulError, match=r"^board 2 of 2: its design is 414e4f5448"):
        Boards([wires[0], lambda: Wire(other)], deployments)
    unnamed = [Deployment.of(image, CONFIG) for image in compile_sections(model, CONFIG, 2)]
    with pytest.raises(NomulError, match=r"^boards: number 1 has design 474f4c.* number 2 has design 414e4f"):
        Boards([wires[0], lambda: Wire(other)], unnamed)
    why = r"^boards: groups is 65; with 2 lanes a board it must be 1 to 64, 128 lanes in all$"
    with opened(2) as (connection, _), pytest.raises(NomulError, match=why):
        Pipeline([one.board for one in connection.connections], deployments, groups=65)
    with pytest.raises(NomulError, match=why):  # before any board is opened
        Boards([lambda: pytest.fail("opened"), lambda: pytest.fail("opened")], deployments, groups=65)
    small = StreamedConfig.for_geometry(GEOMETRY, logits="chip", memory_bytes=1 << 16)
    with pytest.raises(NomulError, match=r"layers 0 to \d of 5: image: of a section .* keep logits in memory"):
        compile_sections(model, small, 2)
    tight = StreamedConfig.for_geometry(GEOMETRY, lanes=LANES, slots=SLOTS, state="memory", memory_bytes=1 << 12)
    with pytest.raises(NomulError, match=r"^layers 0 to \d of 5: model: needs [\d,]+ bytes of memory"):
        compile_sections(model, tight, 2)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=7), st.integers(0, 60), st.data())
def test_a_cut_is_the_best_there_is(costs: list[int], behind: int, data: st.DataObject):
    parts = data.draw(st.integers(1, len(costs)))
    found = cut(costs, behind, parts)
    assert [k for part in found for k in part] == [*range(len(costs))]
    assert all(len(part) for part in found)

    def worst(parts: list[range]) -> int:
        return max(sum(costs[k] for k in p) + behind * (p is parts[-1]) for p in parts)

    def all_cuts(begin: int, left: int) -> Iterator[list[range]]:
        if left == 1:
            yield [range(begin, len(costs))]
            return
        for end in range(begin + 1, len(costs) - left + 2):
            for rest in all_cuts(end, left - 1):
                yield [range(begin, end), *rest]

    assert worst(found) == min(map(worst, all_cuts(0, parts)))


def test_published_sizes_over_boards():
    """The head weighs as much as some layers, so the last board has fewer."""
    found = {n: [len(r) for r in layer_ranges(PUBLISHED["1.3B"], n, bytes_per_beat=8)] for n in (1, 2, 4, 8)}
    assert found[1] == [24]
    assert found[2] == [13, 11]
    assert sum(found[4]) == sum(found[8]) == 24
    assert all(row[-1] <= min(row[:-1]) for n, row in found.items() if n > 1)
