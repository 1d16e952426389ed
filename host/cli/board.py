# SPDX-License-Identifier: Apache-2.0
"""Boards as commands see them: the simulated one, built when needed, or one at a port."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from nomul.host.driver import Board
from nomul.hw.dram.boards import DramBoard
from nomul.model.core_config import CoreConfig
from nomul.model.counters import COUNTER_BYTES, Counter, counter_words
from nomul.model.image import external_regions, regions
from nomul.model.program import Image
from nomul.model.protocol import Region
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess, build_board

__all__ = ["SimulatedEngine", "counters", "lane_logits", "logit_scale", "open_board", "simulated_board"]

Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    """No progress bar."""


@contextmanager
def simulated_board(
    config: CoreConfig | StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[Board, BoardProcess]]:
    """The Verilated core behind its pseudo-terminal, built first if need be; with the memory of a board."""
    from nomul.hw.build.design import design_hash, design_verilog

    design = design_hash(config)  # before the minutes of compiling, in which sources may change
    if isinstance(config, CoreConfig):
        program = build_board(design_verilog(config), progress=say)
    else:
        from nomul.sim.board.streamed import build_streamed_board

        program = build_streamed_board(config, dram=dram, progress=say)
    with (
        BoardProcess(program) as process,
        Board.open(process.port, design=design) as board,
    ):
        yield board, process


@contextmanager
def open_board(
    name: str,
    image: Image,
    config: CoreConfig | StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = _quiet,
) -> Iterator[tuple[Board, BoardProcess | None]]:
    """A board with an image loaded: ``"sim"``, perhaps with the memory of a board, or the name of a port."""
    config.check(image)
    with ExitStack() as stack:
        process: BoardProcess | None = None
        if name == "sim":
            board, process = stack.enter_context(simulated_board(config, dram=dram, say=say))
        else:
            try:
                from nomul.hw.build.design import design_hash
            except ModuleNotFoundError:  # without Amaranth: the sizes are compared, the design is not
                design = None
            else:
                design = design_hash(config)
            board = stack.enter_context(Board.open(name, design=design))
        if isinstance(config, CoreConfig):
            board.load(regions(image, config.weight_beats), progress=progress)
        else:
            board.load(dict(external_regions(image)), progress=progress)
            board.logits_place = config.logits_place(image)
        board.vocab = image.geometry.vocab
        yield board, process


def counters(board: Board) -> dict[str, int]:
    """The core's counters of the latest token."""
    words = counter_words(board.identity.lanes)
    raw = board.read(Region.COUNTERS.base, words * COUNTER_BYTES)
    values = struct.unpack(f"<{words}I", raw)
    return {c.name.lower(): values[c] for c in Counter if c is not Counter.LOGIT_SCALE}


def logit_scale(board: Board, lane: int | None = None) -> float:
    """What a unit of a logit's sum is worth, after the latest token; by default in its lane."""
    word = Counter.LOGIT_SCALE + 2 * (board.logits_lane if lane is None else lane)
    raw = board.read(Region.COUNTERS.base + word * COUNTER_BYTES, 2 * COUNTER_BYTES)
    mantissa, exponent = struct.unpack("<Ii", raw)
    return float(mantissa) * 2.0**exponent


def lane_logits(board: Board) -> Callable[[int], np.ndarray]:
    """What reads the float logits ``[V]`` of a lane after a step in which they were wanted."""
    return lambda lane: board.logits(board.vocab, lane=lane) * logit_scale(board, lane)


class SimulatedEngine:
    """The simulated board as an engine of :mod:`nomul.sim.evaluate`."""

    def __init__(self, image: Image, config: CoreConfig):
        self._image = image
        self._config = config

    def logits(self, segments: np.ndarray) -> Iterator[np.ndarray]:
        """For contexts ``[S, T]`` yields, per segment, float logits ``[T, V]``."""
        vocab = self._image.geometry.vocab
        with open_board("sim", self._image, self._config) as (board, _):
            for segment in segments:
                out = np.empty((len(segment), vocab), dtype=np.float32)
                for t, token in enumerate(segment):
                    board.step(int(token), reset=t == 0)
                    out[t] = board.logits(vocab) * logit_scale(board)
                yield out
