# SPDX-License-Identifier: Apache-2.0
"""Trits out of words, four at a time, and their products with activations.

In assembly, because a compiler sees bytes where the machine has words: one shift and one mask give
four trits, one ``dp4a`` four products. Without a GPU (``TRITON_INTERPRET=1``) plain operations do the
same, slowly.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

__all__ = ["ASSEMBLY", "plane_dot", "trits"]

#: Whether kernels may hold assembly: not where Triton interprets them.
ASSEMBLY = os.environ.get("TRITON_INTERPRET", "0") != "1"


@triton.jit
def _byte(word, k):  # type: ignore[no-untyped-def]
    return (word >> (8 * k)) & 255


@triton.jit
def _digit(byte, s, PLANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """``t + 1`` of plane ``s`` of a byte, int32."""
    if PLANES == 4:
        return (byte >> (2 * s)) & 3
    for _ in range(s):
        byte = (byte * 3) & 255
    return (byte * 3) >> 8


_TWO = tl.constexpr("""{
    .reg .b32 c;
    and.b32 c, $1, 0x03030303;
    dp4a.s32.s32 $0, c, $2, 0;
    shr.u32 c, $1, 2;
    and.b32 c, c, 0x03030303;
    dp4a.s32.s32 $0, c, $3, $0;
    shr.u32 c, $1, 4;
    and.b32 c, c, 0x03030303;
    dp4a.s32.s32 $0, c, $4, $0;
    shr.u32 c, $1, 6;
    and.b32 c, c, 0x03030303;
    dp4a.s32.s32 $0, c, $5, $0;
}""")

# Even and odd bytes in halves of 16 bits; three times a half has the digit in bits 9:8.
_START = """{
    .reg .b32 e, o, f, g, c, d;
    and.b32 e, $1, 0x00ff00ff;
    shr.u32 o, $1, 8;
    and.b32 o, o, 0x00ff00ff;
    mov.b32 $0, 0;
"""
_STEP = """
    mul.lo.u32 f, e, 3;
    mul.lo.u32 g, o, 3;
    shr.u32 c, f, 8;
    and.b32 c, c, 0x00030003;
    and.b32 d, g, 0x03000300;
    or.b32 c, c, d;
    dp4a.s32.s32 $0, c, $%d, $0;
    and.b32 e, f, 0x00ff00ff;
    and.b32 o, g, 0x00ff00ff;
"""
_FIVE = tl.constexpr(_START + "".join(_STEP % k for k in range(2, 7)) + "}")


@triton.jit
def plane_dot(w, q0, q1, q2, q3, q4, PLANES: tl.constexpr, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """``Σ (t + 1)·q`` of words and the words of activations that their planes meet, int32.

    ``q4`` is read with five planes only.
    """
    if ASM:
        if PLANES == 4:
            return tl.inline_asm_elementwise(_TWO, "=&r,r,r,r,r,r", [w, q0, q1, q2, q3], dtype=tl.int32,
                                             is_pure=True, pack=1)
        return tl.inline_asm_elementwise(_FIVE, "=&r,r,r,r,r,r,r", [w, q0, q1, q2, q3, q4], dtype=tl.int32,
                                         is_pure=True, pack=1)
    total = (w + q0) * 0
    for s in tl.static_range(PLANES):
        q = q0 if s == 0 else (q1 if s == 1 else (q2 if s == 2 else (q3 if s == 3 else q4)))
        for k in tl.static_range(4):
            total += _digit(_byte(w, k), s, PLANES) * ((q << (24 - 8 * k)) >> 24)
    return total


def _plane_of_two(s: int) -> str:
    return f"""{{
    shr.u32 $0, $1, {2 * s};
    and.b32 $0, $0, 0x03030303;
}}"""


def _plane_of_five(s: int) -> str:
    return f"""{{
    .reg .b32 e, o;
    and.b32 e, $1, 0x00ff00ff;
    shr.u32 o, $1, 8;
    and.b32 o, o, 0x00ff00ff;
    mul.lo.u32 e, e, {3**s};
    mul.lo.u32 o, o, {3**s};
    and.b32 e, e, 0x00ff00ff;
    and.b32 o, o, 0x00ff00ff;
    mul.lo.u32 e, e, 3;
    mul.lo.u32 o, o, 3;
    shr.u32 e, e, 8;
    and.b32 e, e, 0x00030003;
    and.b32 o, o, 0x03000300;
    or.b32 $0, e, o;
}}"""


_PLANES_OF_TWO = tl.constexpr(tuple(_plane_of_two(s) for s in range(4)))
_PLANES_OF_FIVE = tl.constexpr(tuple(_plane_of_five(s) for s in range(5)))


@triton.jit
def trits(byte, s: tl.constexpr, PLANES: tl.constexpr, ASM: tl.constexpr):  # type: ignore[no-untyped-def]
    """``t + 1`` of plane ``s`` of bytes, int8."""
    if ASM:
        if PLANES == 4:
            asm: tl.constexpr = _PLANES_OF_TWO[s]
        else:
            asm: tl.constexpr = _PLANES_OF_FIVE[s]  # type: ignore[no-redef]
        return tl.inline_asm_elementwise(asm, "=&r,r", [byte], dtype=tl.int8, is_pure=True, pack=4)
    return _digit(byte.to(tl.int32) & 255, s, PLANES).to(tl.int8)
