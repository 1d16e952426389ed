# SPDX-License-Identifier: Apache-2.0
"""A model as it lies in a board's memory, and what a host has to know to use it there."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nomul.model import image as places
from nomul.model import isa, program
from nomul.model.core_config import CoreConfig
from nomul.model.dram_control import DramControl
from nomul.model.errors import NomulError
from nomul.model.memory_map import BLOCK, STATE_BYTES, state_place
from nomul.model.numbers import SOURCE_BITS
from nomul.model.program import LOGITS_INSTRUCTION, SECTION_BUFFERS
from nomul.model.protocol import EXTERNAL, LaneToken, Region
from nomul.model.streamed_config import StreamedConfig

from .bringup import bring_up, is_up
from .checkup import check_memory
from .driver import Board
from .loading import Image

__all__ = ["Deployment", "Rows", "States"]


@dataclass(frozen=True, kw_only=True)
class States:
    """Where recurrent states lie in external memory.

    Parameters
    ----------
    base : int
        Address of slot 0's.
    stride : int
        Bytes from one slot's to the next.
    size : int
        Bytes of one.
    """

    base: int
    stride: int
    size: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where residual streams lie in external memory: a lane's behind that of the lane before, of two steps.

    Parameters
    ----------
    base, stride : int
        Address of the first, and bytes to the next one.
    size : int
        Bytes of one.
    lanes : int
        Of a step.
    switch : tuple of (int, bytes), a buffer
        Of those behind a section: what has to be written where, so that the next step writes into that buffer.
    """

    base: int
    stride: int
    size: int
    lanes: int
    switch: tuple[tuple[int, bytes], ...] = ()

    def place(self, buffer: int, lane: int) -> int:
        """Address of a lane's."""
        return self.base + (buffer * self.lanes + lane) * self.stride


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A model and a design that go together.

    Parameters
    ----------
    parts : mapping
        Bytes by address: the memory image.
    vocab : int
        What a step takes in a lane is below it; of a section that takes residual streams those are their rows.
    design : bytes, optional
        The 8 bytes of the design; without, any board will do whose memories are large enough.
    logits_base, logits_stride : int, int or None
        See :class:`~nomul.host.driver.Board`.
    states : States, optional
        If a host can read and write them: not where they stay on the chip.
    control : DramControl, optional
        What it takes to bring the memory up, of boards whose host does that.
    takes, gives : Rows, optional
        Residual streams before a step and after it, of a section of a model.
    results : int
        Logits of a lane, or elements of its residual stream.
    """

    parts: Image = field(repr=False)
    vocab: int
    design: bytes | None = None
    logits_base: int = Region.LOGITS.base
    logits_stride: int | None = None
    states: States | None = None
    control: DramControl | None = None
    takes: Rows | None = None
    gives: Rows | None = None
    results: int = 0

    @classmethod
    def of(
        cls,
        image: program.Image,
        config: CoreConfig | StreamedConfig,
        *,
        design: bytes | None = None,
        control: DramControl | None = None,
    ) -> Deployment:
        """What a memory image needs on a core of a configuration.

        Parameters
        ----------
        image : Image
            Compiled for ``config``.
        config : CoreConfig or StreamedConfig
        design : bytes, optional
            From :func:`nomul.hw.build.design.design_hash`.
        control : DramControl, optional
            From the manifest of the board's bitstream.
        """
        vocab = image.tokens
        if isinstance(config, CoreConfig):
            config.check(image)
            return cls(parts=places.regions(image, config.weight_beats), vocab=vocab, design=design, results=vocab)
        found = image.map
        assert found is not None, "an image of a StreamedConfig has a map"
        states = None
        if found.state_stride:
            size = state_place(image.geometry, image.geometry.layers) * STATE_BYTES
            states = States(
                base=EXTERNAL | found.state * BLOCK, stride=found.state_stride * BLOCK, size=size
            )
        base, stride = config.logits_place(image)
        size = image.geometry.hidden * SOURCE_BITS // 8
        takes = gives = None
        if image.section.takes:
            takes = Rows(
                base=EXTERNAL | found.embeddings * BLOCK, stride=image.embeddings.shape[1], size=size,
                lanes=config.lanes,
            )  # fmt: skip
        if image.section.gives:
            gives = Rows(base=base, stride=stride, size=size, lanes=config.lanes, switch=_switch(image))
        return cls(
            parts=dict(places.external_regions(image)),
            vocab=vocab,
            design=design,
            logits_base=base,
            logits_stride=stride,
            states=states,
            control=control,
            takes=takes,
            gives=gives,
            results=image.results,
        )

    @property
    def state_bytes(self) -> int | None:
        """Bytes of a recurrent state; ``None`` if it stays on the chip."""
        return None if self.states is None else self.states.size

    @cached_property
    def model(self) -> str:
        """SHA-256 of the memory image, in hexadecimal."""
        digest = hashlib.sha256()
        for address, data in sorted(self.parts.items()):
            digest.update(f"{address} {len(data)}\n".encode())
            digest.update(data)
        return digest.hexdigest()

    def load(
        self, board: Board, *, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> int:
        """Loads the model and tells the board's object where things lie; see :meth:`Board.load`.

        Memory that the host has to bring up is brought up and tested first, if it is not up.
        """
        if board.identity.region_bytes[Region.CONTROL] and not is_up(board):
            if self.control is None:
                raise NomulError(
                    f"board: its memory must be brought up first, and what that takes is not known here: the manifest "
                    f"of its bitstream, design {board.identity.design.hex()}, says it"
                )
            rng = np.random.default_rng(1)
            bring_up(board, self.control, rng=rng)
            check_memory(board, board.identity.memory_bytes, rng=rng)
        board.vocab = self.vocab
        board.logits_base, board.logits_stride = self.logits_base, self.logits_stride
        return board.load(self.parts, progress=progress)

    def read_state(self, board: Board, *, slot: int = 0) -> bytes | None:
        """A slot's recurrent state between jobs; ``None`` if it stays on the chip."""
        if self.states is None:
            return None
        return board.read(self.states.base + slot * self.states.stride, self.states.size)

    def write_state(self, board: Board, state: bytes, *, slot: int = 0) -> None:
        """Puts a state back: the slot goes on from it.

        A board goes on only in a slot that was used, so the slot takes a token first.
        """
        assert self.states is not None
        assert len(state) == self.states.size
        for _ in board.run([[LaneToken(token=0, slot=slot, fresh=True)]]):
            pass
        board.write(self.states.base + slot * self.states.stride, state)


def _switch(image: program.Image) -> tuple[tuple[int, bytes], ...]:
    """The instruction that says where a step's residual streams go, for each of the buffers."""
    base = image.program[LOGITS_INSTRUCTION]
    assert isinstance(base, isa.Base)
    assert base.part is isa.Part.LOGITS
    assert image.streaming is not None
    step = image.streaming.lanes * base.stride
    words = (replace(base, block=base.block + buffer * step) for buffer in range(SECTION_BUFFERS))
    address = EXTERNAL | LOGITS_INSTRUCTION * isa.INSTRUCTION_BYTES
    return tuple((address, isa.encode(word).to_bytes(isa.INSTRUCTION_BYTES, "little")) for word in words)
