# SPDX-License-Identifier: Apache-2.0
"""The tokenizer of a published checkpoint: its ``tokenizer.json``, read by the library ``tokenizers``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NomulError
from .tokenizer import check_ids

__all__ = ["FileDecoder", "FileTokenizer"]

_FILE = "tokenizer.json"
_UNFINISHED = "\ufffd"  # a character whose bytes have not all come


class FileDecoder:
    """Text of tokens as they come: what a token adds, as soon as its characters are whole."""

    def __init__(self, tokenizer: FileTokenizer):
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = ""

    def feed(self, token: int) -> str:
        """The text that one more token completes, often a word."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(_UNFINISHED) else self._added(text)

    def finish(self) -> str:
        """What is left at the end; the decoder may then be used anew."""
        rest = self._added(self._tokenizer.decode(self._ids))
        self._ids, self._shown = [], ""
        return rest

    def _added(self, text: str) -> str:
        rest, self._shown = text[len(self._shown) :], text
        return rest


class FileTokenizer:
    """Text to token ids and back by a ``tokenizer.json``.

    Parameters
    ----------
    folder : Path
        Where it lies: a checkpoint's folder, or that of a model file.
    vocab : int
        Vocabulary of the model.

    Attributes
    ----------
    begin, end : int
        Tokens before and after every text, ``<s>`` and ``</s>``.

    Raises
    ------
    NomulError
        If the file is missing, is no tokenizer, or does not go with the model; or if the library is
        not installed.
    """

    kind = _FILE

    def __init__(self, folder: Path, *, vocab: int):
        path = folder / _FILE
        if not path.is_file():
            raise NomulError(
                f"{path}: no such file; copy it from the checkpoint (nomul eval --ids takes token ids)"
            )
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise NomulError(
                f"{path}: the library tokenizers is missing; pip install 'nomul[tokenizer]' "
                "(nomul eval --ids takes token ids)"
            ) from None
        try:
            self._inner: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises no narrower class
            reason = " ".join(str(error).split())[:80]
            raise NomulError(f"{path}: no tokenizer can be read: {reason}; copy it again") from None
        size = self._inner.get_vocab_size()
        if size > vocab:
            raise NomulError(
                f"{path}: has {size} tokens, the model {vocab}; use the tokenizer of its checkpoint"
            )
        self.vocab = vocab
        self.begin, self.end = self._special(path, "<s>"), self._special(path, "</s>")

    def _special(self, path: Path, text: str) -> int:
        token = self._inner.token_to_id(text)
        if token is None:
            raise NomulError(f"{path}: has no token {text}; use the tokenizer of the checkpoint")
        return int(token)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of a prompt, int64 ``[n]``, without :attr:`begin`.

        Raises
        ------
        NomulError
            If it is empty or no UTF-8.
        """
        try:
            whole = text.decode() if isinstance(text, bytes) else text
            whole.encode()
        except UnicodeError:
            raise NomulError("the prompt is no valid Unicode; give valid text or token ids") from None
        ids = self._inner.encode(whole, add_special_tokens=False).ids if whole else []
        if not ids:
            raise NomulError("the prompt is empty; give at least one character")
        return np.array(ids, dtype=np.int64)

    def encode_many(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each of many texts, int64 ``[n]``; of an empty one, none."""
        coded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int64) for each in coded]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """Text of token ids; of none, nothing."""
        ids = ids if isinstance(ids, np.ndarray) else list(ids)
        return str(self._inner.decode(check_ids(ids, self.vocab).tolist())) if len(ids) else ""

    def decoder(self) -> FileDecoder:
        """A decoder for tokens as they come."""
        return FileDecoder(self)
