# SPDX-License-Identifier: Apache-2.0
"""What each setting of the memory controller gives: bytes on the pins, of their peak, simulated.

``python -m nomul.sim.dram.bench`` simulates LiteDRAM's controllers with their model of memory, checks every word
that they answer, and prints JSON.

=============  ========================================================================================
``linear``     bursts one behind the other, as a model's weights are read
``short``      the same, and after every 64 KB a read of 128 bytes anywhere
``writes``     the same, and after every 64 KB a write of a burst anywhere
=============  ========================================================================================
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nomul.hw.build.tools import build_folder, versions
from nomul.hw.dram.boards import BOARDS, ECPIX5, DramBoard
from nomul.hw.dram.controller import Settings, generate
from nomul.hw.ports import BURST_WORDS
from nomul.model.errors import NomulError

from .build import build_dram
from .process import Access, run_dram

__all__ = ["STEPS", "WORKLOADS", "measure", "workload"]

_SHIPPED = Settings(datasheet=False, ordered=False, postponing=1, bare_refresh=False)
_TIMED = dataclasses.replace(_SHIPPED, datasheet=True)
_ORDERED = dataclasses.replace(_TIMED, ordered=True)

#: Settings by what they show; each is compared with ``tuned``, which is what nomul uses, or with its neighbours.
STEPS: dict[str, Settings] = {
    "as shipped": _SHIPPED,
    "data sheet's timings": _TIMED,
    "crossbar, 16 commands a bank": dataclasses.replace(_TIMED, buffer_depth=16),
    "crossbar, no auto-precharge": dataclasses.replace(_TIMED, auto_precharge=False),
    "crossbar, refreshes by 8": dataclasses.replace(_TIMED, postponing=8),
    "crossbar, without refresh": dataclasses.replace(_TIMED, refresh=False),
    "ordered front end": _ORDERED,
    "ordered, refreshes by 8": dataclasses.replace(_ORDERED, postponing=8),
    "tuned: ordered, by 8, precharged for once": Settings(),
    "tuned, 4 commands a bank": Settings(buffer_depth=4),
    "tuned, 16 commands a bank": Settings(buffer_depth=16),
    "tuned, registered commands": Settings(buffered=True),
    "tuned, no auto-precharge": Settings(auto_precharge=False),
    "tuned, turns four times as long": Settings(read_time=128, write_time=64),
    "tuned, without refresh": Settings(refresh=False),
}

WORKLOADS = ("linear", "short", "writes")

_IMAGE = 16 << 20  # bytes
_STRETCH = 64 << 10  # bytes between interruptions
_SEED = 1


def _image() -> Path:
    """A file of random bytes."""
    path = build_folder("dram") / "random.bin"
    if not path.is_file() or path.stat().st_size != _IMAGE:
        part = path.with_suffix(".part")
        np.random.default_rng(_SEED).integers(0, 256, _IMAGE, dtype=np.uint8).tofile(part)
        part.replace(path)
    return path


def workload(name: str, board: DramBoard, *, size: int) -> Iterator[Access]:
    """Accesses that read the first ``size`` bytes in order, with what interrupts them.

    Interruptions go to the second half of the image, so that they miss the open rows.
    """
    rng = np.random.default_rng(_SEED)
    bursts = size // (BURST_WORDS * board.word_bytes)
    every = _STRETCH // (BURST_WORDS * board.word_bytes)
    half = _IMAGE // 2 // (BURST_WORDS * board.word_bytes)
    for k in range(bursts):
        yield Access(k * BURST_WORDS, BURST_WORDS)
        if name != "linear" and k % every == every - 1:
            words = BURST_WORDS if name == "writes" else 128 // board.word_bytes
            yield Access((half + int(rng.integers(half))) * BURST_WORDS, words, name == "writes")


def measure(
    board: DramBoard, settings: Settings, *, size: int, workloads: tuple[str, ...] = WORKLOADS
) -> dict[str, Any]:
    """Bytes of each workload on the pins, of what they could move in its time.

    Raises
    ------
    NomulError
        If a word is wrong, or the simulation fails.
    """
    controller = generate(board, settings, model=True)
    program = build_dram(controller)
    image = _image()
    contents = np.fromfile(image, dtype=np.uint8).reshape(-1, board.word_bytes)
    found: dict[str, Any] = {}
    cycles, seconds, waiting = 0, 0.0, 0
    for name in workloads:
        accesses = list(workload(name, board, size=size))
        words = sum(access.words for access in accesses)
        writes = _noise(board, sum(access.words for access in accesses if access.write))
        run = run_dram(program, board, accesses, image=image, writes=writes)
        right = np.concatenate([
            contents[a.address : a.address + a.words] for a in accesses if not a.write
        ])
        if not np.array_equal(run.reads, right):
            raise NomulError(f"simulated DRAM: wrong words in {name}, {settings}")
        found[name] = round(words * board.word_bytes / (run.cycles * board.bytes_per_cycle), 4)
        cycles, seconds = cycles + run.cycles, seconds + run.seconds
        waiting = max(waiting, run.waiting)
    return {"efficiency": found, "waiting_words": waiting, "cycles_per_second": round(cycles / seconds)}


def _noise(board: DramBoard, words: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(_SEED).integers(0, 256, (words, board.word_bytes), dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nomul.sim.dram.bench",
        description="What each setting of the memory controller gives, as JSON.",
    )
    parser.add_argument("--board", choices=sorted(BOARDS), default=ECPIX5.name)
    parser.add_argument("--mebibytes", type=int, default=8, help="bytes read, 1 to 8 MiB (default 8)")
    parser.add_argument("--tuned", action="store_true", help="only the settings that nomul uses")
    options = parser.parse_args()
    if not 1 <= options.mebibytes <= _IMAGE >> 21:
        parser.error(f"--mebibytes is {options.mebibytes}; 1 to {_IMAGE >> 21}")
    board = BOARDS[options.board]
    steps = {"tuned": Settings()} if options.tuned else STEPS
    results = []
    try:
        for name, settings in steps.items():
            print(f"{board.name}: {name}", file=sys.stderr)
            found = measure(board, settings, size=options.mebibytes << 20)
            results.append({"step": name, "settings": dataclasses.asdict(settings), **found})
    except NomulError as error:
        sys.exit(f"error: {error}")
    controller = generate(board, model=True)
    print(json.dumps({
        "method": "simulated",
        "board": board.name,
        "part": board.part.name,
        "clock_hz": board.clock_hz,
        "peak_bytes_per_second": board.peak,
        "mebibytes": options.mebibytes,
        "phy": controller.phy,
        "timing": controller.timing,
        "tools": versions() | {"litedram": metadata.version("litedram")},
        "steps": results,
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
