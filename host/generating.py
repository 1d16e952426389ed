# SPDX-License-Identifier: Apache-2.0
"""Tokens of whoever can run rows: generated, forced, sampled."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.protocol import FEED_BACK, Identity, LaneToken

from .sampling import Sampler

__all__ = ["Generating", "Row", "checked_prompt"]

#: A token for each lane; ``None`` for lanes that are not active, as are those left out at the end.
Row = Sequence[LaneToken | None]


class Generating(ABC):
    """What a board, or several as one, makes of running rows.

    Attributes
    ----------
    identity : Identity
    vocab : int
        Tokens are below it.
    jobs : int
        Jobs begun so far.
    """

    identity: Identity
    vocab: int
    jobs: int

    @abstractmethod
    def _run(self, rows: Sequence[Row], steps: int) -> Iterator[list[int | None]]:
        """Rows that were checked."""

    @abstractmethod
    def logits(self, vocab: int, *, lane: int | None = None) -> np.ndarray:
        """Logits of a lane in the last step, int32 ``[vocab]``, without scale; by default of the last active one."""

    @abstractmethod
    def logit_scale(self, lane: int | None = None) -> float:
        """What a unit of a logit is worth, after the latest token; by default in the last active lane."""

    def generate(self, prompt: Sequence[int], count: int, *, reset: bool = True) -> Iterator[int]:
        """Feeds a prompt, then generates greedily; tokens come as the board makes them.

        The last token generated is not fed: to go on, begin the next prompt with it and
        ``reset=False``. Leaving the iterator early stops the board, whose state is then lost.

        Parameters
        ----------
        prompt : sequence of int
            Tokens, at least one, as many as you like.
        count : int
            Tokens to generate; with 0, the prompt is only taken in.
        reset : bool
            Forget what came before.
        """
        tokens = checked_prompt(prompt, self.vocab)
        if count < 0:
            raise NomulError(f"board: {count} tokens to generate; it must be 0 or more")
        return self._generate(tokens, count, reset)

    def _generate(self, prompt: list[int], count: int, reset: bool) -> Iterator[int]:
        rows = self._prompt_rows(prompt, reset)
        steps, first = len(rows) + max(count - 1, 0), len(rows) - 1
        lane = len(rows[-1]) - 1
        if count > 1:
            rows.append([LaneToken(token=None, logits=True)])
        for k, found in enumerate(self._run(rows, steps)):
            if k >= first and count:
                token = found[lane if k == first else 0]
                assert token is not None
                yield token

    def force(self, tokens: Sequence[int], *, reset: bool = True) -> Iterator[int]:
        """Feeds given tokens; yields the arg-max after each of them."""
        return self._force(checked_prompt(tokens, self.vocab), reset)

    def _force(self, tokens: list[int], reset: bool) -> Iterator[int]:
        rows = self._prompt_rows(tokens, reset)
        for found in self._run(rows, len(rows)):
            yield from (token for token in found if token is not None)

    def _prompt_rows(self, tokens: list[int], reset: bool) -> list[Row]:
        """One user's tokens, so many a row as there are lanes; logits of the last, which alone can be read."""
        lanes, last = self.identity.lanes, len(tokens) - 1
        entries = [
            LaneToken(token=token, fresh=reset and k == 0, logits=k == last)
            for k, token in enumerate(tokens)
        ]
        return [entries[k : k + lanes] for k in range(0, len(entries), lanes)]

    def step(self, token: int, *, reset: bool = False) -> int:
        """Feeds one token; the arg-max after it. Its logits are then there to be read."""
        (result,) = self._force(checked_prompt([token], self.vocab), reset)
        return result

    def sample(
        self,
        prompt: Sequence[int],
        count: int,
        *,
        sampler: Sampler,
        seed: int | np.random.Generator = 1,
        reset: bool = True,
    ) -> Iterator[int]:
        """Feeds a prompt, then generates tokens that a sampler chooses.

        As with :meth:`generate`, which does the work if the sampler is greedy, the last token is not fed.

        Parameters
        ----------
        prompt, count, reset
            See :meth:`generate`.
        sampler : Sampler
        seed : int or numpy.random.Generator
            The same seed gives the same text.

        Raises
        ------
        NomulError
            If ``vocab`` was not set.
        """
        if sampler.greedy:
            return self.generate(prompt, count, reset=reset)
        tokens = checked_prompt(prompt, self.vocab)
        if count < 0:
            raise NomulError(f"board: {count} tokens to generate; it must be 0 or more")
        if self.vocab == FEED_BACK:
            raise NomulError("board: sampling needs the size of the vocabulary: set vocab")
        return self._sample(tokens, count, sampler, np.random.default_rng(seed), reset)

    def _sample(
        self, tokens: list[int], count: int, sampler: Sampler, rng: np.random.Generator, reset: bool
    ) -> Iterator[int]:
        for number in range(max(count, 1)):
            for _ in self._force(tokens, reset and number == 0):
                pass
            if count:
                tokens = [sampler.choose(self.logits(self.vocab) * self.logit_scale(), rng)]
                yield tokens[0]

    def run(self, rows: Sequence[Row], steps: int | None = None) -> Iterator[list[int | None]]:
        """Processes rows in order, then the last one again and again; as many jobs as it takes.

        Leaving the iterator early stops the board, whose recurrent states are then all lost.

        Parameters
        ----------
        rows : sequence of rows
            At least one. A lane that feeds back wants its slot active in the row before.
        steps : int, optional
            By default as many as there are rows; not fewer.

        Yields
        ------
        list of int or None, one a lane
            The arg-max of each active lane in a step.

        Raises
        ------
        NomulError
            At once, if the rows do not fit the board, or mean nothing; later, if the board fails.
        """
        lanes, slots = self.identity.lanes, self.identity.slots
        count = len(rows) if steps is None else steps
        if not 1 <= len(rows) <= count:
            raise NomulError(
                f"board: {len(rows)} rows and {count} steps; there must be at least one row, and "
                f"a step for each"
            )
        before: set[int] = set()
        for number, row in enumerate(rows):
            if len(row) > lanes:
                raise NomulError(f"board: row {number} has {len(row)} lanes, the board {lanes}")
            for lane, entry in enumerate(row):
                if entry is None:
                    continue
                if entry.token is not None and entry.token >= self.vocab:
                    raise NomulError(
                        f"board: row {number} has token {entry.token} in lane {lane}; {_range(self.vocab)}"
                    )
                if entry.slot >= slots:
                    raise NomulError(
                        f"board: row {number} has slot {entry.slot}; it must be 0 to {slots - 1}"
                    )
                if entry.token is None and (entry.fresh or entry.slot not in before):
                    raise NomulError(
                        f"board: row {number} feeds back to slot {entry.slot}, "
                        f"which is {'fresh' if entry.fresh else 'not active in the row before'}"
                    )
            before = {entry.slot for entry in row if entry is not None}
        return self._run(rows, count)


def checked_prompt(prompt: Sequence[int], vocab: int, *, where: str = "board") -> list[int]:
    """The tokens of a prompt.

    Raises
    ------
    NomulError
        If there are none, or one is not below ``vocab``; it begins with ``where``.
    """
    tokens = [int(token) for token in prompt]
    if not tokens:
        raise NomulError(f"{where}: the prompt is empty; it must have at least one token")
    for k, token in enumerate(tokens):
        if not 0 <= token < vocab:
            raise NomulError(f"{where}: token {k} of the prompt is {token}; {_range(vocab)}")
    return tokens


def _range(vocab: int) -> str:
    """What a token must be."""
    whose = ", the vocabulary of the model" if vocab < FEED_BACK else ""
    return f"it must be 0 to {vocab - 1}{whose}"
