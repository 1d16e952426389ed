# SPDX-License-Identifier: Apache-2.0
"""Boards and conversations for asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest
from golden_board import GoldenBoard, Wire, on_chip
from test_faults import SAMPLER, continued, sampled

from nomul.host.aio import AsyncBoard, AsyncConversation
from nomul.host.connection import Connection
from nomul.host.driver import Board
from nomul.model.errors import NomulError
from nomul.sim.golden import Golden

IMAGE, DEPLOYMENT = on_chip()


def opened(board: GoldenBoard) -> AsyncBoard:
    return AsyncBoard(lambda: Board(Wire(board)))


def threads() -> int:
    return sum(thread.name.startswith("nomul-board") for thread in threading.enumerate())


def test_a_board():
    async def work() -> None:
        golden = Golden(IMAGE)
        async with opened(GoldenBoard(IMAGE, DEPLOYMENT)) as board:
            assert await board.deploy(DEPLOYMENT) > 0
            assert await board.load(DEPLOYMENT.parts) == 0
            assert board.identity.lanes == 1
            expected = continued(golden, [[1, 2]], 50)[0]
            assert [token async for token in board.generate([1, 2], 50)] == expected
            assert [t async for t in board.force([1, 2])][-1:] == expected[:1]
            found = [t async for t in board.sample([1, 2], 20, sampler=SAMPLER, seed=4)]
            assert found == sampled(golden, [1, 2], 20, 4)
            golden.reset()
            assert await board.step(9, reset=True) == golden.step(9)[0]
            assert (await board.logits(DEPLOYMENT.vocab)).tolist() == golden.logits[0].tolist()

    asyncio.run(work())


def test_others_work_meanwhile():
    """The event loop is never held up by a board."""

    async def work() -> None:
        board = GoldenBoard(IMAGE, DEPLOYMENT)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        async with opened(board) as one:
            await one.deploy(DEPLOYMENT)
            ticking = asyncio.create_task(tick())
            board.stuck = True
            asyncio.get_running_loop().call_later(0.5, setattr, board, "stuck", False)
            assert len([token async for token in one.generate([1], 5)]) == 5
            ticking.cancel()
        assert ticks >= 5

    asyncio.run(work())


def test_cancelling_aborts_the_job():
    async def work() -> None:
        board = GoldenBoard(IMAGE, DEPLOYMENT)
        async with opened(board) as one:
            await one.deploy(DEPLOYMENT)
            board.stuck = True

            async def wait() -> None:
                async for _ in one.generate([1], 5):
                    pass

            task = asyncio.create_task(wait())
            while not one.board.jobs:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            task.cancel()
            begin = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 2.0
            assert not board.resumable  # aborted
            board.stuck = False
            expected = continued(Golden(IMAGE), [[1]], 5)[0]
            assert [token async for token in one.generate([1], 5)] == expected
            board.stuck = True
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.step(3, reset=True), 0.1)
            board.stuck = False

    asyncio.run(work())
    assert threads() == 0


def test_leaving_early():
    async def work() -> None:
        board = GoldenBoard(IMAGE, DEPLOYMENT)
        async with opened(board) as one:
            await one.deploy(DEPLOYMENT)
            async with aclosing(one.generate([1], 500)) as tokens:  # type: ignore[type-var]
                async for _ in tokens:
                    break
            assert not board.resumable

    asyncio.run(work())


def test_a_conversation(tmp_path: Path):
    board = GoldenBoard(IMAGE, DEPLOYMENT)

    def connect() -> Connection:
        return Connection(lambda: Wire(board), DEPLOYMENT)

    async def work() -> None:
        async with AsyncConversation(connect, [5]) as talk:
            found = []
            async for token in talk.generate(20):
                found.append(token)
                if len(found) == 7:
                    board.reset()
            talk.add([6])
            found += [token async for token in talk.generate(5)]
            await talk.save(tmp_path / "talk")
            text = list(talk.tokens)
        async with AsyncConversation(connect, restore=tmp_path / "talk") as talk:
            assert talk.tokens == text
            await anext(talk.generate(1))
        first = continued(Golden(IMAGE), [[5]], 20)[0]
        assert found == first + continued(Golden(IMAGE), [[5, *first, 6]], 5)[0]

    asyncio.run(work())
    assert threads() == 0


def test_what_does_not_open():
    async def work() -> None:
        one = AsyncBoard.open("/dev/nothing")
        with pytest.raises(NomulError, match=r"^/dev/nothing: does not open"):
            async with one:
                pass
        with pytest.raises(NomulError, match=r"^board: it is not open; use it in an async with"):
            await one.step(1)
        talk = AsyncConversation(lambda: Connection("/dev/nothing", DEPLOYMENT))
        with pytest.raises(NomulError, match=r"^/dev/nothing: does not open"):
            async with talk:
                pass
        with pytest.raises(NomulError, match=r"^conversation: it is not open"):
            talk.add([1])

    asyncio.run(work())
    assert threads() == 0
