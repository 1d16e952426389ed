# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the board, and the requests that wait for what it makes."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from nomul.host.lanes import Lanes, LanesBoard
from nomul.host.sampling import Sampler
from nomul.model.closing import Closing
from nomul.model.errors import NomulError

__all__ = ["Ask", "Engine", "Failed", "Full", "Ticket"]

_JOB_S = 0.05  # a job lasts about so long: users join and leave between jobs
_TRIES = 3  # attempts in a row, two of them repeats, that fail before their users are given up

_log = logging.getLogger(__name__)


class Full(NomulError):
    """As many texts are at work or wait as may; try again later."""


class Failed(NomulError):
    """The board, or the server's end, cut a request short."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A text that is wanted.

    Parameters
    ----------
    prompt : list of int
        Tokens, at least one.
    count : int
        Most tokens to generate.
    sampler : Sampler
    seed : int or list of int
        Of the text's own random numbers; 0 or more.
    """

    prompt: list[int]
    count: int
    sampler: Sampler
    seed: int | list[int]


class Ticket(Closing):
    """A request in the engine: tokens of its texts as they come. Belongs to the event loop.

    Use it as a context manager, or :meth:`close` it: texts that are not done then leave their lanes.
    What was made and not yet read waits here, ``count`` tokens of each text at most; the board never
    waits for a reader.
    """

    def __init__(self, engine: Engine, asks: Sequence[Ask]):
        self.asks = list(asks)
        self.users: dict[int, int] = {}  # of each text that is not done; the engine's thread's own
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, int] | Failed] = deque()
        self._there = asyncio.Event()
        self._waking = self._closed = False

    async def tokens(self) -> list[tuple[int, int]]:
        """What came since the last call, at least one: number of a text and its token.

        Raises
        ------
        Failed
            If no more will come.
        """
        while not self._events:
            self._there.clear()
            await self._there.wait()
        found: list[tuple[int, int]] = []
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Failed):
                if found:
                    self._events.appendleft(event)
                    break
                raise event
            found.append(event)
        return found

    def drop(self, text: int) -> None:
        """No more of this text is wanted."""
        self._engine.post(lambda: self._engine.leave(self, [text]))

    def close(self) -> None:
        """Leaves; may be called again."""
        if not self._closed:
            self._closed = True
            self._engine.release(self)

    # What follows is called by the engine's thread.

    def put(self, event: tuple[int, int] | Failed) -> None:
        """Hands a token, or the end, to the event loop."""
        self._events.append(event)
        if not self._waking:
            self._waking = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the loop is closed: nobody reads any more
                self._waking = False

    def _wake(self) -> None:
        self._waking = False  # before the events are read: none is missed
        self._there.set()


class Engine:
    """Runs the users of a board in a thread of its own.

    Methods are for the event loop's thread, but for those that say otherwise. Users join and leave
    between jobs, each of which lasts about a twentieth of a second. A job that fails is tried again
    from the texts, once the board is back; after three in a row all users are given up.

    Parameters
    ----------
    board : LanesBoard
        Used by the thread alone, from :meth:`start` to :meth:`close`.
    logits : callable
        As :class:`~nomul.host.lanes.Lanes` takes it.
    end : int, optional
        Token after which a text is done.
    queue : int
        Texts that may be there beyond one for each lane.
    recover : callable, optional
        Brings the board back after an error, or raises one: :meth:`nomul.host.connection.Connection.recover`.

    Attributes
    ----------
    lanes, capacity : int
        Lanes of the board, and texts that may be there.
    texts : int
        Texts that are there, those included that a reader has not fetched yet.
    fault : str or None
        Why the latest job failed.
    tokens, steps, lane_tokens : int
        Generated, steps of jobs, and tokens that lanes processed, all since the start.
    occupants : list of int or None, one a lane
        Numbers of the texts that the lanes had in the latest job.
    waiting : int
        Texts without a lane.
    """

    def __init__(
        self,
        board: LanesBoard,
        *,
        logits: Callable[[int], np.ndarray],
        end: int | None = None,
        queue: int = 64,
        recover: Callable[[NomulError], None] | None = None,
    ):
        self.lanes = board.identity.lanes
        self.capacity = self.lanes + queue
        self.texts = 0
        self.fault: str | None = None
        self.tokens = self.steps = self.lane_tokens = self.waiting = 0
        self.occupants: list[int | None] = [None] * self.lanes
        self._end = end
        self._recover = recover
        self._lanes = Lanes(board, logits=logits)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._users: dict[int, tuple[Ticket, int]] = {}
        self._stopping: str | None = None
        self._running = True
        self._steps = 1
        self._failures = 0
        self._thread = threading.Thread(target=self._work, name="nomul-engine", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self, reason: str) -> None:
        """From now on nobody is let in; who is there goes on."""
        self._stopping = reason

    def cancel(self, reason: str) -> None:
        """Everyone who is there is told the reason and leaves."""
        self.post(lambda: self._give_up(reason))

    def close(self, timeout_s: float = 70.0) -> None:
        """Ends the thread, after the job at hand.

        Parameters
        ----------
        timeout_s : float
            How long that is waited for: longer than a board may make no progress.
        """
        self.stop("the server is shutting down")
        self.cancel("the server is shutting down")
        self.post(self._quit)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def open(self, asks: Sequence[Ask]) -> Ticket:
        """Lets a request in.

        Raises
        ------
        Full
            If there is no room for all of its texts.
        Failed
            If the engine stops.
        """
        if self._stopping is not None:
            raise Failed(self._stopping)
        if self.texts + len(asks) > self.capacity:
            raise Full(f"{self.texts} of {self.capacity} texts are at work or wait; try again later")
        self.texts += len(asks)
        ticket = Ticket(self, asks)
        self.post(lambda: self._join(ticket))
        return ticket

    def release(self, ticket: Ticket) -> None:
        """A ticket is closed."""
        self.texts -= len(ticket.asks)
        self.post(lambda: self.leave(ticket, range(len(ticket.asks))))

    def post(self, action: Callable[[], None]) -> None:
        """Has something done by the thread, before its next job."""
        self._inbox.put(action)

    # What follows is the thread's.

    def _work(self) -> None:
        while self._running:
            while not self._lanes.users or not self._inbox.empty():
                self._inbox.get()()
                if not self._running:
                    return
                if not self._lanes.users:
                    self._show([None] * self.lanes)
            self._job()
            self._show(self._lanes.occupants if self._lanes.users else [None] * self.lanes)

    def _show(self, occupants: Sequence[int | None]) -> None:
        self.occupants = list(occupants)
        self.waiting = max(0, len(self._lanes.users) - len({*occupants} - {None}))

    def _job(self) -> None:
        before, begin = self._lanes.steps_done, time.monotonic()
        try:
            for user, token in self._lanes.job(self._steps):
                ticket, text = self._users[user]
                self.tokens += 1
                self._count()  # before a reader can ask
                ticket.put((text, token))
        except NomulError as error:
            self._failed(error)
        except Exception:  # a mistake of ours must not leave readers waiting
            _log.exception("the engine failed")
            self.fault = "the server made a mistake; its log tells more"
            self._give_up(self.fault)
        else:
            self.fault, self._failures = None, 0
        done = self._lanes.steps_done - before
        if done:
            self._steps = max(1, int(_JOB_S * done / max(time.monotonic() - begin, 1e-6)))
        self._count()
        for user in [*self._users.keys() - {*self._lanes.users}]:  # done
            ticket, text = self._users.pop(user)
            ticket.users.pop(text, None)

    def _count(self) -> None:
        self.steps, self.lane_tokens = self._lanes.steps_done, self._lanes.tokens_done

    def _failed(self, error: NomulError) -> None:
        """A job failed: the board is brought back, or its users are given up after some tries."""
        self.fault = str(error)
        self._failures += 1
        if self._recover is not None:
            try:
                self._recover(error)
            except NomulError as reason:
                self.fault = str(reason)
        if self._failures == _TRIES:
            self._give_up(self.fault)

    def _join(self, ticket: Ticket) -> None:
        for number, ask in enumerate(ticket.asks):
            user = self._lanes.add(
                ask.prompt, ask.count, stop=self._end, sampler=ask.sampler,
                rng=np.random.default_rng(ask.seed),
            )  # fmt: skip
            self._users[user] = ticket, number
            ticket.users[number] = user

    def leave(self, ticket: Ticket, texts: Sequence[int]) -> None:
        """Takes texts off their lanes, if they are not done; for the thread."""
        for text in texts:
            user = ticket.users.pop(text, None)
            if user is not None:
                self._lanes.remove(user)
                del self._users[user]

    def _give_up(self, reason: str) -> None:
        self._failures = 0
        for ticket in {ticket for ticket, _ in self._users.values()}:
            self.leave(ticket, [*ticket.users])
            ticket.put(Failed(reason))

    def _quit(self) -> None:
        self._running = False
