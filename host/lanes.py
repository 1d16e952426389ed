# SPDX-License-Identifier: Apache-2.0
"""Packs users into the lanes of a board: prompts over the free ones, then a lane for each user."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import Identity, LaneToken, max_rows, max_steps

from .driver import Row, checked_prompt
from .sampling import Sampler

__all__ = ["Lanes", "LanesBoard"]


class LanesBoard(Protocol):
    """What is needed of a :class:`~nomul.host.driver.Board`."""

    identity: Identity
    vocab: int

    def run(self, rows: Sequence[Row], steps: int | None = None) -> Iterator[list[int | None]]:
        """See :meth:`nomul.host.driver.Board.run`."""


@dataclass(eq=False)
class _User:
    """A text that grows, and how much of it its slot's state has seen."""

    number: int
    text: list[int]
    left: int  # tokens still to be generated
    stop: int | None
    sampler: Sampler | None  # None takes the board's arg-max
    rng: np.random.Generator | None
    slot: int | None = None
    fed: int = 0


@dataclass
class _Plan:
    """A job: its rows, and whose token each lane gives in each row."""

    rows: list[Row] = field(default_factory=list)
    gives: list[list[tuple[int, _User]]] = field(default_factory=list)
    fed: dict[int, tuple[_User, int]] = field(default_factory=dict)
    steps: int = 0
    sampled: list[tuple[int, _User]] = field(default_factory=list)  # in the last row, by logits


class Lanes:
    """Users that share a board; tokens are its arg-maxes, or chosen from its logits.

    Each user gets what it would get alone. As many are at work as there are lanes and slots; the
    others wait their turn. Users may be added and removed at any time; it counts from the next job
    on. A job ends with the first row after which a token is chosen from logits, so while such a user
    generates, jobs have one step.

    Parameters
    ----------
    board : LanesBoard
        Its slots belong to this object from the first job to the last.
    steps : int, optional
        Most steps of a job, so how long a new user waits; by default as many as a job can have.
    logits : callable, optional
        Gives the float logits ``[V]`` of a lane in the last step, if they were wanted; without it
        nobody can sample.

    Attributes
    ----------
    steps_done : int
        Steps of all jobs so far.
    tokens_done : int
        Tokens that lanes processed in them, of prompts too.
    occupants : list of int or None, one a lane
        Whose token each lane has in the latest job's last row.

    Raises
    ------
    NomulError
        If ``steps`` is below 1.
    """

    def __init__(
        self,
        board: LanesBoard,
        *,
        steps: int | None = None,
        logits: Callable[[int], np.ndarray] | None = None,
    ):
        lanes = board.identity.lanes
        if steps is not None and steps < 1:
            raise NomulError(f"lanes: {steps} steps in a job; it must be at least 1")
        self._board = board
        self._lanes = lanes
        self._places = min(lanes, board.identity.slots)  # users at work
        self._most = min(max_steps(lanes), steps or max_steps(lanes))
        self._logits = logits
        self.steps_done = self.tokens_done = 0
        self.occupants: list[int | None] = [None] * lanes
        self._users: dict[int, _User] = {}  # in the order of their arrival
        self._count = 0

    def add(
        self,
        prompt: Sequence[int],
        count: int,
        *,
        stop: int | None = None,
        sampler: Sampler | None = None,
        rng: np.random.Generator | None = None,
    ) -> int:
        """A new user.

        Parameters
        ----------
        prompt : sequence of int
            At least one token, all below the board's ``vocab``.
        count : int
            Tokens to generate, at least 1.
        stop : int, optional
            A token after which the user is done; it is still given.
        sampler : Sampler, optional
            How tokens are chosen; by default, and if it is greedy, by the board's arg-max.
        rng : numpy.random.Generator, optional
            The user's own; a sampler that is not greedy needs it.

        Returns
        -------
        int
            The user's number.

        Raises
        ------
        NomulError
            If the prompt is empty or has a token that is not in the board's vocabulary, or ``count`` is
            below 1.
        """
        text = checked_prompt(prompt, self._board.vocab, where="lanes")
        if count < 1:
            raise NomulError(f"lanes: {count} tokens to generate; it must be at least 1")
        if sampler is not None and sampler.greedy:
            sampler = None
        if sampler is not None and (rng is None or self._logits is None):
            missing = "a random generator" if rng is None else "a board with logits"
            raise NomulError(f"lanes: temperature {sampler.temperature} needs {missing}")
        self._count += 1
        self._users[self._count] = _User(self._count, text, count, stop, sampler, rng)
        return self._count

    def remove(self, user: int) -> None:
        """The user leaves; nothing of it comes any more. One that is done may be removed too."""
        self._users.pop(user, None)

    @property
    def users(self) -> list[int]:
        """Users that are not done, in the order of their arrival."""
        return list(self._users)

    def run(self) -> Iterator[tuple[int, int]]:
        """Works until no user is left.

        Leaving the iterator early, or an error of the board, costs the states but no text: run
        again, and users go on where they were.

        Yields
        ------
        (int, int)
            A user and its next token, as the board makes them.
        """
        while self._users:
            yield from self.job()

    def job(self, steps: int | None = None) -> Iterator[tuple[int, int]]:
        """One job for the users there are; see :meth:`run`.

        Parameters
        ----------
        steps : int, optional
            Most steps of this one.
        """
        try:
            plan = self._plan(self._most if steps is None else max(1, min(steps, self._most)))
            if not plan.rows:
                return
            for step, found in enumerate(self._board.run(plan.rows, plan.steps)):
                row = min(step, len(plan.rows) - 1)
                self.steps_done += 1
                self.tokens_done += sum(entry is not None for entry in plan.rows[row])
                for lane, user in plan.gives[row]:
                    token = found[lane]
                    assert token is not None
                    if self._given(user, token):
                        yield user.number, token
            # The job has ended: logits are those of its last step.
            for user, fed in plan.fed.values():
                user.fed = fed
            for lane, user in plan.sampled:
                if user.number not in self._users:
                    continue
                assert self._logits is not None
                assert user.sampler is not None
                assert user.rng is not None
                token = user.sampler.choose(self._logits(lane), user.rng)
                if self._given(user, token):
                    yield user.number, token
        except BaseException:
            for user in self._users.values():  # the board has lost its states
                user.slot, user.fed = None, 0
            raise

    def _given(self, user: _User, token: int) -> bool:
        """Appends a token; whether the user is still there to get it."""
        if self._users.get(user.number) is not user:
            return False  # it left meanwhile
        user.text.append(token)
        user.left -= 1
        if not user.left or token == user.stop:
            del self._users[user.number]
        return True

    def _plan(self, most: int) -> _Plan:
        """The next job, of at most so many steps; gives slots to users that have none."""
        plan = _Plan()
        self.occupants = [None] * self._lanes
        waiting = list(self._users.values())
        at_work = [user for user in waiting if user.slot is not None]
        waiting = [user for user in waiting if user.slot is None]
        fed = {user.number: user.fed for user in at_work}
        made: dict[int, int] = {}  # tokens that this job generates
        for _ in range(min(max_rows(self._lanes), most)):
            free = sorted({*range(self._places)} - {user.slot for user in at_work})
            while free and waiting:
                user = waiting.pop(0)
                user.slot = free.pop(0)
                fed[user.number] = 0
                at_work.append(user)
            if not at_work:
                break

            # A lane for each user, then what is free for prompts, first come first served.
            ahead = {user.number: max(1, len(user.text) - fed[user.number]) for user in at_work}
            share = dict.fromkeys(ahead, 1)
            spare = self._lanes - len(at_work)
            for number, wanted in ahead.items():
                more = min(spare, wanted - 1)
                share[number] += more
                spare -= more

            row: list[LaneToken | None] = []
            gives: list[tuple[int, _User]] = []
            self.occupants = []
            for user in at_work:
                at = fed[user.number]
                given = user.text[at : at + share[user.number]]
                fed[user.number] = at + max(1, len(given))
                done = fed[user.number] >= len(user.text)
                sampled = done and user.sampler is not None
                assert user.slot is not None
                row += [
                    LaneToken(
                        token=token, slot=user.slot, fresh=at + k == 0,
                        logits=sampled and k == max(0, len(given) - 1),
                    )
                    for k, token in enumerate(given or [None])
                ]  # fmt: skip
                self.occupants += [user.number] * max(1, len(given))
                if done:
                    made[user.number] = made.get(user.number, 0) + 1
                    (plan.sampled if sampled else gives).append((len(row) - 1, user))
            self.occupants += [None] * (self._lanes - len(row))
            plan.rows.append(row)
            plan.gives.append(gives)
            plan.steps += 1

            leaving = [user for user in at_work if made.get(user.number, 0) == user.left]
            at_work = [user for user in at_work if user not in leaving]
            for user in leaving:
                plan.fed.pop(user.number, None)
            plan.fed.update({user.number: (user, fed[user.number]) for user in at_work})
            if plan.sampled:
                break  # what comes next depends on logits
            if at_work and not leaving and all(entry and entry.token is None for entry in row):
                # Nothing changes until the first is done.
                again = min(user.left - made[user.number] for user in at_work)
                again = min(again, most - plan.steps)
                plan.steps += again
                for user in at_work:
                    plan.fed[user.number] = (user, fed[user.number] + again)
                break
        return plan
