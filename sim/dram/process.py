# SPDX-License-Identifier: Apache-2.0
"""Runs the program with the simulated memory once."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nomul.hw.dram.boards import DramBoard
from nomul.hw.ports import BURST_WORDS
from nomul.model.errors import NomulError

__all__ = ["Access", "DramRun", "run_dram"]

_QUIET = 10_000  # cycles without anything happening, far more than a group of refreshes


@dataclass(frozen=True)
class Access:
    """A burst: ``address`` of its first word, number of ``words``, ``write``."""

    address: int
    words: int
    write: bool = False


@dataclass(frozen=True, kw_only=True)
class DramRun:
    """What happened.

    Attributes
    ----------
    reads : ndarray of uint8 [words, word_bytes]
        Words that were read, in order.
    cycles : int
        From the first command that was taken to the last word, both included.
    ready : int
        Cycles until ``ready``.
    waiting : int
        Most words that were asked for and not yet there: the room that a reader at full speed needs.
    messages : list of str
        Of the model: violated timings.
    seconds : float
        On the clock.
    """

    reads: npt.NDArray[np.uint8]
    cycles: int
    ready: int
    waiting: int
    messages: list[str]
    seconds: float


def run_dram(
    program: Path,
    board: DramBoard,
    accesses: Sequence[Access],
    *,
    image: Path,
    writes: npt.NDArray[np.uint8] | None = None,
    stall: float = 0.0,
    seed: int = 1,
    limit_s: int = 300,
) -> DramRun:
    """Sends bursts to the simulated memory.

    Parameters
    ----------
    program : Path
        Of :func:`nomul.sim.dram.build_dram`.
    accesses : sequence of Access
        Within ``BURST_WORDS`` words, aligned to which they must not cross.
    image : Path
        The memory's contents from address 0 on; zeros follow. It is not changed.
    writes : ndarray of uint8 [words, word_bytes], optional
        For the writes among the accesses, in order.
    stall : float
        Probability of a gap before a command or a word.

    Raises
    ------
    NomulError
        If the program fails, or takes longer than ``limit_s`` seconds; with what it said.
    """
    wanted = sum(access.words for access in accesses if access.write)
    given = 0 if writes is None else len(writes)
    if wanted != given:
        raise ValueError(f"run_dram: {wanted} words are written, writes has {given}")
    for access in accesses:
        room = BURST_WORDS - access.address % BURST_WORDS
        if not 1 <= access.words <= room:
            raise ValueError(f"run_dram: {access} is empty or crosses {BURST_WORDS} words")
    pairs = np.array(
        [(a.address, a.words - 1 | a.write << 31) for a in accesses], dtype="<u4"
    ).reshape(-1, 2)
    with tempfile.TemporaryDirectory(dir=program.parent) as name:
        folder = Path(name)
        pairs.tofile(folder / "bursts")
        (folder / "writes").write_bytes(b"" if writes is None else writes.tobytes())
        begin = time.perf_counter()
        try:
            done = subprocess.run(
                [
                    program, str(board.part.capacity), str(board.word_bytes), image.resolve(),
                    "bursts", "writes", "reads", str(round(1024 * stall)), str(seed), str(_QUIET),
                ],
                cwd=folder, capture_output=True, text=True, timeout=limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise NomulError(f"simulated DRAM: not done within {limit_s} s") from None
        seconds = time.perf_counter() - begin
        if done.returncode:
            raise NomulError(f"simulated DRAM: {done.stderr.strip() or done.returncode}")
        *messages, last = done.stdout.strip().splitlines()
        found = json.loads(last)
        reads = np.fromfile(folder / "reads", dtype=np.uint8).reshape(-1, board.word_bytes)
    return DramRun(
        reads=reads,
        cycles=found["last"] - found["first"] + 1,
        ready=found["ready"],
        waiting=found["waiting"],
        messages=messages,
        seconds=seconds,
    )
