# SPDX-License-Identifier: Apache-2.0
"""A model cut into sections of successive layers, each for a board of its own (``docs/several-boards.md``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from .errors import NomulError
from .fold import Model
from .geometry import Geometry
from .program import Image, Section
from .streamed_config import StreamedConfig
from .ternary import TRITS_PER_BYTE

__all__ = ["compile_sections", "cut", "layer_ranges"]


def cut(costs: Sequence[int], behind: int, parts: int) -> list[range]:
    """Successive parts of a sequence of which the most costly costs the least.

    Of all such cuts the one whose costs differ least in their squares.

    Parameters
    ----------
    costs : sequence of int
    behind : int
        What the last part costs besides.
    parts : int

    Returns
    -------
    list of range
        None is empty.

    Raises
    ------
    NomulError
        If there are more parts than elements, or no part.
    """
    count = len(costs)
    if not 1 <= parts <= count:
        raise NomulError(f"boards: {parts} for {count} layers; each holds at least one: take 1 to {count}")
    sums = [0]
    for cost in costs:
        sums.append(sums[-1] + cost)
    # Best (most costly part, sum of squares, cuts) of the first so many elements in so many parts.
    best: dict[tuple[int, int], tuple[int, int, list[int]]] = {(0, 0): (0, 0, [])}
    for part in range(1, parts + 1):
        for end in range(part, count + 1):
            extra = behind if part == parts else 0
            best[part, end] = min(
                (max(worst, own), squares + own * own, [*cuts, end])
                for begin in range(part - 1, end)
                if (part - 1, begin) in best
                for worst, squares, cuts in [best[part - 1, begin]]
                for own in [sums[end] - sums[begin] + extra]
            )
    cuts = [0, *best[parts, count][2]]
    return [range(a, b) for a, b in pairwise(cuts)]


def layer_ranges(geometry: Geometry, boards: int, *, bytes_per_beat: int) -> list[range]:
    """Layers of each board, so that what they stream for a token differs least; the last has the head too.

    Raises
    ------
    NomulError
        If there are more boards than layers, or none.
    """
    d, m = geometry.hidden, geometry.intermediate

    def size(outputs: int, inputs: int) -> int:
        return outputs * -(-inputs // (TRITS_PER_BYTE * bytes_per_beat)) * bytes_per_beat

    layer = 4 * size(d, d) + size(2 * m, d) + size(d, m)
    return cut([layer] * geometry.layers, size(geometry.vocab, d), boards)


def compile_sections(model: Model, config: StreamedConfig, boards: int) -> list[Image]:
    """The image of each board's section of a model.

    Parameters
    ----------
    model : Model
    config : StreamedConfig
        Of every board.
    boards : int

    Raises
    ------
    NomulError
        If there are more boards than layers, or a section does not fit its board.
    """
    made = []
    count = model.geometry.layers
    for layers in layer_ranges(model.geometry, boards, bytes_per_beat=config.bytes_per_beat):
        own = replace(
            model, layers=model.layers[layers.start : layers.stop],
            geometry=replace(model.geometry, layers=len(layers)),
        )  # fmt: skip
        section = Section(takes=layers.start > 0, gives=layers.stop < count)
        try:
            made.append(config.compile(own, section))
        except NomulError as error:
            raise NomulError(f"layers {layers.start} to {layers.stop - 1} of {count}: {error}") from None
    return made
