# SPDX-License-Identifier: Apache-2.0
"""The text of tokens as they come, up to a stop string, an end token or a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

__all__ = ["Decoder", "Growing"]


class Decoder(Protocol):
    """As :class:`~nomul.model.tokenizer.TextDecoder` is."""

    def feed(self, token: int) -> str:
        """The text that one more token completes."""

    def finish(self) -> str:
        """What is left at the end."""


class Growing:
    """A text that grows token by token.

    Text that may be the beginning of a stop string is held back until it is known.

    Parameters
    ----------
    decoder : Decoder
    count : int
        Tokens after which it is done.
    end : int
        Token after which it is done; it has no text.
    stops : sequence of str
        Strings before which the text ends; the first in the text, if a token completes several.

    Attributes
    ----------
    tokens : int
        Fed so far, the end token too.
    finish_reason : str or None
        ``"stop"`` or ``"length"`` once it is done.
    """

    def __init__(self, decoder: Decoder, *, count: int, end: int, stops: Sequence[str] = ()):
        self.tokens = 0
        self.finish_reason: str | None = None
        self._decoder = decoder
        self._count = count
        self._end = end
        self._stops = stops
        self._held = ""

    def feed(self, token: int) -> str:
        """The text that is certain with one more token."""
        self.tokens += 1
        ends = token == self._end
        if not ends:
            self._held += self._decoder.feed(token)
            if self._stopped():
                return self._release(len(self._held))
        if ends or self.tokens == self._count:
            self.finish_reason = "stop" if ends else "length"
            self._held += self._decoder.finish()
            self._stopped()
            return self._release(len(self._held))
        return self._release(len(self._held) - self._doubtful())

    def _stopped(self) -> bool:
        """Cuts the text before a stop string, if there is one."""
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.finish_reason, self._held = "stop", self._held[: min(places)]
        return bool(places)

    def _doubtful(self) -> int:
        """Characters at the end that may begin a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _release(self, size: int) -> str:
        text, self._held = self._held[:size], self._held[size:]
        return text
