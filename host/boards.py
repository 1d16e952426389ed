# SPDX-License-Identifier: Apache-2.0
"""Several boards that come back: a connection to each, and all of them as one."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from nomul.model.closing import Closing
from nomul.model.errors import NomulError

from .connection import Connection, recoverable
from .deployment import Deployment
from .pipeline import Pipeline, checked_groups
from .transport import Transport

__all__ = ["Boards", "Sections"]


class Sections:
    """The sections of a model as they lie on their boards; what a conversation has to know of them.

    Parameters
    ----------
    parts : sequence of Deployment
        The first layers first.

    Raises
    ------
    NomulError
        If they do not follow one another: each but the last gives a residual stream to the next.
    """

    def __init__(self, parts: Sequence[Deployment]):
        self.parts = tuple(parts)
        last = len(self.parts) - 1
        for number, part in enumerate(self.parts):
            if (part.takes is not None) != (number > 0) or (part.gives is not None) != (number < last):
                raise NomulError(
                    f"boards: section {number + 1} of {last + 1} does not go with its neighbours: compile the model "
                    f"for {last + 1} boards"
                )
        self.vocab = self.parts[0].vocab

    @property
    def model(self) -> str:
        """SHA-256 of all memory images, in hexadecimal."""
        return hashlib.sha256("\n".join(part.model for part in self.parts).encode()).hexdigest()

    @property
    def state_bytes(self) -> int | None:
        """Bytes of a recurrent state; ``None`` if it stays on the chips."""
        sizes = [part.state_bytes for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def read_state(self, board: Pipeline, *, slot: int = 0) -> bytes | None:
        """A slot's recurrent state on all boards, between jobs."""
        if self.state_bytes is None:
            return None
        states = [part.read_state(one, slot=slot) for part, one in zip(self.parts, board.boards, strict=True)]
        return b"".join(state for state in states if state is not None)

    def write_state(self, board: Pipeline, state: bytes, *, slot: int = 0) -> None:
        """Puts a state back: the slot goes on from it."""
        at = 0
        for part, one in zip(self.parts, board.boards, strict=True):
            size = part.state_bytes or 0
            part.write_state(one, state[at : at + size], slot=slot)
            at += size


class Boards(Closing):
    """A :class:`~nomul.host.connection.Connection` to each of several boards, used as one.

    Parameters
    ----------
    connects : sequence of str or callable
        As a connection takes them, the board of the first layers first.
    sections : sequence of Deployment
        In the same order; loaded into all boards at once.
    patience_s, progress, rng
        See :class:`~nomul.host.connection.Connection`; progress is of all boards together.
    groups : int, optional
        See :class:`~nomul.host.pipeline.Pipeline`.

    Attributes
    ----------
    board : Pipeline
    deployment : Sections
    connections : tuple of Connection

    Raises
    ------
    NomulError
        If there are not as many boards as sections, ``groups`` makes too many lanes, a board does not open, a section
        does not load, or the boards differ.
    """

    def __init__(
        self,
        connects: Sequence[str | Callable[[], Transport]],
        sections: Sequence[Deployment],
        *,
        patience_s: float = 5.0,
        progress: Callable[[int, int], None] = lambda done, total: None,
        rng: random.Random | None = None,
        groups: int | None = None,
    ):
        if len(connects) != len(sections):
            raise NomulError(f"boards: {len(connects)} boards for {len(sections)} sections of the model")
        self.deployment = Sections(sections)
        gives = sections[0].gives
        if groups is not None and gives is not None:
            checked_groups(groups, gives.lanes)  # before the minutes of loading
        self._patience_s = patience_s
        lock, amounts = threading.Lock(), [(0, 0)] * len(sections)

        def shown(number: int) -> Callable[[int, int], None]:
            def show(done: int, total: int) -> None:
                with lock:
                    amounts[number] = done, total
                    progress(sum(d for d, _ in amounts), sum(t for _, t in amounts))

            return show

        seeds = [None if rng is None else random.Random(rng.random()) for _ in sections]

        def connect(number: int) -> Connection:
            try:
                return Connection(
                    connects[number], sections[number], patience_s=patience_s, progress=shown(number), rng=seeds[number]
                )
            except NomulError as error:
                which = f"board {number + 1} of {len(sections)}: "
                error.args = (which + str(error).removeprefix("board: "), *error.args[1:])
                raise

        with ExitStack() as stack:
            with ThreadPoolExecutor(len(sections)) as pool:
                opened = [pool.submit(connect, number) for number in range(len(sections))]
            for future in opened:  # all that did open are closed if one did not
                if future.exception() is None:
                    stack.enter_context(future.result())
            self.connections = tuple(future.result() for future in opened)
            self.board = stack.enter_context(
                Pipeline([one.board for one in self.connections], sections, groups=groups)
            )
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends all sessions."""
        self._stack.close()

    @property
    def recoveries(self) -> int:
        """How often a board was brought back."""
        return sum(one.recoveries for one in self.connections)

    def recover(self, error: NomulError) -> None:
        """Brings the board back that failed, and others that are gone too; all recurrent states are lost.

        Parameters
        ----------
        error : NomulError
            What was wrong. It is raised if it can not be mended so, or if a board does not come back.
        """
        if not recoverable(error):
            raise error
        for number, one in enumerate(self.connections):
            if number == self.board.failed:
                one.recover(error)
                continue
            try:
                one.board.statistics()
            except NomulError as other:
                one.recover(other)
