# SPDX-License-Identifier: Apache-2.0
"""One user's text on a board, which outlives the link, the board and the process."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.files import atomic, canonical_json, os_errors

from .connection import recoverable
from .generating import Generating
from .sampling import Sampler
from .stopping import Decoder, pieces

__all__ = ["Connected", "Conversation", "Tokenizer"]

_FORMAT = "nomul conversation"
_VERSION = 1
_FRUITLESS = 3  # losses of the board without a token between them
_GREEDY = Sampler()
_FIELDS = {"design": str, "model": str, "tokens": int, "fed": int, "state": int}


class Tokenizer(Protocol):
    """What is needed of :class:`nomul.model.tokenizer.ByteTokenizer` and its like."""

    end: int

    def decoder(self) -> Decoder:
        """A decoder for tokens as they come."""


class Deployed(Protocol):
    """What is needed of a :class:`~nomul.host.deployment.Deployment`, or of several boards' sections."""

    @property
    def vocab(self) -> int:
        """Tokens are below it."""

    @property
    def model(self) -> str:
        """Of the memory image."""

    @property
    def state_bytes(self) -> int | None:
        """Of a recurrent state."""

    def read_state(self, board: Any) -> bytes | None:
        """That of slot 0."""

    def write_state(self, board: Any, state: bytes) -> None:
        """The same back."""


class Connected(Protocol):
    """What is needed of a :class:`~nomul.host.connection.Connection`, or of :class:`~nomul.host.boards.Boards`."""

    @property
    def board(self) -> Generating:
        """Always the same object."""

    @property
    def deployment(self) -> Deployed:
        """What is on it."""

    def recover(self, error: NomulError) -> None:
        """Brings the board back, or raises."""


class Conversation:
    """The tokens of one user, given and generated, and how much of them the board has seen.

    Whatever happens to the board, the text is here: the board is opened again, the text is fed anew, or
    what came after the last saved state, and generation goes on with the very token that comes next. It
    has slot 0 of the board.

    Parameters
    ----------
    connection : Connection or Boards
        Used by nobody else meanwhile.
    tokens : sequence of int
        The text so far.

    Attributes
    ----------
    tokens : list of int
        The text: what was added and what was generated. To be read only.
    """

    def __init__(self, connection: Connected, tokens: Sequence[int] = ()):
        self.tokens: list[int] = []
        self._connection = connection
        self._fed = 0  # tokens that the state on the board has seen, if ``_jobs`` were all
        self._jobs = 0
        self._state: bytes | None = None  # after ``_saved`` tokens
        self._saved = 0
        self.add(tokens)

    def add(self, tokens: Sequence[int]) -> None:
        """Adds tokens to the text; they are fed when the next one is generated.

        Raises
        ------
        NomulError
            If one lies outside the vocabulary.
        """
        given = [int(token) for token in tokens]
        vocab = self._connection.deployment.vocab
        for k, token in enumerate(given):
            if not 0 <= token < vocab:
                raise NomulError(f"conversation: token {k} is {token}; it must be 0 to {vocab - 1}")
        self.tokens += given

    def feed(self, *, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Feeds the text but for its last token, which the next generation begins with.

        Parameters
        ----------
        progress : callable
            Called with the tokens that were fed and those of the text.
        """
        for _ in self._lasting(lambda: self._feed(progress)):
            pass

    def _feed(self, progress: Callable[[int, int], None]) -> Iterator[int]:
        begin = self._resume()
        given = self.tokens[begin:-1]
        if given:
            for k, _ in enumerate(self._connection.board.force(given, reset=begin == 0), 1):
                progress(begin + k, len(self.tokens))
        self._knows(begin + len(given))
        yield from ()

    def generate(
        self, count: int, *, sampler: Sampler = _GREEDY, seed: int | np.random.Generator = 1
    ) -> Iterator[int]:
        """Generates tokens; each is part of the text before it is given.

        Leaving the iterator early costs the board's state if the sampler is greedy, since the board
        works ahead: the text is then fed anew.

        Parameters
        ----------
        count : int
            Tokens to generate, at least 1.
        sampler : Sampler
        seed : int or numpy.random.Generator
            Of sampling: the same one gives the same text, whatever happens to the board.

        Raises
        ------
        NomulError
            If the text is empty; or if the board is lost and does not come back, or only to be lost
            three times more without a token.
        """
        if not self.tokens:
            raise NomulError("conversation: it is empty; add at least one token")
        if count < 1:
            raise NomulError(f"conversation: {count} tokens to generate; it must be at least 1")
        rng = np.random.default_rng(seed)
        wanted = len(self.tokens) + count
        return self._lasting(lambda: self._generate(wanted, sampler, rng))

    def _generate(
        self, wanted: int, sampler: Sampler, rng: np.random.Generator
    ) -> Iterator[int]:
        fed = self._resume()
        left = wanted - len(self.tokens)
        board = self._connection.board
        for token in board.sample(
            self.tokens[fed:], left, sampler=sampler, seed=rng, reset=fed == 0
        ):
            self.tokens.append(token)
            left -= 1
            if not sampler.greedy or not left:  # the board does not work ahead
                self._knows(len(self.tokens) - 1)
            yield token

    def _lasting(self, work: Callable[[], Iterator[int]]) -> Iterator[int]:
        """Works, and again from where the text is when the board was lost."""
        fruitless = 0
        while True:
            try:
                for token in work():
                    fruitless = 0
                    yield token
                return
            except NomulError as error:
                self._fed = 0
                fruitless += 1
                if fruitless > _FRUITLESS or not recoverable(error):
                    raise
                self._connection.recover(error)

    def _knows(self, fed: int) -> None:
        """The board's state has now seen so many tokens."""
        self._fed, self._jobs = fed, self._connection.board.jobs

    def _resume(self) -> int:
        """Tokens that the board's state has seen; the last saved state is put back if it has lost its own."""
        board = self._connection.board
        if board.jobs != self._jobs:  # what ran since is not known to have gone on in this text
            self._fed = 0
        if not self._fed and self._state is not None:
            self._connection.deployment.write_state(board, self._state)
            self._knows(self._saved)
        return self._fed

    def text(
        self,
        count: int,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        sampler: Sampler = _GREEDY,
        seed: int | np.random.Generator = 1,
    ) -> Iterator[str]:
        """Generates text, piece by piece, until a stop string or the token that ends a text.

        What completed the stop string, or ended the text, stays in the conversation's tokens.

        Parameters
        ----------
        count, sampler, seed
            See :meth:`generate`.
        tokenizer : Tokenizer
        stop : sequence of str
            The text ends before the first of them.
        """
        tokens = self.generate(count, sampler=sampler, seed=seed)
        return pieces(tokens, tokenizer.decoder(), stop=stop, end=tokenizer.end)

    # Files

    def save(self, path: Path) -> None:
        """Writes the conversation to a file, whole or not at all.

        Where the board's state can be read it is saved too, and what was fed need not be fed again.
        """
        deployment = self._connection.deployment
        if self._fed and self._connection.board.jobs == self._jobs:
            try:
                self._state = deployment.read_state(self._connection.board)
                self._saved = self._fed
            except NomulError as error:
                if not recoverable(error):
                    raise
                self._fed = 0  # the text is enough
        state = b"" if self._state is None else self._state
        header = canonical_json(
            {
                "format": _FORMAT,
                "version": _VERSION,
                "design": self._connection.board.identity.design.hex(),
                "model": deployment.model,
                "tokens": len(self.tokens),
                "fed": self._saved if state else 0,
                "state": len(state),
            }
        )
        data = header + b"\n" + np.array(self.tokens, dtype="<u2").tobytes() + state
        with atomic(Path(path)) as file:
            file.write(data + zlib.crc32(data).to_bytes(4, "little"))

    @classmethod
    def restore(cls, path: Path, connection: Connected) -> Conversation:
        """A conversation from a file.

        On a board of another design, or one whose state stays on the chip, the text is fed anew.

        Raises
        ------
        NomulError
            If the file can not be read, is damaged, or belongs to another model.
        """
        with os_errors(Path(path)):
            data = Path(path).read_bytes()
        header, body = _parsed(path, data)
        deployment = connection.deployment
        if header["model"] != deployment.model:
            raise NomulError(
                f"{path}: belongs to the model {header['model'][:16]}…, the board has "
                f"{deployment.model[:16]}…; connect with the model it was saved with"
            )
        cut = 2 * header["tokens"]
        made = cls(connection, np.frombuffer(body[:cut], dtype="<u2").tolist())
        same = header["design"] == connection.board.identity.design.hex()
        if same and deployment.state_bytes and header["state"] == deployment.state_bytes:
            made._state, made._saved = body[cut:], header["fed"]
        return made


def _parsed(path: Path, data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and what follows it, without the checksum."""
    mend = "restore it from a copy, or begin anew"
    head, _, body = data[:-4].partition(b"\n")
    try:
        header = json.loads(head)
        known = header["format"] == _FORMAT
    except (ValueError, TypeError, KeyError, RecursionError):
        known = False
    if not known:
        raise NomulError(f"{path}: is no conversation; name a file that was saved as one")
    if header.get("version") != _VERSION:
        raise NomulError(
            f"{path}: has version {header.get('version')}, this nomul reads {_VERSION}; install the one that wrote it"
        )
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise NomulError(f"{path}: is damaged (its checksum is wrong); {mend}")
    for name, kind in _FIELDS.items():
        if type(header.get(name)) is not kind:
            raise NomulError(f"{path}: the header lacks {name}; {mend}")
    if (
        len(body) != 2 * header["tokens"] + header["state"]
        or min(header["tokens"], header["state"]) < 0
        or not 0 <= header["fed"] <= max(0, header["tokens"] - 1)
    ):  # fmt: skip
        raise NomulError(f"{path}: has {len(body)} bytes of tokens and state, which its header does not say; {mend}")
    return header, body
