# SPDX-License-Identifier: Apache-2.0
"""Bytes as tokens: token ``n`` is byte ``n``."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

import numpy as np

from .errors import NomulError

__all__ = ["BEGIN", "ByteTokenizer", "TextDecoder", "check_ids", "tokenizer"]

#: Token before every text: the context of its first byte, and the separator between documents.
BEGIN = 0

_SHOWN = 40  # characters of a wrong value that an error shows


def check_ids(ids: Iterable[int] | np.ndarray, vocab: int) -> np.ndarray:
    """Token ids as an array, if all lie within the vocabulary.

    Parameters
    ----------
    ids : ints of shape ``[n]``
    vocab : int
        Size of the vocabulary.

    Returns
    -------
    ndarray of int64, shape ``[n]``

    Raises
    ------
    NomulError
        If there is none, or one is no token: its value and position.
    """
    values = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids))
    if values.size == 0:
        raise NomulError("the prompt is empty; give at least one token")
    if values.ndim != 1:
        raise NomulError(f"token ids have shape {list(values.shape)}; they must be one list")
    if values.dtype.kind not in "iu":
        raise NomulError(f"token ids are {values.dtype}; they must be integers")
    wrong = (values < 0) | (values >= vocab)
    if wrong.any():
        position = int(wrong.argmax())
        raise NomulError(
            f"token {int(values[position])} at position {position} lies outside the vocabulary: "
            f"ids are 0 to {vocab - 1}"
        )
    return values.astype(np.int64)


class TextDecoder:
    """Text of tokens as they come: a character is given as soon as its last byte is there.

    Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """The text that one more byte completes, often nothing or one character."""
        return self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        """What an unfinished character at the end becomes; the decoder may then be used anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class ByteTokenizer:
    """Text to token ids and back, one token a byte.

    Parameters
    ----------
    vocab : int
        Vocabulary of the model; 256.

    Raises
    ------
    NomulError
        If the vocabulary has another size.
    """

    kind = "bytes"
    begin = end = BEGIN  #: Tokens before and after every text.

    def __init__(self, *, vocab: int = 256):
        if vocab != 256:
            raise NomulError(
                f"the bytes tokenizer needs a vocabulary of 256, the model has {vocab}; "
                "use the tokenizer that the model was trained with"
            )
        self.vocab = vocab

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a prompt, without :data:`BEGIN`.

        Parameters
        ----------
        text : str or bytes
            A string is encoded as UTF-8; bytes that Python's command line could not decode (lone
            surrogates) come back as they were.

        Returns
        -------
        ndarray of int64, shape ``[n]``

        Raises
        ------
        NomulError
            If the prompt is empty, or a character has no UTF-8.
        """
        if isinstance(text, str):
            try:
                text = text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise NomulError(
                    f"the prompt has a lone surrogate at position {error.start}; "
                    "give valid Unicode or bytes"
                ) from None
        if not text:
            raise NomulError("the prompt is empty; give at least one character")
        return np.frombuffer(text, np.uint8).astype(np.int64)

    def decode_bytes(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """Bytes of token ids; of none, nothing."""
        ids = ids if isinstance(ids, np.ndarray) else list(ids)
        return check_ids(ids, self.vocab).astype(np.uint8).tobytes() if len(ids) else b""

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def decoder(self) -> TextDecoder:
        """A decoder for tokens as they come."""
        return TextDecoder()


def tokenizer(kind: str, *, vocab: int) -> ByteTokenizer:
    """The tokenizer of a kind, as the header of a model file names it.

    Raises
    ------
    NomulError
        If the kind is unknown or does not go with the vocabulary.
    """
    if kind != ByteTokenizer.kind:
        raise NomulError(f"tokenizer {str(kind)[:_SHOWN]!r} is unknown; this nomul has: 'bytes'")
    return ByteTokenizer(vocab=vocab)
