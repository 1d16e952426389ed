# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.explore.measure cycles|areas FILE``: what the cost model is held against, made again.

``cycles`` simulates every point of ``tests/explore/simulated.json`` in RTL, ``areas`` synthesises and packs every point
of ``host/explore/areas.json`` that was got so; each prints what the file says, what came of it and what the model
says. ``--write`` puts new figures into the file, point by point, so a run that is killed has kept what it had. A new
point is a row of its sizes with null for figures. ``--first N --count N`` take a part: a simulator takes up to a minute
to compile, a core up to half an hour to synthesise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomul.hw.boards.board import NEXTPNR_DEVICES
from nomul.hw.build import synth, verilog
from nomul.hw.build.design import design
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.files import atomic, os_errors
from nomul.model.geometry import Geometry
from nomul.model.numbers import VECTOR_LANES
from nomul.model.streamed_config import StreamedConfig

from .cost import coefficients
from .cycles import onchip_cycles
from .fit import predicted
from .sizes import onchip_depths, words_read
from .stages import AREA, ENGINES, simulated
from .streamed_cycles import streamed_cycles

__all__ = ["area_of", "main", "onchip_point", "streamed_point"]

_LIMIT_S = 7200
_COUNTS = tuple(AREA)


def _shape(sizes: list[int]) -> Geometry:
    d, m, layers, vocab = sizes
    return Geometry(hidden=d, intermediate=m, layers=layers, vocab=vocab)


def onchip_point(row: list[Any]) -> tuple[Geometry, CoreConfig, int]:
    """Of a row of ``onchip``: engine, bytes a beat, tile, shape (and cycles); with what the model says."""
    engine, beat, tile, *sizes = row[:7]
    g = _shape(sizes)
    core = CoreConfig.for_geometry(g, engine=engine, bytes_per_beat=beat, tile_outputs=tile)
    grown = CoreConfig(**{**vars(core), **onchip_depths(g, beat, tile)})
    return g, grown, onchip_cycles(g, engine=engine, bytes_per_beat=beat, tile_outputs=tile)


def streamed_point(row: list[Any]) -> tuple[Geometry, StreamedConfig, tuple[int, int]]:
    """Of a row of ``streamed``: bytes a beat, lanes, bytes a word, tile, place of states, shape (cycles, words)."""
    beat, lanes, word, tile, state, *sizes = row[:9]
    config = StreamedConfig(
        bytes_per_beat=beat, lanes=lanes, tile_outputs=tile, hidden=256, intermediate=704, vocab=1000,
        state_elements=1024, norm_words=1024, word_bytes=word, memory_bytes=1 << 26, slots=lanes, state=state,
    )  # fmt: skip
    g = _shape(sizes)
    return g, config, (streamed_cycles(g, config), words_read(config, g, texts=lanes))


def area_of(point: dict[str, Any]) -> dict[str, int]:
    """The four counts of a point of ``areas.json``, synthesised and packed for the device of all of them."""
    what, sizes = point["what"], point["sizes"]
    if what in ENGINES:
        made = ENGINES[what](**sizes, acts_per_beat=VECTOR_LANES)
        text, top = verilog.convert(made, "engine"), "engine"
    else:
        config = (CoreConfig if what == "onchip" else StreamedConfig)(**sizes)
        text, top = verilog.convert(design(config), "top"), "top"
    device = NEXTPNR_DEVICES[synth.PART], "--speed", str(synth.SPEED)
    used = synth.pack(synth.netlist_folder(text, top, name=top, limit_s=_LIMIT_S), device, "", _LIMIT_S)
    return {name: used[kind] for name, kind in AREA.items()}


def _cycles(found: dict[str, list[list[Any]]], part: slice) -> Iterator[str]:
    rows = [("onchip", row) for row in found["onchip"]] + [("streamed", row) for row in found["streamed"]]
    for kind, row in rows[part]:
        sizes, before = (row[:7], row[7:]) if kind == "onchip" else (row[:9], row[9:])
        if kind == "onchip":
            g, core, said = onchip_point(row)
            now, model = [simulated(g, core)["cycles"]], [said]
        else:
            shape, config, both = streamed_point(row)
            counted = simulated(shape, config)
            now, model = [counted["cycles"], counted["words"]], [*both]
        row[:] = [*sizes, *now]
        yield f"{kind} {sizes}: in the file {before}, simulated {now}, the model says {model}"


def _areas(found: list[dict[str, Any]], part: slice) -> Iterator[str]:
    for point in [one for one in found if one["how"] == "packed"][part]:
        before = {name: point.get(name) for name in _COUNTS}
        point.update(area_of(point))
        said = {name: round(value) for name, value in predicted(point, coefficients()).items()}
        now = {name: point[name] for name in _COUNTS}
        yield f"{point['what']} {point['sizes']}: in the file {before}, packed {now}, the model says {said}"


def _text(found: Any) -> str:
    """JSON with a line for each point."""
    if isinstance(found, list):
        return "[\n " + ",\n ".join(json.dumps(one) for one in found) + "\n]\n"
    parts = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in found.items()]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="measure", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["cycles", "areas"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true", help="Put the figures into the file.")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="From this point on, counted from 0.")
    parser.add_argument("--count", type=int, metavar="N", help="So many points.")
    asked = parser.parse_args(arguments)
    part = slice(max(asked.first, 0), None if asked.count is None else max(asked.first, 0) + asked.count)
    try:
        with os_errors(asked.file):
            found = json.loads(asked.file.read_text(encoding="utf-8"))
        for line in (_cycles if asked.what == "cycles" else _areas)(found, part):
            print(line, flush=True)
            if asked.write:
                with atomic(asked.file) as out:
                    out.write(_text(found).encode())
    except NomulError as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, KeyError, TypeError) as error:
        print(f"{asked.file}: is no table of points: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
