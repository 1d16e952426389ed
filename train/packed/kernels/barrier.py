# SPDX-License-Identifier: Apache-2.0
"""What it costs that all programs of a kernel wait for each other.

No matrix of a token can begin before all of the vector that it reads is there, and its statistics, so that this, with
the vector written before and read after, bounds from below how fast one text is decoded, however it is done.
"""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl

from nomul.model.errors import NomulError

from ...machine import median_seconds

__all__ = ["barrier_seconds"]

_ROUNDS, _LOOKS = 2000, 1 << 20


@triton.jit
def _arrived(at):  # type: ignore[no-untyped-def]
    return tl.inline_asm_elementwise("ld.acquire.gpu.global.s32 $0, [$1];", "=r,l", [at.to(tl.int64)], dtype=tl.int32,
                                     is_pure=False, pack=1)  # fmt: skip


@triton.jit
def _counted(counter, vector, late, rounds, programs, left, WIDTH: tl.constexpr, SHARE: tl.constexpr,  # type: ignore[no-untyped-def]
             PART: tl.constexpr, ALL: tl.constexpr):
    """``rounds`` barriers; ``WIDTH`` values written before and read after each, none with 0."""
    program = tl.program_id(0)
    total = tl.zeros([ALL], tl.int32)
    k = tl.arange(0, ALL)
    for n in range(rounds):
        half = vector + (n % 2) * WIDTH
        if WIDTH > 0:
            at = program * SHARE + tl.arange(0, PART)
            tl.store(half + at, at + n, mask=(tl.arange(0, PART) < SHARE) & (at < WIDTH))
        tl.debug_barrier()
        tl.atomic_add(counter, 1, sem="release")
        waiting = n * 0 + 1
        while waiting != 0:
            left -= 1
            waiting = tl.where((_arrived(counter) < (n + 1) * programs) & (left > 0), 1, 0)
        tl.debug_barrier()
        if WIDTH > 0:
            total += tl.load(half + k, mask=k < WIDTH, other=0, cache_modifier=".cg")
    tl.store(late, 1, mask=left <= 0)
    if WIDTH > 0:
        wrong = tl.where(k < WIDTH, total - rounds * k - (rounds * (rounds - 1)) // 2, 0)
        tl.store(late, 2, mask=tl.max(tl.abs(wrong), 0) > 0)


def barrier_seconds(device: torch.device, width: int, programs: int, warps: int) -> dict[str, float]:
    """Seconds of a barrier that counts in one word (``alone``), and with a vector of int32 that all write before it
    and all read after it (``with vector``).

    Parameters
    ----------
    device : torch.device
        A CUDA device.
    width : int
        Values of the vector.
    programs : int
        At most what fits on the GPU at once.
    warps : int
        Of a program.

    Raises
    ------
    NomulError
        If a program waited in vain, or read another vector than was written.
    """
    share = -(-width // programs)
    late, counter, vector = (torch.zeros(n, dtype=torch.int32, device=device) for n in (1, 1, 2 * width))

    def work(values: int) -> None:
        counter.zero_()
        _counted[(programs,)](counter, vector, late, _ROUNDS, programs, _LOOKS, WIDTH=values, SHARE=share,
                              PART=triton.next_power_of_2(share), ALL=triton.next_power_of_2(width), num_warps=warps,
                              launch_cooperative_grid=True)  # fmt: skip

    made = {name: median_seconds(partial(work, values), repeats=5, warmup=2) / _ROUNDS
            for name, values in (("alone", 0), ("with vector", width))}
    if int(late):
        raise NomulError("barrier: " + ("a program waited in vain" if int(late) == 1 else "another vector came"))
    return made
