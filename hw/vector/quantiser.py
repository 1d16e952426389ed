# SPDX-License-Identifier: Apache-2.0
"""The quantiser: from a vector to the engine's activations, four a cycle."""

from __future__ import annotations

from amaranth import C, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.hw.ports import ActsLayout, NormSignature, QuantLayout, ScalarLayout
from nomul.model.numbers import ACT_MAX, NORM_BITS, SOURCE_BITS, VECTOR_LANES
from nomul.model.scalar import MANTISSA_BITS
from nomul.model.ternary import TRITS_PER_BYTE

from .arithmetic import delay, magnitude, multiply, total
from .memory import RowLayout

__all__ = ["Quantiser"]

_PIPE = 9  # cycles from an address to the beat at the output
_ROOM = 16
_SHIFT_BITS = 5
_DROP = 28  # fraction bits of magnitude · factor
_COARSE_BITS = MANTISSA_BITS + 7


class Quantiser(wiring.Component):
    """``q = round(127 · v / max|v|)``, ``v = source · norm``, by the reciprocal of ``max|v|``.

    Reads a row of four and a norm word each cycle that the engine has room for, and fills the last
    chunk with zeros. Of each chunk come lane 0's beats, then lane 1's, and so on. 12 multipliers
    whatever the lanes.

    .. code-block:: text

        cycle   0      1        2    3          4          5        6         7             8
                taken  address  row  row, norm  the same,  |.|,|.|  products  |v|, shifted  18 bits
                                                nearby                        by eights
                9          10
                by factor  beat

    Parameters
    ----------
    lanes : int
    bytes_per_beat : int
        ``G`` of the engine, a multiple of 4; a chunk is ``5 · G`` activations.
    rows : int
        Rows of vector memory before those of the product vectors. Rows of the lanes lie side by side: lane
        ``k``'s four elements from ``4 · g`` on in row ``g · lanes + k`` of a vector.
    row_bits : int
        Bits of a row's address.

    Attributes
    ----------
    latency : int
        Cycles from ``quant_i`` taken to the first beat offered.

    Members
    -------
    quant_i : ``In(stream.Signature(QuantLayout(lanes)))``
        Taken when the beats of the one before have left the pipeline.
    acts : ``Out(stream.Signature(ActsLayout))``
        ``last`` ends a chunk of all lanes.
    norm : ``Out(NormSignature())``
    row : ``Out(row_bits)``
        Address at vector memory.
    blocked : ``In(1)``
        Vector memory reads another row in this cycle.
    row_data : ``In(RowLayout)``
        Two cycles after ``row``.
    """

    latency = _PIPE + 1

    def __init__(self, *, lanes: int, bytes_per_beat: int, rows: int, row_bits: int):
        if bytes_per_beat < 4 or bytes_per_beat % 4:
            raise ValueError(
                f"bytes_per_beat is {bytes_per_beat}; the quantiser takes a positive multiple of 4"
            )
        if lanes < 1:
            raise ValueError(f"Quantiser has at least 1 lane, not {lanes}")
        self.lanes = lanes
        self.bytes_per_beat = bytes_per_beat
        self.rows = rows
        self.row_bits = row_bits
        self.chunk_beats = TRITS_PER_BYTE * bytes_per_beat // VECTOR_LANES
        super().__init__({
            "quant_i": In(stream.Signature(QuantLayout(lanes))),
            "acts": Out(stream.Signature(ActsLayout)),
            "norm": Out(NormSignature()),
            "row": Out(row_bits),
            "blocked": In(1),
            "row_data": In(RowLayout),
        })

    @staticmethod
    def cycles(elements: int, *, lanes: int, bytes_per_beat: int) -> int:
        """Cycles from ``quant_i`` taken until the last beat is taken, without stalls."""
        chunk = TRITS_PER_BYTE * bytes_per_beat
        return Quantiser.latency + -(-elements // chunk) * lanes * chunk // VECTOR_LANES

    def elaborate(self, platform: object) -> Module:
        m = Module()
        setup = Signal(QuantLayout(self.lanes))
        taken = self.quant_i.valid & self.quant_i.ready
        new = self.quant_i.payload
        with m.If(taken):
            m.d.sync += setup.eq(new)

        # Where the next beat lies; where its chunk began.
        position = data.StructLayout({"row": self.row_bits, "norm": 20, "left": 14})
        here, chunk = Signal(position), Signal(position)
        left = Signal(range(self.chunk_beats))
        lane = Signal(range(max(self.lanes, 2)))
        running = Signal()
        room = Signal(range(_ROOM + 1), init=_ROOM)
        issue = running & (room != 0) & ~self.blocked
        beat_last, lane_last = left == 0, lane == self.lanes - 1 if self.lanes > 1 else C(1, 1)
        following = Signal(position)
        m.d.comb += [
            following.row.eq(here.row + self.lanes),
            following.norm.eq(here.norm + 1),
            following.left.eq(Mux(here.left < VECTOR_LANES, 0, here.left - VECTOR_LANES)),
            self.row.eq(here.row),
            self.norm.address.eq(here.norm),
        ]
        with m.If(issue):
            m.d.sync += [here.eq(following), left.eq(left - 1)]
            with m.If(beat_last):
                m.d.sync += left.eq(self.chunk_beats - 1)
                with m.If(~lane_last):
                    beside = chunk.row + 1
                    m.d.sync += [here.eq(chunk), lane.eq(lane + 1)]
                    m.d.sync += [here.row.eq(beside), chunk.row.eq(beside)]
                with m.Else():
                    m.d.sync += [chunk.eq(following), lane.eq(0)]
                    m.d.sync += [here.row.eq(here.row + 1), chunk.row.eq(here.row + 1)]
                    m.d.sync += running.eq(here.left > VECTOR_LANES)
        with m.If(taken):
            begin = Signal(position)
            m.d.comb += [
                begin.row.eq(Mux(new.source, self.rows, 0)),
                begin.norm.eq(new.norm),
                begin.left.eq(new.elements),
            ]
            m.d.sync += [
                here.eq(begin), chunk.eq(begin), running.eq(1),
                left.eq(self.chunk_beats - 1), lane.eq(0),
            ]  # fmt: skip
        valids = delay(m, issue, _PIPE - 1, name="valid", strobe=True)
        lasts = delay(m, beat_last & lane_last, _PIPE - 1, name="last")
        lanes = delay(m, lane, 2, name="lane")
        m.d.comb += self.quant_i.ready.eq(~running & ~Cat(valids[1:]).any())

        # The reciprocal as a shift and 127/128 of its mantissa: m - (m + 63) / 128. With several lanes, of the one
        # at each beat's turn.
        several = self.lanes > 1
        reciprocal = Signal(ScalarLayout, reset_less=True)
        if several:
            m.d.sync += reciprocal.eq(setup.reciprocal[lanes[2]])
        else:
            m.d.comb += reciprocal.eq(setup.reciprocal[0])
        early_shift = Signal(_SHIFT_BITS, reset_less=True)
        part = Signal(MANTISSA_BITS, reset_less=True)
        early_factor = Signal(MANTISSA_BITS, reset_less=True)
        mantissa = delay(m, reciprocal.mantissa, int(several), name="mantissa")[-1]
        m.d.sync += [
            early_shift.eq(1 - 2 * MANTISSA_BITS - reciprocal.exponent),
            part.eq((reciprocal.mantissa + 63) >> 7),
            early_factor.eq(mantissa - part),
        ]

        # Memories may be far away: their words get a cycle to come near. Elements beyond the vector
        # count as zero.
        inside = [
            delay(m, here.left > k, 3, name=f"inside_{k}")[-1] for k in range(VECTOR_LANES)
        ]
        shift = Signal(_SHIFT_BITS, reset_less=True)
        m.d.sync += shift.eq(early_shift)
        factor = delay(m, early_factor, 2 if several else 1, name="factor")[-1]
        fine = delay(m, shift[:3], 1, name="fine")[-1]
        beat = Signal(ActsLayout)
        for k in range(VECTOR_LANES):
            source, norm = (
                delay(m, value[k], 1, name=f"{name}_{k}")[-1]
                for name, value in (("row", self.row_data), ("word", self.norm.data))
            )
            source_size = Signal(unsigned(SOURCE_BITS), name=f"source_{k}", reset_less=True)
            norm_size = Signal(unsigned(NORM_BITS), name=f"norm_{k}", reset_less=True)
            coarse = Signal(_COARSE_BITS, name=f"coarse_{k}", reset_less=True)
            size = Signal(MANTISSA_BITS, name=f"size_{k}", reset_less=True)
            product = Signal(2 * MANTISSA_BITS, name=f"product_{k}", reset_less=True)
            m.d.sync += [
                source_size.eq(Mux(inside[k], magnitude(source), 0)),
                norm_size.eq(magnitude(norm)),
                coarse.eq(total(multiply(m, source_size, norm_size)) >> (shift & 0b11000)),
                size.eq(coarse >> fine),
                product.eq(size * factor),
            ]
            negative = delay(m, source[-1] ^ norm[-1], 5, name=f"negative_{k}")[-1]
            q = (product[_DROP:] + product[_DROP - 1])[:8]
            m.d.comb += beat.x[k].eq((q ^ negative.replicate(8)) + negative)

        # Every beat on its way has its place here.
        m.submodules.queue = queue = fifo.SyncFIFO(width=ActsLayout.size, depth=_ROOM)
        m.d.comb += [
            beat.last.eq(lasts[-1]),
            queue.w_en.eq(valids[-1]),
            queue.w_data.eq(beat),
            self.acts.valid.eq(queue.r_rdy),
            self.acts.payload.eq(queue.r_data),
            queue.r_en.eq(self.acts.ready),
        ]
        freed = self.acts.valid & self.acts.ready
        with m.If(issue & ~freed):
            m.d.sync += room.eq(room - 1)
        with m.Elif(freed & ~issue):
            m.d.sync += room.eq(room + 1)
        assert ACT_MAX == 127  # the factor above
        return m
