# SPDX-License-Identifier: Apache-2.0
"""Boards as commands see them: the simulated one, built when needed, or one at a port."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from nomul.host.boards import Boards
from nomul.host.connection import Connection
from nomul.host.deployment import Deployment
from nomul.host.driver import Board
from nomul.host.generating import Generating
from nomul.host.transport import Transport, open_transport
from nomul.hw.dram.boards import DramBoard
from nomul.model.core_config import CoreConfig
from nomul.model.counters import COUNTER_BYTES, Counter, counter_words
from nomul.model.dram_control import DramControl
from nomul.model.errors import NomulError
from nomul.model.manifest import Manifest
from nomul.model.program import Image
from nomul.model.protocol import Region
from nomul.model.streamed_config import StreamedConfig
from nomul.sim.board import BoardProcess, build_board

__all__ = ["SimulatedEngine", "built_board", "connected", "counters", "lane_logits", "open_board", "several"]

Progress = Callable[[int, int], None]

_PORT_PATIENCE_S = 5.0
_SENT = 1 << 20  # bytes of a model that a simulated board is sent; more are in its memory from the start
_PATIENCE_S = 30.0  # for a slow simulation; and for work that is begun anew when a board is lost


def _quiet(done: int, total: int) -> None:
    """No progress bar."""


def built_board(
    config: CoreConfig | StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[bytes, Path]:
    """Design and program of a simulated board; with the memory of a board, if one is named."""
    from nomul.hw.build.design import design_hash, design_verilog

    design = design_hash(config)  # before the minutes of compiling, in which sources may change
    if isinstance(config, CoreConfig):
        return design, build_board(design_verilog(config), progress=say)
    from nomul.sim.board.streamed import build_streamed_board

    return design, build_streamed_board(config, dram=dram, progress=say)


@contextmanager
def connected(
    name: str,
    image: Image,
    config: CoreConfig | StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = _quiet,
    patience_s: float | None = None,
    manifest: Manifest | None = None,
) -> Iterator[tuple[Connection, BoardProcess | None]]:
    """A board with an image loaded: ``"sim"``, perhaps with the memory of a board, or the name of one.

    ``manifest``: of what that one runs, if it is here.
    """
    with ExitStack() as stack:
        process: BoardProcess | None = None
        design: bytes | None = None
        control: DramControl | None = None
        if name == "sim":
            config.check(image)  # before the minutes of compiling
            design, program = built_board(config, dram=dram, say=say)
            process = stack.enter_context(_process(program, image, say))
            patience_s = patience_s or _PATIENCE_S
        else:
            design, control = _known(config, manifest)
        deployment = Deployment.of(image, config, design=design, control=control)

        def connect() -> Transport:
            if process is None:
                return open_transport(name)
            return _to_process(process)

        connection = Connection(
            connect, deployment, patience_s=patience_s or _PORT_PATIENCE_S, progress=progress
        )
        yield stack.enter_context(connection), process


@contextmanager
def several(
    names: Sequence[str],
    images: Sequence[Image],
    config: StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = _quiet,
    manifest: Manifest | None = None,
) -> Iterator[tuple[Boards, list[BoardProcess]]]:
    """Boards with the sections of a model loaded, as :func:`connected` names them; those that are simulated."""
    with ExitStack() as stack:
        processes = []
        connects: list[str | Callable[[], Transport]] = []
        program: Path | None = None
        design, control = _known(config, manifest)
        for name, image in zip(names, images, strict=True):
            if name != "sim":
                connects.append(name)
                continue
            if program is None:
                design, program = built_board(config, dram=dram, say=say)
            processes.append(stack.enter_context(_process(program, image, say)))
            connects.append(partial(_to_process, processes[-1]))
        deployments = [Deployment.of(image, config, design=design, control=control) for image in images]
        patience = _PATIENCE_S if processes else _PORT_PATIENCE_S
        boards = Boards(connects, deployments, patience_s=patience, progress=progress)
        yield stack.enter_context(boards), processes


def _process(program: Path, image: Image, say: Callable[[str], None]) -> BoardProcess:
    """A simulated board. A large model is in its memory from the start: the host finds it there and sends nothing."""
    if image.map is None or image.map.image_bytes <= _SENT:
        return BoardProcess(program)
    from nomul.sim.streamed.run import write_image

    size = image.map.image_bytes / 1e6
    with TemporaryDirectory(prefix="nomul-") as folder:
        file = Path(folder) / "memory"
        write_image(image, file)
        say(
            f"the simulated board has the model's {size:.1f} MB in its memory from the start: its link would take "
            f"{20 * size:,.0f} M cycles; every byte is checked through it"
        )
        return BoardProcess(program, memory=file)


def _known(
    config: CoreConfig | StreamedConfig, manifest: Manifest | None
) -> tuple[bytes | None, DramControl | None]:
    """Design of a board, and what it takes to bring its memory up: as its bitstream's manifest says.

    Without one the hash of the core's design and, without Amaranth, none: then sizes are compared, the design is not.
    """
    if manifest is not None:
        memory = manifest.memory
        return bytes.fromhex(manifest.design), None if memory is None else DramControl.from_dict(memory)
    try:
        from nomul.hw.build.design import design_hash
    except ModuleNotFoundError:
        return None, None
    return design_hash(config), None


def _to_process(process: BoardProcess) -> Transport:
    """The byte stream to a simulated board."""
    if not process.alive:
        raise NomulError("simulated board: it has ended; begin again")
    return open_transport(process.port)


@contextmanager
def open_board(
    name: str,
    image: Image,
    config: CoreConfig | StreamedConfig,
    *,
    dram: DramBoard | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = _quiet,
    manifest: Manifest | None = None,
) -> Iterator[tuple[Board, BoardProcess | None]]:
    """The same for those who need only the board."""
    with connected(
        name, image, config, dram=dram, say=say, progress=progress, patience_s=_PATIENCE_S, manifest=manifest
    ) as (connection, process):
        yield connection.board, process


def counters(board: Board) -> dict[str, int]:
    """The core's counters of the latest token."""
    words = counter_words(board.identity.lanes)
    raw = board.read(Region.COUNTERS.base, words * COUNTER_BYTES)
    values = struct.unpack(f"<{words}I", raw)
    return {c.name.lower(): values[c] for c in Counter if c is not Counter.LOGIT_SCALE}


def lane_logits(board: Generating) -> Callable[[int], np.ndarray]:
    """What reads the float logits ``[V]`` of a lane after a step in which they were wanted."""
    return lambda lane: board.logits(board.vocab, lane=lane) * board.logit_scale(lane)


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
                    out[t] = board.logits(vocab) * board.logit_scale()
                yield out
