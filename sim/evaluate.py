# SPDX-License-Identifier: Apache-2.0
"""Bits per byte and next-token agreement of any engine: float reference, golden model, simulated board.

A text is cut into segments of :data:`SEGMENT` bytes, where tokens are more than bytes at whole characters. Each begins
with cleared state and with the begin token as the first context, so that every engine, however few lanes it has,
computes the same figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer
from nomul.model.program import Image
from nomul.model.tokenizer import BEGIN, ByteTokenizer

from .golden import Golden
from .reference import Reference

__all__ = [
    "SEGMENT",
    "Engine",
    "FloatEngine",
    "GoldenEngine",
    "Result",
    "agreement",
    "evaluate",
    "segment_parts",
    "sequence_parts",
    "text_parts",
    "text_pieces",
    "text_segments",
]

SEGMENT = 4096  #: Bytes of a segment.
_KEPT = 1 << 28  # logits of all lanes that are held at a time
_NOTHING = -1  # target of a position that predicts nothing
_PADDING = -2  # of one that is not there

Parts = Iterable[tuple[np.ndarray, np.ndarray]]


class Engine(Protocol):
    """Anything that turns a sequence of tokens, begun with cleared state, into logits."""

    def logits(self, segments: np.ndarray) -> Iterator[np.ndarray]:
        """For contexts ``[S, T]`` yields, per segment, float logits ``[T, V]``."""


class FloatEngine:
    """The float64 reference."""

    def __init__(self, reference: Reference):
        self._reference = reference

    def logits(self, segments: np.ndarray) -> Iterator[np.ndarray]:
        """See :class:`Engine`."""
        for segment in segments:
            self._reference.reset()
            yield self._reference.forward(segment)


class GoldenEngine:
    """The integer golden model, many segments at a time."""

    def __init__(self, image: Image, *, lanes: int = 64):
        self._image = image
        self._lanes = lanes

    def logits(self, segments: np.ndarray) -> Iterator[np.ndarray]:
        """See :class:`Engine`."""
        vocab = self._image.geometry.vocab
        room = max(1, _KEPT // (segments.shape[1] * vocab))
        lanes = min(self._lanes, room)
        for begin in range(0, len(segments), lanes):
            group = segments[begin : begin + lanes]
            golden = Golden(self._image, lanes=len(group))
            out = np.empty((*group.shape, vocab), dtype=np.float32)
            for t, tokens in enumerate(group.T):
                golden.step(tokens)
                out[:, t] = golden.logits * np.asarray(golden.logit_scale)[:, None]
            yield from out


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an engine made of a text.

    Attributes
    ----------
    tokens : int
        Processed tokens.
    bits_per_token : float
        Mean of ``-log2 p(next)``; bits per byte for a byte vocabulary.
    best : ndarray of int64, shape ``[tokens]``
        Arg-max of every position.
    logits : ndarray of float32, shape ``[tokens, V]``, or None
        Kept on request.
    """

    tokens: int
    bits_per_token: float
    best: np.ndarray
    logits: np.ndarray | None


def text_parts(text: np.ndarray) -> Parts:
    """Segments of a text: ``(contexts [S, T], targets [S, T])``, whole segments together, then the rest."""
    text = np.asarray(text, dtype=np.int64)
    context = np.concatenate([[BEGIN], text[:-1]])
    context[::SEGMENT] = BEGIN
    whole = len(text) // SEGMENT * SEGMENT
    if whole:
        yield context[:whole].reshape(-1, SEGMENT), text[:whole].reshape(-1, SEGMENT)
    if len(text) > whole:
        yield context[None, whole:], text[None, whole:]


def text_pieces(text: bytes, coder: ByteTokenizer | FileTokenizer) -> list[bytes]:
    """The segments of a text: :data:`SEGMENT` bytes, or less where that would cut a token's character."""
    bytewise, pieces, begin = isinstance(coder, ByteTokenizer), [], 0
    while begin < len(text):
        end = min(begin + SEGMENT, len(text))
        while not bytewise and end < len(text) and text[end] & 0xC0 == 0x80:  # inside a character
            end -= 1
        pieces.append(text[begin:end])
        begin = end
    return pieces


def text_segments(text: bytes, coder: ByteTokenizer | FileTokenizer) -> list[np.ndarray]:
    """Tokens of each segment of a text; a byte 0x00, which stands between documents, becomes end and begin.

    Raises
    ------
    NomulError
        If tokens are more than bytes and the text is no UTF-8.
    """
    if isinstance(coder, ByteTokenizer):
        return [np.frombuffer(piece, np.uint8).astype(np.int64) for piece in text_pieces(text, coder)]
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise NomulError(f"the text is no UTF-8 at byte {error.start}: {error.reason}") from None
    between = np.array([coder.end, coder.begin])
    segments = []
    for piece in text_pieces(text, coder):
        first, *others = coder.encode_many(piece.decode().split("\0"))
        segments.append(np.concatenate([first, *(part for other in others for part in (between, other))]))
    return segments


def segment_parts(segments: list[np.ndarray], begin: int) -> Parts:
    """Segments of any lengths, side by side, each behind the begin token."""
    longest = max(map(len, segments))
    contexts = np.full((len(segments), longest), begin)
    targets = np.full((len(segments), longest), _PADDING)
    for row, segment in enumerate(segments):
        contexts[row, 1 : len(segment)] = segment[:-1]
        targets[row, : len(segment)] = segment
    yield contexts, targets


def sequence_parts(tokens: np.ndarray) -> Parts:
    """One sequence as it is, from cleared state: each token predicts the next; the last predicts nothing."""
    tokens = np.asarray(tokens, dtype=np.int64)
    yield tokens[None], np.append(tokens[1:], _NOTHING)[None]


def evaluate(engine: Engine, parts: Parts, *, keep_logits: bool = False) -> Result:
    """Predicts every target of :func:`text_parts`, :func:`segment_parts` or :func:`sequence_parts`.

    Parameters
    ----------
    engine : Engine
    parts : iterable of (contexts, targets)
    keep_logits : bool
        Keep all logits: ``T · V`` floats.
    """
    bits, predicted, best, kept = 0.0, 0, [], []
    for contexts, targets in parts:
        for logits, target in zip(engine.logits(contexts), targets, strict=True):
            there = target != _PADDING
            logits, target = logits[there], target[there]
            wide = logits.astype(np.float64)
            rows = np.flatnonzero(target != _NOTHING)
            top = wide.max(axis=1)
            log_sum = np.log(np.exp(wide - top[:, None]).sum(axis=1)) + top
            bits += float((log_sum[rows] - wide[rows, target[rows]]).sum()) / np.log(2)
            predicted += len(rows)
            best.append(wide.argmax(axis=1))
            if keep_logits:
                kept.append(logits.astype(np.float32))
    return Result(
        tokens=sum(map(len, best)),
        bits_per_token=bits / predicted if predicted else float("nan"),
        best=np.concatenate(best),
        logits=np.concatenate(kept) if keep_logits else None,
    )


def agreement(a: Result, b: Result) -> float:
    """Share of positions at which two engines have the same arg-max."""
    return float((a.best == b.best).mean())
