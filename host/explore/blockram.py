# SPDX-License-Identifier: Apache-2.0
"""Block RAMs that yosys makes of a memory with a read and a write port, as its ``memory_libmap`` decides it."""

from __future__ import annotations

from functools import cache

__all__ = ["block_rams"]

#: Words and width of the modes of a DP16KD with two ports; then the one that has a port for each direction.
_MODES = ((16384, 1), (8192, 2), (4096, 4), (2048, 9), (1024, 18))
_WIDE = (512, 36)
_BYTE = 9
# What yosys weighs: a block RAM, a LUT RAM of 16 words of 4 bits, a multiplexer's or demultiplexer's input.
_BLOCK, _LUT, _MUX = 128.0, 4.0, 0.5
_LUT_WORDS, _LUT_WIDTH = 16, 4


def _up(value: int, step: int) -> int:
    return -(-value // step)


@cache
def block_rams(depth: int, width: int, *, forced: bool, both: bool = False) -> int:
    """Block RAMs of a memory; 0 if it becomes LUT RAM.

    Parameters
    ----------
    depth, width : int
        Words, bits. Bits of a byte that is written for itself count as 9.
    forced : bool
        It is marked as a block RAM, however small.
    both : bool
        A port both reads and writes, so that the widest mode is out.
    """
    found = []
    for words, bits in (*_MODES, *(() if both else (_WIDE,))):
        columns, rest = divmod(width, bits)
        banks = _up(depth, words)
        count = columns * banks
        if rest:  # of the last column as many bytes as are needed, in powers of two
            part = 1
            while 2 * part <= bits // _BYTE and rest * 2 * part <= bits:
                part *= 2
            count += _up(depth, words * part)
        found.append((_BLOCK * count + _chosen(banks, width), count))
    score, least = min(found)
    if forced:
        return least
    banks = _up(depth, _LUT_WORDS)
    logic = _LUT * banks * _up(width, _LUT_WIDTH) + _chosen(banks, width)
    return 0 if logic < score else least


def _chosen(banks: int, width: int) -> float:
    """What it weighs to choose among banks."""
    return _MUX * ((banks - 1) * width + banks) if banks > 1 else 0.0
