# SPDX-License-Identifier: Apache-2.0
"""Area of an engine that streams over AXI: ``python -m nomul.hw.build.bench_wide OUT.json [G …]``."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped

from nomul.hw.axi import AxiMaster, AxiSignature
from nomul.hw.engine import TableEngine
from nomul.hw.streamed.reader import Reader

from .verilog import convert
from .wide import synthesise_wide

__all__ = ["BYTES_PER_BEAT", "AxiEngine", "measure"]

BYTES_PER_BEAT = (32, 64)
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


def measure(bytes_per_beat: int) -> dict[str, Any]:
    """Synthesises one width for all families: one lane, the tiles of the 370M model."""
    design = AxiEngine(bytes_per_beat=bytes_per_beat, lanes=1, outputs=4096, inputs=2816)
    name = f"axi_engine_g{bytes_per_beat}"
    areas = synthesise_wide(convert(design, name), top=name)
    return {
        "bytes_per_beat": bytes_per_beat,
        "trits_per_cycle": design.engine.chunk,
        "label": "synthesised",
        **{family: asdict(area) for family, area in areas.items()},
    }


def main(path: str, *widths: str) -> None:
    """Measures all widths, or those named, and writes them as JSON."""
    results = {}
    for g in [int(width) for width in widths] or BYTES_PER_BEAT:
        results[f"g{g}"] = measure(g)
        Path(path).write_text(json.dumps(results, indent=2) + "\n")
        for family in ("xilinx", "intel"):
            area = results[f"g{g}"][family]
            print(f"G={g} {family}: " + ", ".join(
                f"{area[key]} {key}" for key in ("luts", "alms", "ff", "bram", "dsp")
                if area[key] is not None), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m nomul.hw.build.bench_wide OUT.json [G …]")
    main(*sys.argv[1:])
