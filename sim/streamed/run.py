# SPDX-License-Identifier: Apache-2.0
"""A program that runs steps of a streamed core, and what came of them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nomul.hw.build.verilog import convert
from nomul.hw.dram.boards import DramBoard
from nomul.hw.ports import TokensLayout
from nomul.hw.streamed.observed import ObservedCore
from nomul.model.counters import Counter, counter_words
from nomul.model.errors import NomulError
from nomul.model.isa import pack_program
from nomul.model.program import Image
from nomul.model.protocol import Region
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.verilate import VCD_HEADER, verilate

from .memory import core_with_memory, memory_files

__all__ = ["Lane", "StreamedSimulation", "TokenResult", "write_image"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What a lane does in a step; see :func:`nomul.hw.ports.TokensLayout`.

    The token :data:`nomul.model.protocol.FEED_BACK` stands for the lane's latest arg-max.
    """

    token: int = 0
    slot: int = 0
    fresh: bool = False
    active: bool = True
    logits: bool = False

    @property
    def word(self) -> int:
        """As the simulation reads it."""
        flags = self.fresh | self.active << 1 | self.logits << 2
        return self.token | self.slot << 16 | flags << 24


@dataclass(frozen=True, kw_only=True)
class TokenResult:
    """What a step gave.

    Attributes
    ----------
    best : list of int
        Arg-max of each lane.
    cycles : int
        From the token offered until the core is idle again.
    words : int
        Read from memory.
    activations : int
        Rows of the memory that were opened; 0 of an ideal one.
    seconds : float
        Wall clock.
    counters : dict
        By :class:`~nomul.model.counters.Counter` in lower case.
    logits : dict
        Int array by lane, of those that wanted them.
    """

    best: list[int]
    cycles: int
    words: int
    activations: int
    seconds: float
    counters: dict[str, int]
    logits: dict[int, np.ndarray]


def write_image(image: Image, file: Path) -> None:
    """The bytes of an image as they lie in memory; what the core writes is left out."""
    assert image.map is not None
    with open(file, "wb") as out:
        program = pack_program(image.program)
        for _, address, part in image.map.parts(program, image.weights, image.embeddings):
            out.seek(address)
            part.tofile(out)
        out.truncate(image.map.image_bytes)


class StreamedSimulation:
    """A core of a configuration, compiled with Verilator.

    Parameters
    ----------
    config : StreamedConfig
    board : DramBoard, optional
        The memory controller of this board, over its model of the memory; by default a memory that gives
        a word in every cycle.
    latency : int
        Cycles from a command to its first word, of that one.
    traced : bool
        Able to write VCD files.
    progress : callable
        Called with a line when long work begins.

    Attributes
    ----------
    verilog : str
        Of the core, in the observer ``core``.
    """

    def __init__(
        self,
        config: StreamedConfig,
        *,
        board: DramBoard | None = None,
        latency: int = 20,
        traced: bool = False,
        progress: Callable[[str], None] = lambda line: None,
    ):
        self.config = config
        self.latency = latency
        defines = {
            "TOKENS": TokensLayout(config.lanes).size, "LANES": config.lanes,
            "WORD": config.word_bytes,
        }  # fmt: skip
        files = memory_files(config, board)
        if board is not None:
            defines["DRAM"] = 1
        head = "".join(f"`define {name} {value}\n" for name, value in defines.items())
        files |= {
            "core.v": convert(ObservedCore(core=core_with_memory(config, board)), "core"),
            "streamed.v": head + (_HERE / "streamed.v").read_text(),
            "main.cpp": (_HERE / "main.cpp").read_text(),
            "config.h": head.replace("`", "#"),
            VCD_HEADER.name: VCD_HEADER.read_text(),
        }
        self.verilog = files["core.v"]
        self._program = verilate(
            "streamed", files, what="simulated core", traced=traced, progress=progress
        )

    def run(
        self,
        image: Image,
        steps: Sequence[Sequence[Lane]],
        *,
        file: Path | None = None,
        trace: Path | None = None,
        vcd: Path | None = None,
        vcd_period: int = 512,
        limit_s: float = 600.0,
        cycles_max: int = 1 << 28,
    ) -> list[TokenResult]:
        """Runs steps, each of one token for every lane, from empty states.

        Parameters
        ----------
        image : Image
        steps : sequence of sequences of Lane
        file : Path, optional
            The image as :func:`write_image` left it; else it is written for this run.
        trace : Path, optional
            Where what the core stores is written.
        vcd : Path, optional
            Where 32 cycles in every ``vcd_period`` are written, one time step a cycle; of a core made ``traced``.
        vcd_period : int
        limit_s : float
            Wall-clock seconds for all of it.
        cycles_max : int
            Most cycles of a step.

        Raises
        ------
        NomulError
            If the core does not finish.
        """
        self.config.check(image)
        assert image.map is not None
        for step in steps:
            if len(step) != self.config.lanes:
                raise NomulError(f"steps: one has {len(step)} lanes, the core {self.config.lanes}")
        settings = [
            self.config.lanes, self.config.word_bytes, self.config.memory_bytes, self.latency,
            cycles_max, Region.COUNTERS.base, counter_words(self.config.lanes),
            *self.config.logits_place(image), image.results, vcd_period,
        ]  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="nomul-") as folder:
            work = Path(folder)
            (work / "settings").write_text("\n".join(map(str, settings)))
            words = np.array([[lane.word for lane in step] for step in steps], dtype="<u4")
            words.tofile(work / "steps")
            if file is None:
                file = work / "image"
                write_image(image, file)
            names = [work / "settings", file, work / "steps", work / "results", trace or "", vcd or ""]
            try:
                done = subprocess.run(
                    [str(self._program), *map(str, names)], stdin=subprocess.DEVNULL,
                    capture_output=True, text=True, timeout=limit_s, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise NomulError(f"simulated core: {len(steps)} steps took more than {limit_s:g} s") from None
            if done.returncode:
                raise NomulError((done.stderr.strip().splitlines() or ["simulated core: it failed"])[-1])
            return [_result(line) for line in (work / "results").read_text().splitlines()]


def _result(line: str) -> TokenResult:
    found = json.loads(line)
    counters = {
        c.name.lower(): found["counters"][c] for c in Counter if c is not Counter.LOGIT_SCALE
    }
    logits = {int(k): np.array(v, dtype=np.int64) for k, v in found.pop("logits").items()}
    del found["counters"]
    return TokenResult(**found, counters=counters, logits=logits)
