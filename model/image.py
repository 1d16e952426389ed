# SPDX-License-Identifier: Apache-2.0
"""Where a memory image lies in a core's address space (``docs/memory-image.md``)."""

from __future__ import annotations

import numpy as np

from .isa import pack_program
from .program import Image
from .protocol import EXTERNAL, Region

__all__ = ["external_regions", "plane_bits", "regions"]

def plane_bits(weight_beats: int) -> int:
    """Address bits of one plane of weight memory: byte ``g`` of beat ``b`` lies at ``g << plane_bits | b``."""
    return max(1, (weight_beats - 1).bit_length())


def regions(image: Image, weight_beats: int) -> dict[int, bytes]:
    """Everything to be written before the first token: bytes by address.

    Parameters
    ----------
    image : Image
    weight_beats : int
        Depth of the core's weight memory, which sets the distance of its planes.
    """
    parts = {
        Region.PROGRAM.base: pack_program(image.program).astype("<u8").tobytes(),
        Region.NORMS.base: image.norms.astype("<u2").tobytes(),
        Region.EMBEDDINGS.base: image.embeddings.tobytes(),
    }
    for plane, column in enumerate(np.ascontiguousarray(image.weights.T)):
        parts[Region.WEIGHTS.base + (plane << plane_bits(weight_beats))] = column.tobytes()
    return parts


def external_regions(image: Image) -> list[tuple[int, memoryview]]:
    """The same of a streamed image: address and bytes of each part in external memory.

    Raises
    ------
    ValueError
        If the image is for memories on the chip.
    """
    if image.map is None:
        raise ValueError("the image is for memories on the chip; compile it with streaming")
    program = pack_program(image.program)
    return [
        (EXTERNAL | address, np.ascontiguousarray(part).data.cast("B"))
        for _, address, part in image.map.parts(program, image.weights, image.embeddings)
    ]
