# SPDX-License-Identifier: Apache-2.0
"""Ternary matrices as 32-bit words that GPU kernels take apart four trits at a time.

A row of ``K`` trits is cut into as many *planes* as a byte holds trits; byte ``c`` of the row holds
the trits ``c``, ``c + 4W``, ``c + 2·4W`` … of it, ``W`` words a row. So one plane of a word meets four
activations that lie side by side, and an operation on the word decodes four trits.

======  ======  ==========================================================================
format  planes  a byte
======  ======  ==========================================================================
two     4       ``Σ (t + 1) · 4ˢ``: 2 bits a trit
five    5       ``⌈v · 256/243⌉``, ``v = Σ (t + 1) · 3⁴⁻ˢ``: 1.6 bits; three times the byte has
                the first trit in bits 8 and 9 and the rest of the byte in bits 7:0
======  ======  ==========================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nomul.model.errors import NomulError
from nomul.model.ternary import DECODE

__all__ = ["FORMATS", "PackedMatrix", "pack", "random_matrix", "unpack"]

#: Trits of a byte, by the name of the format.
FORMATS = {"two": 4, "five": 5}


@dataclass(frozen=True, kw_only=True)
class PackedMatrix:
    """A ternary matrix.

    Attributes
    ----------
    words : Tensor of int32, shape ``[outputs, W]``
    inputs : int
    planes : int
        4 or 5.
    """

    words: Tensor
    inputs: int
    planes: int

    @property
    def outputs(self) -> int:
        """Number of rows."""
        return self.words.shape[0]

    @property
    def padded(self) -> int:
        """Activations that a row of words meets; those beyond ``inputs`` are zeros."""
        return 4 * self.planes * self.words.shape[1]

    @property
    def bytes(self) -> int:
        """Bytes of the words."""
        return 4 * self.words.numel()


def _byte_table(planes: int) -> np.ndarray:
    """Byte of each combination of ``t + 1``, first trit most significant in base 3."""
    v = np.arange(3**planes)
    digits = v[:, None] // 3 ** np.arange(planes - 1, -1, -1) % 3
    if planes == 4:
        return (digits << 2 * np.arange(4)).sum(1).astype(np.uint8)
    return (-(-v * 256 // 243)).astype(np.uint8)


def _planes(name: str) -> int:
    if name not in FORMATS:
        raise NomulError(f"packed: no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def pack(code: np.ndarray, inputs: int, format: str, device: torch.device) -> PackedMatrix:
    """Packs what a model file holds, 256 rows at a time.

    Parameters
    ----------
    code : ndarray of uint8, shape ``[outputs, ceil(inputs / 5)]``
        As :func:`nomul.model.ternary.pack` makes it.
    inputs : int
    format : str
        Of :data:`FORMATS`.
    device : torch.device
    """
    planes = _planes(format)
    words = -(-inputs // (4 * planes))
    table, weights = _byte_table(planes), 3 ** np.arange(planes - 1, -1, -1)
    made = torch.empty(len(code), words, dtype=torch.int32, device=device)
    for n in range(0, len(code), 256):
        digits = np.ones((len(code[n : n + 256]), 4 * planes * words), dtype=np.int64)  # 1: a zero trit
        digits[:, :inputs] += DECODE[code[n : n + 256]].reshape(len(digits), -1)[:, :inputs]
        value = np.einsum("rsc,s->rc", digits.reshape(len(digits), planes, -1), weights)
        made[n : n + 256] = torch.from_numpy(table[value].view(np.int32))
    return PackedMatrix(words=made, inputs=inputs, planes=planes)


def random_matrix(
    outputs: int, inputs: int, format: str, device: torch.device, generator: torch.Generator
) -> PackedMatrix:
    """Uniformly random trits, made where they will lie."""
    planes = _planes(format)
    words = -(-inputs // (4 * planes))
    table = torch.from_numpy(_byte_table(planes)).to(device)
    made = torch.empty(outputs, words, dtype=torch.int32, device=device)
    for part in made.split(4096):
        value = torch.randint(len(table), (len(part), 4 * words), device=device, generator=generator)
        part.copy_(table[value].view(torch.int32))
    return PackedMatrix(words=made, inputs=inputs, planes=planes)


def unpack(matrix: PackedMatrix) -> Tensor:
    """Trits, int8 ``[outputs, padded]``; beyond ``inputs`` they mean nothing."""
    byte = matrix.words.contiguous().view(torch.uint8).to(torch.int32)
    planes = []
    for s in range(matrix.planes):
        if matrix.planes == 4:
            planes.append(byte >> 2 * s & 3)
        else:
            byte = byte * 3
            planes.append(byte >> 8)
            byte = byte & 255
    return (torch.stack(planes, 1) - 1).to(torch.int8).flatten(1)
