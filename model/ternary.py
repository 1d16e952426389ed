# SPDX-License-Identifier: Apache-2.0
"""Ternary weights: ternarisation, and five trits to a byte.

The byte code is the trit block of ASTC's integer sequence encoding (Khronos Data Format
Specification, section "Integer Sequence Encoding"): 3⁵ = 243 of the 256 byte values, chosen so that a
byte decodes with a handful of gates. A trit is stored as 0 → 0, 1 → +1, 2 → -1, so five zeros are byte 0.
A weight byte is meant to be a table address first (see ``docs/units/table-engine.md``); the cheap decode
serves the engine that selects and adds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["DECODE", "ENCODE", "TRITS_PER_BYTE", "Ternary", "pack", "shares", "ternarise", "unpack", "valid_codes"]

TRITS_PER_BYTE = 5


def _decode(byte: int) -> tuple[int, int, int, int, int]:
    """The five stored digits (0, 1, 2) of a byte, as ASTC defines them."""
    bit = [byte >> k & 1 for k in range(8)]
    if bit[4] & bit[3] & bit[2]:
        c = [bit[0], bit[1], bit[5], bit[6], bit[7]]
        t4 = t3 = 2
    else:
        c = bit[:5]
        if bit[6] & bit[5]:
            t4, t3 = 2, bit[7]
        else:
            t4, t3 = bit[7], bit[6] << 1 | bit[5]
    if c[1] & c[0]:
        t2, t1, t0 = 2, c[4], c[3] << 1 | (c[2] & ~c[3] & 1)
    elif c[3] & c[2]:
        t2, t1, t0 = 2, 2, c[1] << 1 | c[0]
    else:
        t2, t1, t0 = c[4], c[3] << 1 | c[2], c[1] << 1 | (c[0] & ~c[1] & 1)
    return t0, t1, t2, t3, t4


_VALUE = np.array([0, 1, -1], dtype=np.int8)

#: Trits of each byte, int8 ``[256, 5]``; the 13 bytes outside the code decode to trits that another one has.
DECODE: np.ndarray = _VALUE[np.array([_decode(byte) for byte in range(256)])]
DECODE.setflags(write=False)


def _encode() -> np.ndarray:
    code = np.full(243, -1, dtype=np.int16)
    keys = (DECODE.astype(np.int64) % 3) @ (3 ** np.arange(5))
    for byte in range(255, -1, -1):  # the smallest byte of each combination wins
        code[keys[byte]] = byte
    return code.astype(np.uint8)


#: Byte of each combination of trits, uint8 ``[243]``, indexed by ``Σ (trit mod 3)·3ᵏ``.
ENCODE: np.ndarray = _encode()
ENCODE.setflags(write=False)

_BLOCK = 1 << 20  # elements that are worked on at a time
_KNOWN = np.zeros(256, dtype=bool)
_KNOWN[ENCODE] = True

# Byte by Σ (trit + 1)·3ᵏ, which takes no remainders.
_SHIFTED = np.empty(243, dtype=np.uint8)
_SHIFTED[(DECODE[ENCODE].astype(np.int64) + 1) @ 3 ** np.arange(5)] = ENCODE


@dataclass(frozen=True, kw_only=True)
class Ternary:
    """A ternary matrix and its scale: ``W ≈ trits · scale``.

    Attributes
    ----------
    trits : ndarray of int8, shape ``[out, in]``
        -1, 0 or +1.
    scale : float
        ``1/s`` of the specification: ``max(mean|W|, 1e-5)``.
    """

    trits: np.ndarray
    scale: float


def _blocks(values: np.ndarray) -> Iterator[slice]:
    """Slices of the first axis that bound what temporary arrays take."""
    rows = len(values)
    step = max(1, _BLOCK * rows // max(values.size, 1))
    return (slice(n, n + step) for n in range(0, rows, step))


def ternarise(weight: np.ndarray) -> Ternary:
    """Rounds a weight matrix to trits, once and offline, in float32 as the reference does.

    ``s = 1/max(mean|W|, 1e-5)``, ``t = clamp(round(W·s), -1, 1)``, half to even (model specification, BitLinear).

    Parameters
    ----------
    weight : ndarray of float32, shape ``[out, in]``
    """
    weight = np.asarray(weight, dtype=np.float32)
    mean = np.float32(max(np.abs(weight).mean(dtype=np.float32), np.float32(1e-5)))
    s = np.float32(1.0) / mean
    trits = np.empty(weight.shape, dtype=np.int8)
    for rows in _blocks(weight):
        trits[rows] = np.clip(np.rint(weight[rows] * s), -1, 1)
    return Ternary(trits=trits, scale=float(np.float32(1.0) / s))


def pack(trits: np.ndarray) -> np.ndarray:
    """Packs trits along the last axis, five to a byte; a last group that is short is filled with zeros.

    Parameters
    ----------
    trits : ndarray of int8, shape ``[..., n]``

    Returns
    -------
    ndarray of uint8, shape ``[..., ceil(n / 5)]``
    """
    trits = np.asarray(trits)
    n = trits.shape[-1]
    flat = trits.reshape(math.prod(trits.shape[:-1]), n)
    code = np.empty((len(flat), -(-n // TRITS_PER_BYTE)), dtype=np.uint8)
    for rows in _blocks(flat):
        part = flat[rows]
        if part.size and (part.min() < -1 or part.max() > 1):
            least, most = min(part.min(), 0), max(part.max(), 0)
            raise ValueError(f"trits are -1, 0 and 1, not {int(least)}..{int(most)}")
        key = np.full((len(part), code.shape[1]), 121, dtype=np.int16)  # five zeros
        for k in range(TRITS_PER_BYTE):
            column = part[:, k::TRITS_PER_BYTE]
            key[:, : column.shape[1]] += column * np.int16(3**k)
        code[rows] = _SHIFTED[key]
    return code.reshape(*trits.shape[:-1], code.shape[1])


def unpack(code: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` trits along the last axis of packed bytes; the inverse of :func:`pack`.

    Parameters
    ----------
    code : ndarray of uint8, shape ``[..., ceil(n / 5)]``
    n : int
        Trits wanted.

    Returns
    -------
    ndarray of int8, shape ``[..., n]``
    """
    code = np.asarray(code, dtype=np.uint8)
    return DECODE[code].reshape(*code.shape[:-1], code.shape[-1] * TRITS_PER_BYTE)[..., :n]


def valid_codes(code: np.ndarray) -> bool:
    """Whether every byte is one that :func:`pack` makes."""
    flat = np.asarray(code).reshape(-1)
    return all(bool(_KNOWN[flat[part]].all()) for part in _blocks(flat))


def shares(code: np.ndarray, n: int) -> tuple[float, float, float]:
    """Shares of -1, 0 and +1 among packed trits.

    Parameters
    ----------
    code : ndarray of uint8, shape ``[rows, ceil(n / 5)]``, as :func:`pack` makes it
    n : int
        Trits of a row.
    """
    flat = code.reshape(-1)
    bytes_of = np.zeros(256, dtype=np.int64)
    for part in _blocks(flat):
        bytes_of += np.bincount(flat[part], minlength=256)
    minus, plus = (int(bytes_of @ np.equal(DECODE, t).sum(axis=1)) for t in (-1, 1))
    total = len(code) * n
    return minus / total, (total - minus - plus) / total, plus / total
