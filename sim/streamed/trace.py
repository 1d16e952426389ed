# SPDX-License-Identifier: Apache-2.0
"""What a core stores against what golden stores: the first difference, by layer, unit and element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nomul.model import isa
from nomul.model.isa import Mode
from nomul.model.program import Image
from nomul.model.ternary import TRITS_PER_BYTE
from nomul.sim.golden import Golden

from .run import Lane

__all__ = ["Difference", "first_difference"]

_TURN = 8  # outputs of a lane before it is the next one's turn
_KINDS = ("acts", "sums", "store", "keep", "h", "activated")
_END = 0xFF

#: Golden's name of what is stored: the kind of record, and the unit that makes it.
_NAMES = {
    "q": ("acts", "quantiser"),
    "sums": ("sums", "engine"),
    "x": ("store", "residual stream"),
    "product": ("store", "product"),
    "keep": ("keep", "forget gate"),
    "h": ("h", "recurrence"),
    "activated": ("activated", "activation of the state"),
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a core first differs from golden.

    Attributes
    ----------
    step, layer : int
        From 0; ``layer`` is -1 before the first and the number of layers in the head.
    unit, name : str
        The unit that made the value, and golden's name of it.
    lane, element : int
    golden, core : int or None
        None: there is no such value.
    """

    step: int
    layer: int
    unit: str
    name: str
    lane: int
    element: int
    golden: int | None
    core: int | None

    def __str__(self) -> str:
        return (
            f"step {self.step}, layer {self.layer}, {self.unit}, {self.name}[lane {self.lane}, element "
            f"{self.element}]: golden {self.golden}, core {self.core}"
        )


def _turns(lanes: int, elements: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Lane and element of what a core stores, in its order: so many elements of a lane, then the next lane's."""
    element = np.arange(elements)
    lane, at = np.meshgrid(np.arange(lanes), element, indexing="ij")
    order = np.lexsort((at.ravel(), lane.ravel(), at.ravel() // turn))
    return lane.ravel()[order], at.ravel()[order]


def _layers(image: Image) -> list[int]:
    """The layer of each instruction: that of the next tile; before the first quantisation it is -1."""
    layer, of_tile = -1, []
    for i in image.program:
        if isinstance(i, isa.Pass):
            layer += i.mode in (Mode.FORGET, Mode.LOGITS)
        of_tile.append(layer if isinstance(i, isa.Tile) else None)
    layers, following = [], layer
    for k in reversed(range(len(of_tile))):
        own = of_tile[k]
        following = following if own is None else own
        layers.append(-1 if isinstance(image.program[k], isa.Embed) else following)
    return layers[::-1]


@dataclass(frozen=True)
class _Expected:
    """Values of one instruction, in the core's order."""

    layer: int
    name: str
    lane: np.ndarray
    element: np.ndarray
    value: np.ndarray


class _Golden:
    """Golden's trace of a step, by kind."""

    def __init__(self, image: Image, golden: Golden):
        self.image = image
        self.golden = golden
        self.expected: dict[str, list[_Expected]] = {}
        golden.trace = self.stored
        self._layers = _layers(image)

    def stored(self, index: int, name: str, values: np.ndarray) -> None:
        lanes, count = values.shape
        i = self.image.program[index]
        if name == "q":
            depth = TRITS_PER_BYTE * self.image.bytes_per_beat
            chunks = -(-count // depth)
            padded = np.zeros((lanes, chunks * depth), dtype=np.int64)
            padded[:, :count] = values
            beats = padded.reshape(lanes, chunks, depth // 4, 4).transpose(1, 0, 2, 3) & 0xFF
            value = (beats << np.array([0, 8, 16, 24])).sum(axis=-1).reshape(-1)
            shape = (chunks, lanes, depth // 4)
            chunk, lane, beat = (a.reshape(-1) for a in np.indices(shape))
            element = chunk * depth + 4 * beat
        elif name == "sums":
            element, lane = (a.reshape(-1) for a in np.indices((count, lanes)))
            value = values.T.reshape(-1)
        else:
            turn = _TURN
            if isinstance(i, isa.Embed):
                turn = count
            elif name == "product" and self._mode(index) is Mode.GATED:
                turn = _TURN // 2
            lane, element = _turns(lanes, count, turn)
            value = values[lane, element]
        kind = _NAMES[name][0]
        made = _Expected(self._layers[index], name, lane, element, value & 0xFFFFFFFF)
        self.expected.setdefault(kind, []).append(made)

    def _mode(self, index: int) -> Mode:
        """Of the pass to which the tile at ``index`` belongs."""
        for k in range(index, -1, -1):
            i = self.image.program[k]
            if isinstance(i, isa.Pass):
                return i.mode
        raise AssertionError("a tile without a pass")


def _steps(trace: Path) -> Iterator[np.ndarray]:
    """Records of each step, uint64."""
    records = np.fromfile(trace, dtype="<u8")
    ends = np.flatnonzero(records >> np.uint64(32) == _END)
    begin = 0
    for end in ends.tolist():
        yield records[begin:end]
        begin = end + 1


def first_difference(
    image: Image,
    trace: Path,
    steps: Sequence[Sequence[Lane]],
    golden: Golden,
) -> Difference | None:
    """Runs golden through the steps of a core and compares everything that both store.

    Lanes that are not active are left out.

    Parameters
    ----------
    image : Image
    trace : Path
        What :meth:`~nomul.sim.streamed.StreamedSimulation.run` wrote.
    steps : sequence of sequences of Lane
        The same that the core was given, tokens as they are.
    golden : Golden
        Of as many lanes, before its first step.

    Returns
    -------
    Difference or None
        The earliest in golden's order of work; None if there is none.
    """
    watch = _Golden(image, golden)
    found = _steps(trace)
    for number, lanes in enumerate(steps):
        records = next(found, np.zeros(0, dtype=np.uint64))
        watch.expected.clear()
        for lane in lanes:
            if lane.active and lane.fresh:
                golden.reset(lane.slot)
        golden.step(
            [lane.token for lane in lanes],
            slots=[lane.slot for lane in lanes],
            active=[lane.active for lane in lanes],
        )
        active = np.array([lane.active for lane in lanes])
        kinds = records >> np.uint64(32)
        values = (records & np.uint64(0xFFFFFFFF)).astype(np.int64)
        differences = []
        for kind, groups in watch.expected.items():
            core = values[kinds == _KINDS.index(kind)]
            at = 0
            for group in groups:
                here = core[at : at + len(group.value)]
                wrong = np.flatnonzero((here != group.value[: len(here)]) & active[group.lane[: len(here)]])
                missing = len(here) < len(group.value)
                if len(wrong) or missing:
                    k = int(wrong[0]) if len(wrong) else len(here)
                    differences.append(
                        Difference(
                            step=number, layer=group.layer, unit=_NAMES[group.name][1], name=group.name,
                            lane=int(group.lane[k]), element=int(group.element[k]),
                            golden=_signed(group.value[k]),
                            core=_signed(here[k]) if len(wrong) else None,
                        )
                    )
                    break
                at += len(group.value)
        if differences:
            order = list(_NAMES)
            return min(differences, key=lambda d: (d.layer, order.index(d.name)))
    return None


def _signed(value: int) -> int:
    return int(value) - (1 << 32 if int(value) >> 31 else 0)
