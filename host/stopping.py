# SPDX-License-Identifier: Apache-2.0
"""Text of tokens as they come, up to a stop string."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Protocol

from nomul.model.errors import NomulError

__all__ = ["Decoder", "StopStrings", "pieces"]


class Decoder(Protocol):
    """What is needed of a tokenizer's decoder, as :class:`nomul.model.tokenizer.TextDecoder`."""

    def feed(self, token: int) -> str:
        """The text that one more token completes."""

    def finish(self) -> str:
        """What is left at the end."""


class StopStrings:
    """Ends a text before the first of some strings, which may lie across its pieces.

    Parameters
    ----------
    stop : sequence of str

    Attributes
    ----------
    stopped : bool
        Whether one was found.

    Raises
    ------
    NomulError
        If one is empty.
    """

    def __init__(self, stop: Sequence[str]):
        if "" in stop:
            raise NomulError("stop string: it is empty; give at least one character")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, piece: str) -> str:
        """The text that is certain now: what may begin a stop string is held back."""
        if self.stopped:
            return ""
        text = self._held + piece
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(
            (k for stop in self._stop for k in range(1, len(stop)) if text.endswith(stop[:k])),
            default=0,
        )
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest


def pieces(
    tokens: Iterable[int], decoder: Decoder, *, stop: Sequence[str] = (), end: int | None = None
) -> Iterator[str]:
    """Text of tokens, piece by piece; one piece a token, some empty, and the last for what is left.

    No token is taken after the one that completes a stop string, or that is ``end``; an iterator that
    is left there is closed.

    Parameters
    ----------
    tokens : iterable of int
    decoder : Decoder
    stop : sequence of str
        The text ends before the first of them.
    end : int, optional
        A token that ends the text and is not of it.
    """
    strings = StopStrings(stop)
    try:
        for token in tokens:
            if token == end:
                break
            yield strings.feed(decoder.feed(token))
            if strings.stopped:
                return
        rest = strings.feed(decoder.finish())
        yield rest + strings.finish()
    finally:
        if isinstance(tokens, Generator):
            tokens.close()
