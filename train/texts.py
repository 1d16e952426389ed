# SPDX-License-Identifier: Apache-2.0
"""A corpus as a run sees it: the tokens of its parts, and the held-out text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.tokenizer import BEGIN, ByteTokenizer
from nomul.sim.evaluate import text_pieces, text_segments

from .config import TrainConfig
from .data import load_corpus, standard_library
from .packages import load_parts
from .processes import Processes
from .tokens import coder_of, encode_text, train_tokenizer

__all__ = ["Texts", "read_corpus", "tokenizer_texts"]

_SAMPLE = 16 << 20  # bytes of each part that a tokenizer is trained on


def read_corpus(folder: Path | None) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Texts by part, ``held_out`` among them, and the manifest.

    Raises
    ------
    NomulError
        If the folder is missing, empty, unreadable, or not what its manifest says.
    """
    if folder is not None and not folder.is_dir():
        raise NomulError(f"{folder}: no such folder; make a corpus with 'python -m nomul.train.packages'")
    if folder is not None and not list(folder.glob("library.bin.xz")):
        return load_parts(folder)
    corpus = standard_library() if folder is None else load_corpus(folder)
    return {name: getattr(corpus, name).tobytes() for name in ("library", "tests", "held_out")}, corpus.manifest()


def tokenizer_texts(parts: dict[str, bytes]) -> list[str]:
    """What a tokenizer is trained on: the documents of each part but ``held_out``, evenly thinned out."""
    texts = []
    for name, text in parts.items():
        if name != "held_out":
            every = -(-len(text) // _SAMPLE)
            texts += [d.decode() for d in text.split(bytes([BEGIN]))[1::every] if _decodes(d)]
    return texts


def _decodes(document: bytes) -> bool:
    try:
        document.decode()
    except UnicodeDecodeError:
        return False
    return True


def _place_tokenizer(path: Path, config: TrainConfig, texts: dict[str, bytes], keep: bool) -> None:
    """Copies the tokenizer that the configuration names, or trains one; or keeps the one that is there."""
    if keep and path.is_file():
        return
    if config.tokenizer:
        source = Path(config.tokenizer) / path.name
        try:
            path.write_bytes(source.read_bytes())
        except OSError as error:
            raise NomulError(f"{source}: {error.strerror}; set tokenizer to the folder of a {path.name}") from None
    else:
        train_tokenizer(tokenizer_texts(texts), config.vocab, path)


class Texts:
    """A corpus in tokens.

    Parameters
    ----------
    config : TrainConfig
        Says which tokens; ``folder`` gets the tokenizer that it names, or one that is trained.
    corpus : Path or None
        See :func:`read_corpus`.
    folder : Path
    run : Processes
    keep : bool
        Keep the tokenizer of an earlier run that is in ``folder``, to go on with it.

    Attributes
    ----------
    parts : dict of str to ndarray of uint16
        Training tokens.
    coder : ByteTokenizer or FileTokenizer
    tokenizer : Path or None
        The file of the latter.
    manifest : dict
    identity : str
        SHA-256 of manifest and tokenizer.

    Raises
    ------
    NomulError
        If corpus or tokenizer cannot be read, or a part is missing or empty.
    """

    def __init__(
        self, config: TrainConfig, corpus: Path | None, folder: Path, run: Processes, *, keep: bool = False
    ):
        texts, self.manifest = read_corpus(corpus)
        held_out = texts.pop("held_out", b"")
        if not held_out or not (texts.get("packages") or texts.get("library")):
            raise NomulError(f"{corpus or 'standard library'}: its part held_out, or both packages and library, are "
                             f"missing or empty; make the corpus again")
        self.tokenizer = folder / "tokenizer.json" if config.vocab != 256 else None
        if self.tokenizer and run.first:
            _place_tokenizer(self.tokenizer, config, texts, keep)
        run.wait()
        self.coder, vocab = coder_of(folder if self.tokenizer else None)
        if vocab > config.vocab:
            raise NomulError(f"{self.tokenizer}: has {vocab} tokens, the model {config.vocab}; set vocab")
        if not isinstance(self.coder, ByteTokenizer):
            texts = {name: b"\0".join(d for d in text.split(b"\0") if _decodes(d)) for name, text in texts.items()}
        self.parts = {name: encode_text(text, self.coder) for name, text in texts.items() if text}
        self.bytes_per_token = {name: round(len(texts[name]) / len(tokens), 4) for name, tokens in self.parts.items()}
        self._held_out = text_segments(held_out, self.coder)
        self._sizes = [len(piece) for piece in text_pieces(held_out, self.coder)]
        digest = hashlib.sha256(json.dumps(self.manifest, sort_keys=True).encode())
        if self.tokenizer:
            digest.update(self.tokenizer.read_bytes())
        self.identity = digest.hexdigest()

    @property
    def line(self) -> str:
        """What was read."""
        return ", ".join(f"{name} {len(tokens) / 1e6:.2f} M tokens" for name, tokens in self.parts.items())

    def held_out(self, count: int = 0) -> tuple[list[np.ndarray], int]:
        """Tokens of held-out segments and the bytes in them: all, or about ``count`` evenly spread ones."""
        every = len(self._held_out) // count if count else 1
        chosen = slice(None, None, max(1, every))
        return self._held_out[chosen], sum(self._sizes[chosen])
