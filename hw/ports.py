# SPDX-License-Identifier: Apache-2.0
"""What the units of a core hand to one another: layouts and signatures, each written down once.

Widths come from the instruction set and the number contract. ``L`` is the number of lanes; arrays
over lanes are arrays for one lane too.
"""

from __future__ import annotations

from amaranth.hdl import signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model import isa
from nomul.model.numbers import NORM_BITS, SOURCE_BITS, STATE_BITS, VECTOR_LANES
from nomul.model.protocol import SLOT_BITS, TOKEN_BITS
from nomul.model.scalar import EXPONENT_BITS, MANTISSA_BITS

__all__ = [
    "BURST_WORDS",
    "EMBED",
    "LOGITS_COMING",
    "NORM_ADDRESS_BITS",
    "NORM_LATENCY",
    "STATE_ADDRESS_BITS",
    "ActsLayout",
    "LogitSignature",
    "MemoryCommandLayout",
    "MemorySignature",
    "NormLayout",
    "NormSignature",
    "PassLayout",
    "QuantLayout",
    "RowLayout",
    "RowRequestLayout",
    "ScalarLayout",
    "StateSignature",
    "StatsLayout",
    "SumsLayout",
    "TileLayout",
    "TokensLayout",
    "WeightLayout",
    "WideRowLayout",
]

#: Mode of a pass over embedding rows, beside those of :class:`nomul.model.isa.Mode`.
EMBED = max(isa.Mode) + 1
MODE_BITS = 4
NORM_LATENCY = 2  #: Cycles from an address at norm memory to its word.

MAXIMA = 3
MAX_BITS = 47  # |source · norm| of 32 and 16 bits, signed
SQUARES_BITS = 80
SUMS_BITS = 64


def _width(kind: type, name: str) -> int:
    """Width of an instruction's field."""
    return next(width for field, _, width, _ in isa.layout(kind) if field == name)


_OUTPUTS = _width(isa.Pass, "outputs")
_ELEMENTS = _width(isa.Quant, "elements")
NORM_ADDRESS_BITS = _width(isa.Quant, "norm")
STATE_ADDRESS_BITS = _width(isa.Pass, "address")

BURST_WORDS = 64  #: Most words of a burst at a memory.

LOGITS_COMING = 8  #: Most logits that come after ``room`` has fallen.

#: A burst: ``address`` of its first word, number of words less one.
MemoryCommandLayout = data.StructLayout({"address": 32, "last": range(BURST_WORDS), "write": 1})

#: A scalar of :mod:`nomul.model.scalar`; zero is all zeros.
ScalarLayout = data.StructLayout({"mantissa": MANTISSA_BITS, "exponent": signed(EXPONENT_BITS)})

#: Beats of the quantiser to the engine: four activations; ``last`` ends a chunk of all lanes.
ActsLayout = data.StructLayout({"x": data.ArrayLayout(signed(8), VECTOR_LANES), "last": 1})

#: An element of an embedding row, with the scale of its row.
RowLayout = data.StructLayout({"value": signed(8), "scale": 16})

#: The same where rows may be residual streams: of those ``x`` is the element and ``value`` is 0, else ``x`` is.
WideRowLayout = data.StructLayout({"value": signed(8), "scale": 16, "x": signed(SOURCE_BITS)})

#: A tile for the engine: the next ``outputs · chunks`` weight beats.
TileLayout = data.StructLayout({"outputs": _OUTPUTS, "chunks": _width(isa.Tile, "chunks")})

#: A word of norm memory, element 0 lowest. Bits; norm weights are signed, lower bounds are not.
NormLayout = data.ArrayLayout(unsigned(NORM_BITS), VECTOR_LANES)


def TokensLayout(lanes: int) -> data.StructLayout:
    """A token for every lane.

    ``slot``: whose recurrent state; lanes of the same slot follow one another in it, the lowest first.
    ``fresh``: that state counts as zero before the token. ``active``: the token counts; of a lane that is not,
    results mean nothing and no state changes. ``logits``: they are wanted.
    """
    return data.StructLayout({
        "token": data.ArrayLayout(unsigned(TOKEN_BITS), lanes),
        "slot": data.ArrayLayout(unsigned(SLOT_BITS), lanes),
        "fresh": data.ArrayLayout(unsigned(1), lanes),
        "active": data.ArrayLayout(unsigned(1), lanes),
        "logits": data.ArrayLayout(unsigned(1), lanes),
    })


def PassLayout(lanes: int) -> data.StructLayout:
    """A pass for the vector unit: :class:`nomul.model.isa.Pass` with its scale, or ``EMBED``."""
    return data.StructLayout({
        "mode": MODE_BITS,
        "outputs": _OUTPUTS,
        "address": _width(isa.Pass, "address"),
        "shift": _width(isa.Pass, "shift"),
        "vectors": _width(isa.Pass, "vectors"),
        "square": 1,
        "send": 1,
        "scale": data.ArrayLayout(ScalarLayout, lanes),
    })


def QuantLayout(lanes: int) -> data.StructLayout:
    """A quantisation for the vector unit: :class:`nomul.model.isa.Quant` with its reciprocal."""
    return data.StructLayout({
        "source": 1,
        "elements": _ELEMENTS,
        "norm": NORM_ADDRESS_BITS,
        "reciprocal": data.ArrayLayout(ScalarLayout, lanes),
    })


def RowRequestLayout(lanes: int) -> data.StructLayout:
    """Embedding rows to read: the token of each lane, elements and distance of rows in bytes; ``wide`` elements."""
    return data.StructLayout({
        "wide": 1,
        "elements": _width(isa.Embed, "elements"),
        "stride": _width(isa.Embed, "stride"),
        "token": data.ArrayLayout(unsigned(TOKEN_BITS), lanes),
    })


def SumsLayout(lanes: int, bits: int) -> data.StructLayout:
    """A finished output of the engine: exact sums of ``bits``; ``last`` ends a tile."""
    return data.StructLayout({"sum": data.ArrayLayout(signed(bits), lanes), "last": 1})


def StatsLayout() -> data.StructLayout:
    """What the latest reducing pass leaves behind in one lane, exact integers."""
    return data.StructLayout({
        "max": data.ArrayLayout(unsigned(MAX_BITS), MAXIMA),
        "squares": SQUARES_BITS,
        "sums": SUMS_BITS,
    })


def WeightLayout(bytes_per_beat: int) -> data.ArrayLayout:
    """A weight beat: ``G`` bytes of five trits."""
    return data.ArrayLayout(unsigned(8), bytes_per_beat)


class NormSignature(wiring.Signature):
    """A read port of norm memory, seen from the reader.

    Members
    -------
    address : ``Out(20)``
        Word of four.
    data : ``In(NormLayout)``
        The word, ``NORM_LATENCY`` cycles later.
    """

    def __init__(self) -> None:
        super().__init__({"address": Out(NORM_ADDRESS_BITS), "data": In(NormLayout)})


class LogitSignature(wiring.Signature):
    """Logits as the vector unit finds them, one at a time, seen from the vector unit.

    Members
    -------
    valid : ``Out(1)``
    index : ``Out(16)``
    lane : ``Out(range(max(lanes, 2)))``
    sum : ``Out(signed(bits))``
    room : ``In(1)``
        While it is low no further sum is taken; up to :data:`LOGITS_COMING` may still come.
    """

    def __init__(self, *, lanes: int, bits: int) -> None:
        super().__init__({
            "valid": Out(1),
            "index": Out(TOKEN_BITS),
            "lane": Out(range(max(lanes, 2))),
            "sum": Out(signed(bits)),
            "room": In(1),
        })


class StateSignature(wiring.Signature):
    """A second access to the memory of recurrent states, seen from who uses it.

    Only while no INPUT pass is at work or in the pipeline. A read and a write exclude each other. What is written
    can be read by the next cycle's address. Left alone it costs nothing.

    Members
    -------
    address : ``Out(20)``
        Element.
    read : ``Out(1)``
    read_data : ``In(signed(24))``
        Two cycles after ``read``.
    write : ``Out(1)``
    write_data : ``Out(signed(24))``
    """

    def __init__(self) -> None:
        super().__init__({
            "address": Out(STATE_ADDRESS_BITS),
            "read": Out(1),
            "read_data": In(signed(STATE_BITS)),
            "write": Out(1),
            "write_data": Out(signed(STATE_BITS)),
        })


class MemorySignature(wiring.Signature):
    """A memory of words, seen from who asks: bursts of reads and writes, answered in order.

    A burst takes 1 to :data:`BURST_WORDS` words and does not cross a multiple of that many. Reads are
    answered in the order of their commands, with a word at most in a cycle; nobody can hold them up: who
    asks has room. Reads see all writes whose command came before.

    Parameters
    ----------
    word_bytes : int
        ``B``, a power of two.

    Members
    -------
    command : ``Out(stream.Signature(MemoryCommandLayout))``
        ``address`` in words; ``last`` is the number of words less one; ``write``.
    write : ``Out(stream.Signature(8 · B))``
        The words of the write commands, in order; each may come before or after its command.
    read_valid : ``In(1)``
    read_data : ``In(8 · B)``
    read_error : ``In(1)``
        With ``read_valid``: the word is wrong.
    write_error : ``In(1)``
        A cycle's strobe: a write failed.
    unacknowledged : ``In(1)``
        Writes were taken of which memory has not said yet whether they failed. High without a gap from the cycle
        after a write's command is taken, and still in the cycle of its ``write_error``, if that comes.
    """

    def __init__(self, *, word_bytes: int) -> None:
        self.word_bytes = word_bytes
        super().__init__({
            "command": Out(stream.Signature(MemoryCommandLayout)),
            "write": Out(stream.Signature(unsigned(8 * word_bytes))),
            "read_valid": In(1),
            "read_data": In(8 * word_bytes),
            "read_error": In(1),
            "write_error": In(1),
            "unacknowledged": In(1),
        })
