# SPDX-License-Identifier: Apache-2.0
"""Texts as tokens: bytes, or a byte-pair encoding trained for code; streams of windows; judging.

A byte 0x00 stands between documents. With a byte-pair encoding it becomes ``</s><s>``, so that any text,
cut anywhere between characters, has tokens, and the bits of all of them count.

*Held-out bits per byte*: the text is cut into consecutive segments of at most 4096 bytes, at whole
characters; each starts from zero state with the begin token as the context of its first token; the figure
is the sum of −log₂ p over all tokens by the number of bytes. With tokens of one byte that is
:func:`nomul.train.recipe.bits_per_byte`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer
from nomul.model.fold import Model
from nomul.model.tokenizer import BEGIN, ByteTokenizer

from .model import MatMulFreeLM
from .packed import PackedLM, load_weights

__all__ = ["Coder", "Windows", "coder_of", "encode_text", "judged_bits", "judged_bits_integer",
           "train_tokenizer"]  # fmt: skip

Coder = ByteTokenizer | FileTokenizer

_MANY = 2048  # documents that are encoded at a time

# Words with the sign before them; three digits; signs with the line's end and the next line's indentation;
# ends of lines with it; other blanks.
_PIECES = (r" ?[^\s\p{L}\p{N}]+(?:[ \t]*[\r\n]+[ \t]*)?|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
           r"|\s*[\r\n]+[ \t]*|\s+(?!\S)|\s+")


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise NomulError("train: the library tokenizers is missing; pip install 'nomul[tokenizer]'") from None
    return tokenizers


def train_tokenizer(texts: Iterable[str], vocab: int, path: Path) -> None:
    """Trains a byte-pair encoding and writes it as ``tokenizer.json``; ``<s>`` is token 0, ``</s>`` token 1.

    Parameters
    ----------
    texts : iterable of str
    vocab : int
        Tokens, at least 258: two markers and every byte.
    path : Path

    Raises
    ------
    NomulError
        If ``vocab`` is too small, or the library tokenizers is missing.
    """
    if vocab < 258:
        raise NomulError(f"tokenizer: vocab is {vocab}; it must be at least 258, two markers and 256 bytes")
    t = _library()
    inner = t.Tokenizer(t.models.BPE())
    inner.pre_tokenizer = t.pre_tokenizers.Sequence([
        t.pre_tokenizers.Split(t.Regex(_PIECES), "isolated"),
        t.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    inner.decoder = t.decoders.ByteLevel()
    inner.train_from_iterator(texts, t.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(t.pre_tokenizers.ByteLevel.alphabet())))
    inner.save(str(path))


def coder_of(folder: Path | None) -> tuple[Coder, int]:
    """The tokenizer in a folder's ``tokenizer.json`` and its vocabulary, or bytes where there is no folder.

    Raises
    ------
    NomulError
        If the file cannot be read, or the library tokenizers is missing.
    """
    if folder is None:
        return ByteTokenizer(), 256
    inner = _library().Tokenizer
    path = folder / "tokenizer.json"
    try:
        vocab = int(inner.from_file(str(path)).get_vocab_size())
    except Exception as error:  # the library raises no narrower class
        raise NomulError(f"{path}: no tokenizer can be read: {' '.join(str(error).split())[:80]}") from None
    return FileTokenizer(folder, vocab=vocab), vocab


def encode_text(text: bytes, coder: Coder) -> np.ndarray:
    """Tokens of documents, each behind a byte 0x00; uint16 ``[n]``.

    Raises
    ------
    NomulError
        If a document is no UTF-8 where tokens are more than bytes.
    """
    if isinstance(coder, ByteTokenizer):
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        documents = [document.decode() for document in text.split(bytes([BEGIN]))]
    except UnicodeDecodeError as error:
        raise NomulError(f"corpus: a document is no UTF-8 ({error.reason}); leave it out or use bytes") from None
    between = np.array([coder.end, coder.begin], dtype=np.uint16)
    pieces = []
    for first in range(0, len(documents), _MANY):
        for part in coder.encode_many(documents[first : first + _MANY]):
            pieces += [between, part.astype(np.uint16)]
    return np.concatenate(pieces[1:])


class Windows:
    """Windows of tokens of several parts, drawn without repetition until a part is used up.

    What is drawn depends on the seed and on how many windows of each part were drawn before, so a run
    that goes on from a checkpoint sees what it would have seen.

    Parameters
    ----------
    parts : dict of str to ndarray of uint16
        Tokens of each part.
    window : int
        Tokens of a row.
    begin : int
        First context of every row.
    seed : int
    device : torch.device
        Where tokens lie and rows are made.

    Attributes
    ----------
    drawn : dict of str to int
        Windows drawn of each part: the whole state.
    """

    def __init__(self, parts: dict[str, np.ndarray], window: int, begin: int, seed: int, device: torch.device):
        self.window, self.begin, self.seed = window, begin, seed
        self._base, length = {}, 0
        for name, tokens in parts.items():
            if len(tokens) < 2 * window:
                raise NomulError(f"train: part {name!r} has {len(tokens)} tokens; a window of {window} needs "
                                 f"twice as many")
            self._base[name], length = length, length + len(tokens)
        joined = np.concatenate(list(parts.values())).astype(np.int32)
        self._tokens = torch.from_numpy(joined).to(device)
        self._within = torch.arange(window + 1, device=device)
        self._count = {name: len(tokens) // window - 1 for name, tokens in parts.items()}
        self._order: dict[str, tuple[int, np.ndarray, int]] = {}
        self.drawn = dict.fromkeys(parts, 0)

    def epochs(self) -> dict[str, float]:
        """How often each part has been seen."""
        return {name: self.drawn[name] / self._count[name] for name in self.drawn}

    def _starts(self, name: str, count: int) -> list[int]:
        starts = []
        for n in range(self.drawn[name], self.drawn[name] + count):
            epoch, place = divmod(n, self._count[name])
            if name not in self._order or self._order[name][0] != epoch:
                rng = np.random.default_rng([self.seed, epoch, sum(name.encode())])
                self._order[name] = (epoch, rng.permutation(self._count[name]), int(rng.integers(self.window)))
            _, order, shift = self._order[name]
            starts.append(self._base[name] + int(order[place]) * self.window + shift)
        self.drawn[name] += count
        return starts

    def draw(self, step: int, rows: int, shares: dict[str, float], mine: slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets, int64 ``[len(mine), window]`` each.

        Parameters
        ----------
        step : int
            Number of the draw; decides which part a row is of.
        rows : int
            Rows that all processes draw together.
        shares : dict of str to float
            Of the parts.
        mine : slice
            Rows that this process wants of them.
        """
        names = list(self._base)
        p = np.array([shares[name] for name in names])
        which = np.random.default_rng([self.seed, 2**31, step]).choice(len(names), rows, p=p / p.sum())
        starts = np.empty(rows, dtype=np.int64)
        for k, name in enumerate(names):
            starts[which == k] = self._starts(name, int((which == k).sum()))
        at = torch.from_numpy(starts[mine]).to(self._tokens.device, non_blocking=True)
        window = self._tokens[at[:, None] + self._within].long()
        inputs, targets = window[:, :-1].clone(), window[:, 1:].contiguous()
        inputs[:, 0] = self.begin
        return inputs, targets


def _batches(segments: Sequence[np.ndarray], begin: int, rows: int, device: torch.device) -> Iterator[
    tuple[Tensor, Tensor]
]:  # fmt: skip
    """Contexts and targets of segments of like lengths together, int64 ``[S, T]``; −1 where nothing is predicted."""
    order = sorted(range(len(segments)), key=lambda n: len(segments[n]))
    for first in range(0, len(order), rows):
        group = [segments[n] for n in order[first : first + rows]]
        targets = torch.full((len(group), max(map(len, group))), -1)
        for row, segment in enumerate(group):
            targets[row, : len(segment)] = torch.from_numpy(np.asarray(segment, dtype=np.int64))
        targets = targets.to(device)
        yield torch.cat([torch.full_like(targets[:, :1], begin), targets[:, :-1].clamp_min(0)], 1), targets


def _nats(logits: Tensor, targets: Tensor) -> float:
    made = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1, reduction="none")
    return float(made.double().sum())


@torch.no_grad()
def judged_bits(model: MatMulFreeLM, segments: Sequence[np.ndarray], begin: int, *, rows: int = 64,
                window: int = 256) -> float:
    """Sum of −log₂ p over the tokens of segments, each from zero state.

    Parameters
    ----------
    model : MatMulFreeLM
        Judged as it is.
    segments : sequence of ndarray of int64
        As :func:`nomul.sim.evaluate.text_segments` cuts a text.
    begin : int
        Context of a segment's first token.
    rows, window : int
        Segments, and tokens of each, taken at once; no influence on the result.

    Returns
    -------
    float
        Bits.
    """
    total = 0.0
    for inputs, targets in _batches(segments, begin, rows, model.model.lower_bounds.device):
        state = model.initial_state(len(inputs))
        for given, wanted in zip(inputs.split(window, 1), targets.split(window, 1), strict=True):
            logits, state = model(given, state)
            total += _nats(logits, wanted)
    return total / math.log(2)


@torch.no_grad()
def judged_bits_integer(model: Model, segments: Sequence[np.ndarray], begin: int, device: torch.device, *,
                        rows: int = 64, window: int = 64) -> float:
    """As :func:`judged_bits`, by the integers of the golden model.

    Parameters
    ----------
    model : Model
        As a model file holds it.
    segments, begin, rows, window
        As :func:`judged_bits` takes them.
    device : torch.device
    """
    weights, total = load_weights(model, "two", device), 0.0
    for inputs, targets in _batches(segments, begin, rows, device):
        packed = PackedLM(weights, len(inputs))
        for given, wanted in zip(inputs.split(window, 1), targets.split(window, 1), strict=True):
            logits, scale = packed(given.contiguous(), last=False)
            worth = torch.ldexp(scale[..., :1].double(), scale[..., 1:])
            total += _nats(logits * worth, wanted)
    return total / math.log(2)
