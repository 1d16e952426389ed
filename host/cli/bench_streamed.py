# SPDX-License-Identifier: Apache-2.0
"""Streamed cores in RTL: whole tokens of published sizes, through a memory controller, with lanes.

``python -m nomul.host.cli.bench_streamed tokens dram prefill lanes`` writes random checkpoints, simulates, compares
every value that the core stores with the golden model's, and prints JSON. Cycles are *simulated*; they
do not depend on the machine. ``area`` routes cores, which takes hours; ``wide`` synthesises for other FPGAs.
What fails is told as an ``error`` in place of its figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from nomul.hw.build.design import design_verilog
from nomul.hw.build.synth import PART, SPEED, synthesise
from nomul.hw.build.tools import versions
from nomul.hw.build.wide import synthesise_wide
from nomul.hw.dram.boards import BUTTERSTICK, ECPIX5, ORANGECRAB, ULX3S, VERSA, DramBoard
from nomul.hw.streamed import StreamedCore
from nomul.model.checkpoint import read_checkpoint
from nomul.model.counters import EXPOSED
from nomul.model.errors import NomulError
from nomul.model.fold import Model
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.isa import Load
from nomul.model.placement import load_beats
from nomul.model.program import Image
from nomul.model.random_checkpoint import write_random_checkpoint
from nomul.model.store import load
from nomul.model.streamed_config import StreamedConfig
from nomul.model.ternary import TRITS_PER_BYTE
from nomul.sim.golden import Golden
from nomul.sim.streamed import Lane, StreamedSimulation, TokenResult
from nomul.sim.streamed.trace import first_difference

from .common import streamed_config
from .models import convert

_SEED = 1
_TOKENS = {"370M": 16, "1.3B": 2, "2.7B": 2}  # compared value by value
_LIMIT_S = 3600.0
_PROMPT = 64
_LANES = (1, 2, 4, 8, 16)
_WIDE_BEATS = (32, 64)
_PLACE = Path("build/streamed")

#: What fits a ULX3S of the 370M's shape: as many layers as its memory holds.
_ULX3S_SHAPE = replace(PUBLISHED["370M"], layers=8)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@cache
def published_model(geometry: Geometry) -> Model:
    """A random model of a shape, kept as a file below build/."""
    name = "-".join(str(n) for n in vars(geometry).values())
    file = _PLACE / f"random-{name}.nomul"
    if not file.is_file():
        _say(f"writing a random checkpoint of {geometry.parameters:,} parameters")
        folder = _PLACE / f"random-{name}"
        write_random_checkpoint(folder, geometry, seed=_SEED, shards=2)
        convert(read_checkpoint(folder), folder.name, file)
        shutil.rmtree(folder)
    return load(file)[0]


def _simulation(config: StreamedConfig, board: DramBoard | None = None) -> StreamedSimulation:
    return StreamedSimulation(config, board=board, progress=_say)


def _memory(geometry: Geometry) -> int:
    """A power of two of bytes that holds a model of this shape."""
    needed = 2 * geometry.ternary_weights // 5 + 2 * geometry.vocab * geometry.hidden
    return min(1 << 31, 1 << needed.bit_length())


def _sequence(image: Image, count: int) -> list[int]:
    """Tokens that golden generates."""
    golden, tokens = Golden(image), [1]
    while len(tokens) < count:
        tokens.append(int(golden.step(tokens[-1])[0]))
    return tokens


def _compared(
    simulation: StreamedSimulation, image: Image, steps: Sequence[Sequence[Lane]], slots: int
) -> list[TokenResult]:
    """Runs steps and compares everything that is stored with golden.

    Raises
    ------
    NomulError
        With the first difference.
    """
    with tempfile.TemporaryDirectory(prefix="nomul-") as folder:
        trace = Path(folder) / "trace"
        results = simulation.run(image, steps, trace=trace, limit_s=_LIMIT_S)
        golden = Golden(image, lanes=simulation.config.lanes, slots=slots)
        difference = first_difference(image, trace, steps, golden)
    if difference is not None:
        raise NomulError(f"core and golden differ: {difference}")
    return results


def _phases(image: Image, result: TokenResult) -> dict[str, float]:
    """Where the cycles of a token go, by cause; they add up to all of them."""
    c = result.counters
    bound = image.bound_cycles
    loads = sum(
        load_beats(i.words, image.bytes_per_beat) for i in image.program if isinstance(i, Load)
    )
    return {
        "bound": bound,
        "filling_of_last_chunks": c["beats"] - bound,
        **{e.name.lower(): c[e.name.lower()] for e in EXPOSED},
        "outside_of_the_counters": result.cycles - c["token_cycles"],
        "norm_beats_hidden_or_not": loads,
    }


def bench_tokens(sizes: Sequence[str]) -> dict[str, Any]:
    """Whole tokens with an ideal memory, one lane, 40 and 80 trits a cycle."""
    found: dict[str, Any] = {}
    for size in sizes:
        geometry = PUBLISHED[size]
        for beat in (8, 16):
            config = StreamedConfig.for_geometry(
                geometry, bytes_per_beat=beat, word_bytes=beat, tile_outputs=4096,
                memory_bytes=_memory(geometry),
            )  # fmt: skip
            image = config.compile(published_model(geometry))
            tokens = _sequence(image, _TOKENS[size])
            steps = [[Lane(token=t, fresh=k == 0)] for k, t in enumerate(tokens)]
            simulation = _simulation(config)
            fast = simulation.run(image, steps[:2], limit_s=_LIMIT_S)  # nobody watches: the speed
            results = _compared(simulation, image, steps, 1)
            last = results[-1]
            seconds = min(r.seconds for r in fast)
            found[f"{size}, {5 * beat} trits/cycle"] = {
                "tokens_equal_to_golden": len(results),
                "cycles": last.cycles,
                "bound_cycles": image.bound_cycles,
                "utilisation": round(image.bound_cycles / last.cycles, 4),
                "phases": _phases(image, last),
                "simulation_seconds_per_token": round(seconds, 2),
                "simulation_megacycles_per_second": round(last.cycles / seconds / 1e6, 2),
            }
            _say(f"{size}, {beat} bytes a beat: {found[f'{size}, {5 * beat} trits/cycle']}")
    return found


def _dram(board: DramBoard, config: StreamedConfig, geometry: Geometry, count: int) -> dict[str, Any]:
    """Steps of one user, or of as many as there are lanes, each with the same text from another token on."""
    image = config.compile(published_model(geometry))
    tokens = _sequence(image, count + config.lanes - 1)
    steps = [
        [Lane(token=tokens[at + k], slot=k, fresh=at == 0) for k in range(config.lanes)]
        for at in range(count)
    ]
    results = _compared(_simulation(config, board), image, steps, config.slots)
    last = results[-1]
    peak = board.bytes_per_cycle * last.cycles
    single = board.clock_hz / last.cycles
    return {
        "geometry": asdict(geometry),
        "lanes": config.lanes,
        "clock_mhz": board.clock_hz / 1e6,
        "steps_equal_to_golden": len(results),
        "cycles": last.cycles,
        "bytes_read": last.words * board.word_bytes,
        "share_of_peak_read": round(last.words * board.word_bytes / peak, 4),
        "share_of_peak_weights": round(geometry.ternary_weights / TRITS_PER_BYTE / peak, 4),
        "phases": _phases(image, last),
        "tokens_per_second_single": round(single, 2),
        "tokens_per_second_summed": round(config.lanes * single, 2),
        "simulation_seconds_per_step": round(min(r.seconds for r in results), 1),
    }


def bench_dram(sizes: Sequence[str]) -> dict[str, Any]:
    """A token through LiteDRAM's controller and its model of the memory."""
    del sizes
    shape = PUBLISHED["370M"]
    sdram = StreamedConfig.for_geometry(
        _ULX3S_SHAPE, word_bytes=ULX3S.word_bytes, memory_bytes=ULX3S.part.capacity
    )
    found = {ULX3S.name: _dram(ULX3S, sdram, _ULX3S_SHAPE, 2)}
    for board in (ECPIX5, ORANGECRAB, VERSA):
        found[board.name] = _dram(board, _lanes_config(1, board), shape, 2)
    for board in (ECPIX5, ORANGECRAB, BUTTERSTICK):
        found[f"{board.name}, 8 lanes"] = _dram(board, _lanes_config(8, board), shape, 1)
    return found


def _lanes_config(lanes: int, board: DramBoard = ECPIX5, **more: Any) -> StreamedConfig:
    """A core for the 370M shape on a board with DDR3: states in memory where several do not fit the chip."""
    return StreamedConfig.for_geometry(
        PUBLISHED["370M"], lanes=lanes, word_bytes=board.word_bytes,
        memory_bytes=board.part.capacity, state="chip" if lanes == 1 else "memory",
        slots=1 if lanes == 1 else 2 * lanes, **more,
    )  # fmt: skip


def bench_prefill(sizes: Sequence[str]) -> dict[str, Any]:
    """64 tokens of a prompt, 8 at a time and one after another."""
    del sizes
    model = published_model(PUBLISHED["370M"])
    cycles = {}
    for lanes in (1, 8):
        config = _lanes_config(lanes)
        image = config.compile(model)
        prompt = _sequence(image, _PROMPT)
        steps = [
            [Lane(token=t, slot=0, fresh=at + k == 0) for k, t in enumerate(prompt[at : at + lanes])]
            for at in range(0, _PROMPT, lanes)
        ]
        if lanes == 1:  # cycles do not depend on the token
            first = _simulation(config).run(image, steps[:2], limit_s=_LIMIT_S)
            if first[0].cycles != first[1].cycles:
                raise NomulError(f"prefill: tokens took {first[0].cycles} and {first[1].cycles} cycles")
            cycles[lanes] = _PROMPT * first[0].cycles
        else:
            results = _compared(_simulation(config), image, steps, config.slots)
            cycles[lanes] = sum(r.cycles for r in results)
    return {
        "tokens": _PROMPT,
        "cycles_one_after_another": cycles[1],
        "cycles_8_lanes": cycles[8],
        "ratio": round(cycles[1] / cycles[8], 3),
    }


def bench_lanes(sizes: Sequence[str]) -> dict[str, Any]:
    """Cycles of a step of 1 to 16 independent users, ideal memory of 16 bytes a cycle."""
    del sizes
    model = published_model(PUBLISHED["370M"])
    found = {}
    for lanes in _LANES:
        config = _lanes_config(lanes)
        image = config.compile(model)
        steps = [[Lane(token=7 + k, slot=k, fresh=True) for k in range(lanes)]]
        result = _compared(_simulation(config), image, steps, config.slots)[0]
        found[str(lanes)] = {
            "cycles": result.cycles,
            "tile_outputs": config.tile_outputs,
            "state": config.state,
            "phases": _phases(image, result),
            "single_per_clock_mhz": round(1e6 / result.cycles, 4),
            "summed_per_clock_mhz": round(lanes * 1e6 / result.cycles, 4),
        }
        _say(f"{lanes} lanes: {found[str(lanes)]}")
    return found


def _area(lanes: int) -> dict[str, Any]:
    """One core, routed where it fits; what fails is told beside what there is."""
    found: dict[str, Any] = {}
    try:
        core = StreamedCore(config=_lanes_config(lanes))
        for label, seeds in (("synthesised", ()), ("routed, out of context", (1,))):
            made = synthesise(core, name="streamed", seeds=seeds, freq=100, limit_s=4 * 3600)
            fits = made.comb <= 83640 and made.bram <= 208 and made.multipliers <= 156
            found = {
                "label": label, "comb": made.comb, "ff": made.ff, "bram": made.bram,
                "multipliers": made.multipliers, "fits": fits, "fmax_mhz": list(made.fmax_mhz),
                "longest_paths": list(made.longest_paths),
            }  # fmt: skip
            if not fits:
                break
    except NomulError as error:
        found["error"] = str(error)
    return found


def bench_area(sizes: Sequence[str]) -> dict[str, Any]:
    """Cores of 1 to 16 lanes for the 370M shape, 40 trits a cycle, routed out of context where they fit."""
    del sizes
    found: dict[str, Any] = {"part": PART, "speed": SPEED, "tools": versions()}
    for lanes in _LANES:
        found[str(lanes)] = _area(lanes)
        _say(f"{lanes} lanes: {found[str(lanes)]}")
    return found


def bench_wide(sizes: Sequence[str]) -> dict[str, Any]:
    """Cores behind an AXI master for the 370M shape, link included, synthesised for FPGAs that nothing here routes."""
    del sizes
    found: dict[str, Any] = {}
    for beat in _WIDE_BEATS:
        config = streamed_config(PUBLISHED["370M"], port="axi", bytes_per_beat=beat, lanes=1)
        areas = synthesise_wide(design_verilog(config), top="top")
        found[f"{TRITS_PER_BYTE * beat} trits/cycle"] = {family: asdict(area) for family, area in areas.items()}
        _say(f"{beat} bytes a beat: {', '.join(f'{a.family} {a.luts:,} LUTs' for a in areas.values())}")
    return found


BENCHES: dict[str, Callable[[Sequence[str]], dict[str, Any]]] = {
    "tokens": bench_tokens,
    "dram": bench_dram,
    "prefill": bench_prefill,
    "lanes": bench_lanes,
    "area": bench_area,
    "wide": bench_wide,
}


def main() -> int:
    """The command; its exit status: 1 if a bench failed."""
    parser = argparse.ArgumentParser(
        prog="python -m nomul.host.cli.bench_streamed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("benches", nargs="+", choices=list(BENCHES), metavar="BENCH",
                        help=f"of {', '.join(BENCHES)}")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", choices=list(PUBLISHED), default=["370M"],
                        help="of tokens")  # fmt: skip
    given = parser.parse_args()
    load_before = round(os.getloadavg()[0], 2)
    found: dict[str, Any] = {}
    status = 0
    for name in given.benches:
        try:
            _PLACE.mkdir(parents=True, exist_ok=True)
            found[name] = BENCHES[name](given.sizes)
        except (NomulError, OSError) as error:
            print(f"nomul: {name}: {error}", file=sys.stderr)
            found[name] = {"error": str(error)}
            status = 1
    machine = {"cores": os.cpu_count(), "load_before": load_before}
    print(json.dumps({"machine": machine, "how": "simulated", **found}, indent=2))
    return status


if __name__ == "__main__":
    sys.exit(main())
