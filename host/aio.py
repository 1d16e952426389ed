# SPDX-License-Identifier: Apache-2.0
"""Boards and conversations for asyncio. Each has a thread that does one thing after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import Identity

from .connection import Connection
from .conversation import Conversation, Tokenizer
from .deployment import Deployment
from .driver import Board
from .loading import Image
from .sampling import Sampler

__all__ = ["AsyncBoard", "AsyncConversation"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_GREEDY = Sampler()


class _Threaded:
    """A board that a thread works with. What is cancelled stops the board's job and then ends."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nomul-board")
        self._board: Board | None = None

    async def _do(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Calls in the thread; a call that is cancelled has ended when this does."""
        future = asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: work(*args, **kwargs)
        )
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if self._board is not None:
                self._board.interrupt()
            with suppress(NomulError, StopIteration):
                await future
            raise

    async def _each(self, begin: Callable[[], Iterator[_T]]) -> AsyncIterator[_T]:
        """The same for an iterator, which is closed with this one."""
        inner = await self._do(begin)
        nothing = object()
        try:
            while (item := await self._do(next, inner, nothing)) is not nothing:
                yield item  # type: ignore[misc]  # a sentinel has no type of its own
        finally:
            close = getattr(inner, "close", None)
            if close is not None:
                await self._do(close)

    async def _end(self, close: Callable[[], None]) -> None:
        try:
            await self._do(close)
        except BaseException:  # the thread may be at work still, and nobody waits for it here
            self._thread.shutdown(wait=False)
            raise
        self._thread.shutdown()


class AsyncBoard(_Threaded):
    """A :class:`~nomul.host.driver.Board` for asyncio. Use it as an async context manager.

    Parameters
    ----------
    open_board : callable
        Makes the board, in the thread; :meth:`open` has one for a name.
    """

    def __init__(self, open_board: Callable[[], Board]):
        super().__init__()
        self._open = open_board

    @classmethod
    def open(cls, name: str, *, baud: int = 3_000_000, design: bytes | None = None) -> AsyncBoard:
        """See :meth:`Board.open`; it is opened when the context is entered."""
        return cls(lambda: Board.open(name, baud=baud, design=design))

    async def __aenter__(self) -> Self:
        try:
            self._board = await self._do(self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end(self.board.close)

    @property
    def board(self) -> Board:
        """The board itself; call nothing of it while something is awaited here."""
        if self._board is None:
            raise NomulError("board: it is not open; use it in an async with statement")
        return self._board

    @property
    def identity(self) -> Identity:
        """See :class:`Board`."""
        return self.board.identity

    async def load(
        self, image: Image, *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> int:
        """See :meth:`Board.load`; ``progress`` is called in the thread."""
        return await self._do(self.board.load, image, progress=progress)

    async def deploy(self, deployment: Deployment) -> int:
        """See :meth:`Deployment.load`."""
        return await self._do(deployment.load, self.board)

    def generate(
        self, prompt: Sequence[int], count: int, *, reset: bool = True
    ) -> AsyncIterator[int]:
        """See :meth:`Board.generate`."""
        return self._each(lambda: self.board.generate(prompt, count, reset=reset))

    def force(self, tokens: Sequence[int], *, reset: bool = True) -> AsyncIterator[int]:
        """See :meth:`Board.force`."""
        return self._each(lambda: self.board.force(tokens, reset=reset))

    def sample(
        self,
        prompt: Sequence[int],
        count: int,
        *,
        sampler: Sampler,
        seed: int | np.random.Generator = 1,
        reset: bool = True,
    ) -> AsyncIterator[int]:
        """See :meth:`Board.sample`."""
        return self._each(
            lambda: self.board.sample(prompt, count, sampler=sampler, seed=seed, reset=reset)
        )

    async def step(self, token: int, *, reset: bool = False) -> int:
        """See :meth:`Board.step`."""
        return await self._do(self.board.step, token, reset=reset)

    async def logits(self, vocab: int, *, lane: int | None = None) -> np.ndarray:
        """See :meth:`Board.logits`."""
        return await self._do(self.board.logits, vocab, lane=lane)


class AsyncConversation(_Threaded):
    """A :class:`~nomul.host.conversation.Conversation` for asyncio. Use it as an async context manager.

    Parameters
    ----------
    connect : callable
        Makes the connection, in the thread; it is closed with the context.
    tokens : sequence of int
        The text so far.
    restore : Path, optional
        A file to begin with instead.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        tokens: Sequence[int] = (),
        *,
        restore: Path | None = None,
    ):
        super().__init__()
        self._connect, self._tokens, self._file = connect, tokens, restore
        self._connection: Connection | None = None
        self._inner: Conversation | None = None

    async def __aenter__(self) -> Self:
        def begin() -> None:
            self._connection = self._connect()
            self._board = self._connection.board
            self._inner = (
                Conversation(self._connection, self._tokens)
                if self._file is None
                else Conversation.restore(self._file, self._connection)
            )

        try:
            await self._do(begin)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        connection = self._connection
        await self._end(connection.close if connection is not None else lambda: None)

    @property
    def conversation(self) -> Conversation:
        """The conversation itself; call nothing of it while something is awaited here."""
        if self._inner is None:
            raise NomulError("conversation: it is not open; use it in an async with statement")
        return self._inner

    @property
    def tokens(self) -> list[int]:
        """See :class:`Conversation`."""
        return self.conversation.tokens

    def add(self, tokens: Sequence[int]) -> None:
        """See :meth:`Conversation.add`."""
        self.conversation.add(tokens)

    def generate(
        self, count: int, *, sampler: Sampler = _GREEDY, seed: int | np.random.Generator = 1
    ) -> AsyncIterator[int]:
        """See :meth:`Conversation.generate`."""
        return self._each(lambda: self.conversation.generate(count, sampler=sampler, seed=seed))

    def text(
        self,
        count: int,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        sampler: Sampler = _GREEDY,
        seed: int | np.random.Generator = 1,
    ) -> AsyncIterator[str]:
        """See :meth:`Conversation.text`."""
        return self._each(
            lambda: self.conversation.text(count, tokenizer, stop=stop, sampler=sampler, seed=seed)
        )

    async def save(self, path: Path) -> None:
        """See :meth:`Conversation.save`."""
        await self._do(self.conversation.save, path)
