# SPDX-License-Identifier: Apache-2.0
"""The golden model: executes a memory image in integers. The only definition of right.

It runs the same program from the same memory image as the core, instruction by instruction,
vectorised over lanes. Weights of large models stay packed, and their tiles are worked on by all CPU
cores (:mod:`nomul.sim.golden_tiles`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from nomul.model import isa, scalar
from nomul.model.errors import NomulError
from nomul.model.isa import Statistic
from nomul.model.numbers import VECTOR_LANES
from nomul.model.placement import NORM_WORD_BYTES, load_beats
from nomul.model.program import Image
from nomul.model.scalar import MANTISSA_BITS, Scalar
from nomul.model.ternary import TRITS_PER_BYTE

from .golden_tiles import DENSE_MAX, DenseTile, PackedTile, Tile
from .golden_vector import Vectors, quantise, scale_shift

__all__ = ["Golden", "quantise", "scale_shift"]

# A smaller maximum counts as this, as the reference's 1e-5 does.
_MAX_FLOOR = 1 << (MANTISSA_BITS - 1)

_BLAS = ThreadpoolController()  # products this small lose more to waiting threads than they win

#: Called as ``trace(instruction index, name, values [L, n])`` for whatever an instruction stores.
Trace = Callable[[int, str, np.ndarray], None]


class Golden:
    """A core of so many lanes that holds one memory image.

    Parameters
    ----------
    image : Image
    lanes : int
        Tokens of a step.
    slots : int
        Recurrent states; by default one a lane.

    Attributes
    ----------
    vectors : Vectors
        The vector unit: recurrent state and whatever the latest token left.
    logit_scale : list of float, one a lane
    residuals : ndarray of int64, shape ``[rows, d]``
        Of a section that takes residual streams: what the host wrote; a token is a row's number.
    """

    def __init__(self, image: Image, *, lanes: int = 1, slots: int | None = None):
        self.image = image
        self.lanes = lanes
        self.slots = lanes if slots is None else slots
        g = image.geometry
        # A layer's state may begin at a block of memory.
        places = [i.address + i.elements for i in image.program if isinstance(i, isa.Recall)]
        self.vectors = Vectors(
            image.norms, hidden=g.hidden, intermediate=g.intermediate,
            state_values=max(places, default=g.state_values), lanes=lanes, slots=self.slots, stored=self._stored,
        )  # fmt: skip
        self.logit_scale = [0.0] * lanes
        self.residuals = np.zeros((image.tokens if image.section.takes else 0, g.hidden), dtype=np.int64)
        self.trace: Trace | None = None
        self._index = 0
        streaming = {k: self._beats(i) for k, i in enumerate(image.program)}
        streamed = sum(streaming.values())
        if streamed != len(image.weights):
            raise NomulError(
                f"image: the program streams {streamed} weight beats, "
                f"the image has {len(image.weights)}"
            )
        packed = image.weights.size > DENSE_MAX
        kind = PackedTile if packed else DenseTile
        self._operand = kind.operand
        self._tiles: dict[int, Tile] = {}
        self._loads: dict[int, np.ndarray] = {}
        at = 0
        for index, size in streaming.items():
            i, here = image.program[index], image.weights[at : at + size]
            if isinstance(i, isa.Tile):
                self._tiles[index] = kind(here, i.outputs, i.chunks)
            elif isinstance(i, isa.Load):
                values = here.reshape(-1)[: i.words * NORM_WORD_BYTES].copy().view("<u2")
                self._loads[index] = values.reshape(i.words, VECTOR_LANES)
            at += size
        self._pool = ThreadPoolExecutor(os.cpu_count()) if packed else None
        self._depth = TRITS_PER_BYTE * image.bytes_per_beat

    @property
    def logits(self) -> np.ndarray:
        """Sums of the head after a token, int64 ``[L, V]``, in units of ``logit_scale``; of a section without a head
        the residual stream, ``[L, d]``.
        """
        return self.vectors.logits

    @property
    def saturated(self) -> dict[str, int]:
        """How many values were limited so far, by kind."""
        return self.vectors.saturated

    def _beats(self, i: isa.Instruction) -> int:
        """Beats of the weight stream that an instruction takes."""
        if isinstance(i, isa.Tile):
            return i.outputs * i.chunks
        if isinstance(i, isa.Load):
            return load_beats(i.words, self.image.bytes_per_beat)
        return 0

    def _stored(self, name: str, values: np.ndarray) -> None:
        if self.trace is not None:
            self.trace(self._index, name, values.copy())

    def _begin(self, index: int, operand: Any) -> Callable[[], np.ndarray]:
        """Begins the tile of an instruction; what is returned gives its sums."""
        tile = self._tiles[index]
        if self._pool is None:
            sums = tile.sums(operand)
            return lambda: sums
        return self._pool.submit(tile.sums, operand).result

    def reset(self, slot: int | None = None) -> None:
        """Clears one recurrent state, or all."""
        self.vectors.state[slice(None) if slot is None else slot] = 0

    def step(
        self,
        tokens: int | Sequence[int] | np.ndarray,
        *,
        slots: Sequence[int] | np.ndarray | None = None,
        active: Sequence[bool] | np.ndarray | None = None,
    ) -> np.ndarray:
        """Processes one token in each lane.

        Parameters
        ----------
        tokens : int, or ints of shape ``[L]``
        slots : ints of shape ``[L]``, optional
            The recurrent state of each lane; by default lane ``k`` has state ``k``. Lanes of the same slot are
            successive tokens of one text, the lowest lane first.
        active : bools of shape ``[L]``, optional
            Lanes whose token counts; by default all. Of others the result means nothing.

        Returns
        -------
        ndarray of int64, shape ``[L]``
            Arg-max of the logits; the smallest of equals. Zeros of a section without a head.

        Raises
        ------
        NomulError
            If a token lies outside the vocabulary, or a slot is none.
        """
        chosen = np.arange(self.lanes) if slots is None else np.asarray(slots, dtype=np.int64)
        if chosen.shape != (self.lanes,) or chosen.min() < 0 or chosen.max() >= self.slots:
            raise NomulError(f"slots {chosen.tolist()}: {self.lanes} of 0 to {self.slots - 1} are wanted")
        self.vectors.slots = chosen
        self.vectors.active = np.broadcast_to(
            np.asarray(True if active is None else active, dtype=bool), (self.lanes,)
        )
        token = np.broadcast_to(np.asarray(tokens, dtype=np.int64), (self.lanes,))
        if token.min() < 0 or token.max() >= self.image.tokens:
            bad = int(token.max() if token.min() >= 0 else token.min())
            raise NomulError(f"token {bad} lies outside the vocabulary of {self.image.tokens}")
        machine = _Token(self, token)
        with _BLAS.limit(limits=1, user_api="blas"):
            for index, instruction in enumerate(self.image.program):
                self._index = index
                machine.execute(index, instruction)
        register = self.image.logit_scale_register
        self.logit_scale = [float(lane[register]) for lane in machine.registers]
        if self.image.section.gives:
            return np.zeros(self.lanes, dtype=np.int64)
        return self.logits.argmax(axis=1)


class _Token:
    """The working state of one token in all lanes."""

    def __init__(self, core: Golden, token: np.ndarray):
        self.core = core
        self.token = token
        self.registers = [[scalar.ZERO] * isa.REGISTERS for _ in range(core.lanes)]
        self.operand: Any = None  # activations, as tiles take them
        self.setup: isa.Pass | None = None
        self.scales: list[Scalar] = []
        self.tiles: list[Callable[[], np.ndarray]] = []  # of this pass: what gives their sums
        self.outputs = 0  # of these tiles
        self.latest: tuple[isa.Quant, list[Scalar]] | None = None  # what made the activations

    def execute(self, index: int, i: isa.Instruction) -> None:
        match i:
            case isa.Const():
                for lane in self.registers:
                    lane[i.rd] = Scalar(i.mantissa, i.exponent)
            case isa.Mul():
                for lane in self.registers:
                    lane[i.rd] = scalar.mul(lane[i.ra], lane[i.rb])
            case isa.Add():
                for lane in self.registers:
                    lane[i.rd] = scalar.add(lane[i.ra], lane[i.rb])
            case isa.Recip():
                for lane in self.registers:
                    lane[i.rd] = scalar.recip(lane[i.ra])
            case isa.Rsqrt():
                for lane in self.registers:
                    lane[i.rd] = scalar.rsqrt(lane[i.ra])
            case isa.Stat():
                for k, lane in enumerate(self.registers):
                    lane[i.rd] = scalar.from_int(self.statistic(i.statistic, k))
            case isa.Quant():
                self.quant(i)
            case isa.Tile():
                self.tile(index, i)
            case isa.Pass():
                self.setup, self.tiles, self.outputs = i, [], 0
                self.scales = self.register(i.rs)
            case isa.Embed():
                self.embed(i)
            case isa.Load():
                self.core.vectors.load(i.address, self.core._loads[index])
            case isa.Recall():
                self.core.vectors.recalled = i.address
            case isa.Stream() | isa.Base() | isa.Keep() | isa.End():
                pass  # where things lie is the core's business

    def register(self, number: int) -> list[Scalar]:
        return [lane[number] for lane in self.registers]

    def statistic(self, which: Statistic, lane: int) -> int:
        vectors = self.core.vectors
        if which is Statistic.SQUARES:
            return vectors.squares[lane]
        if which is Statistic.SUMS:
            return vectors.sums_squared[lane]
        return max(int(vectors.maxima[which, lane]), _MAX_FLOOR)

    def embed(self, i: isa.Embed) -> None:
        if i.wide:
            self.core.vectors.begin(i, self.core.residuals[self.token])
            return
        rows = self.core.image.embeddings[self.token]
        row_scale = rows[:, :2].copy().view("<u2")[:, 0].astype(np.int64)
        values = rows[:, 2 : 2 + i.elements].view(np.int8).astype(np.int64)
        self.core.vectors.embed(i, values, row_scale)

    def quant(self, i: isa.Quant) -> None:
        asked = i, self.register(i.rs)
        if self.tiles and asked == self.latest and self.core.trace is None:
            return  # a later tile of the pass: nothing that it reads has changed
        self.latest = asked
        q = self.core.vectors.quant(i, asked[1])
        depth = self.core._depth
        acts = np.zeros((len(q), -(-i.elements // depth) * depth), dtype=np.float32)
        acts[:, : i.elements] = q
        self.operand = self.core._operand(acts, self.core.image.bytes_per_beat)

    def tile(self, index: int, i: isa.Tile) -> None:
        assert self.latest is not None
        assert self.setup is not None
        self.tiles.append(self.core._begin(index, self.operand))
        self.outputs += i.outputs
        if self.outputs == self.setup.outputs:
            done = [result() for result in self.tiles]
            self.tiles = []
            sums = done[0] if len(done) == 1 else np.concatenate(done, axis=1)
            self.core.vectors.store("sums", sums)
            self.core.vectors.run(self.setup, sums, self.scales)
