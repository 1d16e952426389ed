# SPDX-License-Identifier: Apache-2.0
"""What the units of a streamed core hand to one another, beside :mod:`nomul.hw.ports`."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import data

from nomul.hw.ports import NORM_ADDRESS_BITS
from nomul.model import isa
from nomul.model.memory_map import BLOCK

__all__ = ["BLOCK_BITS", "BasesLayout", "MoveLayout", "OrderLayout", "StartLayout", "block_word"]

_WIDTH = {
    (kind, name): width
    for kind in (isa.Base, isa.Load, isa.Recall, isa.Stream)
    for name, _, width, _ in isa.layout(kind)
}

BLOCK_BITS = _WIDTH[isa.Base, "block"]
_STRIDE_BITS = _WIDTH[isa.Base, "stride"]

#: What the next beats of the weight stream are: those of a tile, or norms for so many words from
#: ``address`` on.
OrderLayout = data.StructLayout(
    {"load": 1, "address": NORM_ADDRESS_BITS, "words": _WIDTH[isa.Load, "words"]}
)

#: Where the weight stream begins, and its beats.
StartLayout = data.StructLayout(
    {"block": BLOCK_BITS, "beats": _WIDTH[isa.Stream, "beats"]}
)

#: Where parts of memory begin, by :class:`nomul.model.isa.Part`, and how far apart their pieces lie.
BasesLayout = data.ArrayLayout(
    data.StructLayout({"block": unsigned(BLOCK_BITS), "stride": unsigned(_STRIDE_BITS)}),
    len(isa.Part),
)

#: A layer's recurrent state from memory (``keep`` = 0) or to it.
MoveLayout = data.StructLayout(
    {
        "keep": 1,
        "address": _WIDTH[isa.Recall, "address"],
        "elements": _WIDTH[isa.Recall, "elements"],
    }
)


def block_word(word_bytes: int) -> int:
    """Bits from the number of a block to the address of its first word."""
    return (BLOCK // word_bytes).bit_length() - 1
