# SPDX-License-Identifier: Apache-2.0
"""The text of tokens as they come, up to a stop string, an end token or a number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from nomul.host.stopping import Decoder, StopStrings

__all__ = ["Growing"]


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
        self._strings = StopStrings(stops)

    def feed(self, token: int) -> str:
        """The text that is certain with one more token."""
        self.tokens += 1
        ends = token == self._end
        text = "" if ends else self._strings.feed(self._decoder.feed(token))
        if not self._strings.stopped and (ends or self.tokens == self._count):
            self.finish_reason = "stop" if ends else "length"
            text += self._strings.feed(self._decoder.finish()) + self._strings.finish()
        if self._strings.stopped:
            self.finish_reason = "stop"
        return text
