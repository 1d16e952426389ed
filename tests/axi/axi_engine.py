# SPDX-License-Identifier: Apache-2.0
"""Top of a test: an engine that streams its weights over AXI."""

from __future__ import annotations

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from nomul.hw.axi import AxiMaster, AxiSignature
from nomul.hw.engine import TableEngine
from nomul.hw.streamed.reader import Reader

ADDRESS_BITS = 34  # 16 GiB


class AxiEngine(wiring.Component):
    """A table engine whose weights a reader fetches over AXI: all that a wide stream passes through.

    Parameters
    ----------
    bytes_per_beat, lanes, outputs, inputs : int
        Of the engine; a weight beat is a word of the AXI port.

    Members
    -------
    tile, acts, sums
        Those of the engine.
    start, address, words, error
        Those of the reader.
    axi : ``Out(AxiSignature(…))``
    """

    def __init__(self, *, bytes_per_beat: int, lanes: int, outputs: int, inputs: int):
        self.engine = TableEngine(bytes_per_beat=bytes_per_beat, lanes=lanes, outputs=outputs,
                                  inputs=inputs, acts_per_beat=4)
        self.reader = Reader(word_bytes=bytes_per_beat)
        self.master = AxiMaster(word_bytes=bytes_per_beat, address_bits=ADDRESS_BITS)
        engine, reader = self.engine.signature.members, self.reader.signature.members
        super().__init__({
            **{name: engine[name] for name in ("tile", "acts", "sums")},
            **{name: reader[name] for name in ("start", "address", "words")},
            "error": Out(1),
            "axi": Out(AxiSignature(data_bytes=bytes_per_beat, address_bits=ADDRESS_BITS)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.engine = engine = self.engine
        m.submodules.reader = reader = self.reader
        m.submodules.master = master = self.master
        connect(m, flipped(self.tile), engine.tile)
        connect(m, flipped(self.acts), engine.acts)
        connect(m, engine.sums, flipped(self.sums))
        connect(m, reader.o, engine.weights)
        connect(m, reader.memory, master.memory)
        connect(m, master.axi, flipped(self.axi))
        m.d.comb += [
            reader.start.eq(self.start), reader.address.eq(self.address),
            reader.words.eq(self.words), self.error.eq(reader.error),
        ]
        return m
