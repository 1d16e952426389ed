# SPDX-License-Identifier: Apache-2.0
"""The figures of ``nomul report``: area by unit and clock from synthesis, cycles from simulation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nomul.hw.boards.memory import MemoryTop
from nomul.hw.boards.registry import find_board
from nomul.hw.build.design import design
from nomul.hw.build.synth import Synthesis, synthesise, synthesise_board
from nomul.hw.build.units import unit_areas
from nomul.hw.core import Core
from nomul.hw.dram.boards import DramBoard
from nomul.hw.streamed import StreamedCore
from nomul.model.core_config import CoreConfig
from nomul.model.counters import EXPOSED, Counter
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.model.protocol import FEED_BACK
from nomul.model.streamed_config import StreamedConfig
from nomul.model.ternary import TRITS_PER_BYTE
from nomul.model.tokenizer import BEGIN
from nomul.sim.streamed import Lane, StreamedSimulation, TokenResult

from .board import counters, open_board

__all__ = ["figures", "report", "streamed_report", "users"]

_FREQUENCY = 120  # MHz that placement of a whole core aims at
_LIMIT_S = 4 * 3600
_TOKENS = 16  # simulated for the cycles of a core on the chip
_STEPS = 3  # of a streamed core: the first is fresh


def figures(result: Synthesis) -> dict[str, Any]:
    """Area, and the clock's median over the seeds, ``None`` if nothing was routed."""
    return {
        "comb": result.comb,
        "ff": result.ff,
        "bram": result.bram,
        "multipliers": result.multipliers,
        "fmax_mhz": result.fmax_median_mhz if result.fmax_mhz else None,
        "fmax_by_seed_mhz": list(result.fmax_mhz),
    }


def _token(image: Image, cycles: int, found: Mapping[str, int]) -> dict[str, Any]:
    """Where the cycles of a token go, by the core's counters."""
    phases = {"streaming": found[Counter.BEATS.name.lower()]}
    phases |= {c.name.lower().removeprefix("exposed_"): found[c.name.lower()] for c in EXPOSED}
    if sum(phases.values()) != cycles or found[Counter.ERROR.name.lower()]:
        raise NomulError(f"report: the core's counters do not add up: {found}")
    return {
        "cycles": cycles,
        "bound_cycles": image.bound_cycles,
        "utilisation": round(image.bound_cycles / cycles, 4),
        "phases": phases,
    }


def _token_of_the_chip(image: Image, config: CoreConfig) -> dict[str, Any]:
    """Cycles of a token on the simulated board, against the bound."""
    with open_board("sim", image, config) as (board, _):
        seen = set()
        token, fresh = BEGIN, True
        for _ in range(_TOKENS):
            token, fresh = board.step(token, reset=fresh), False
            found = counters(board)
            seen.add(tuple(found.items()))
    if len(seen) != 1:
        raise NomulError("report: tokens took different numbers of cycles; something waits on data")
    return _token(image, found[Counter.TOKEN_CYCLES.name.lower()], found)


def _synthesis_of(result: Synthesis) -> dict[str, Any]:
    """What was synthesised, and with what."""
    return {"part": result.part, "speed": result.speed, "seeds": list(result.seeds), "tools": result.tools}


def report(image: Image, config: CoreConfig, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Everything that ``nomul report --json`` prints of a core with its weights on the chip."""
    token = _token_of_the_chip(image, config)
    whole = design(config)
    core = whole.core
    assert isinstance(core, Core)
    engine = synthesise(core.engine, name="engine", seeds=seeds)
    top = synthesise(whole, name="top", seeds=seeds, freq=_FREQUENCY, limit_s=_LIMIT_S)
    found = figures(top)
    rate = found["fmax_mhz"] and round(found["fmax_mhz"] * 1e6 / token["cycles"], 1)
    return {
        "how": _how(bool(seeds), "of the chip but its pins, out of context"),
        "configuration": asdict(config),
        "engine": {"kind": config.engine, "trits_per_cycle": TRITS_PER_BYTE * config.bytes_per_beat,
                   **figures(engine)},
        "core": found,
        "units": unit_areas(top.parts, list(core.units)),
        "token": token,
        "tokens_per_second": rate,
        **_synthesis_of(top),
    }  # fmt: skip


def users(config: StreamedConfig, steps: int) -> list[list[Lane]]:
    """Steps in which each lane generates for a user of its own."""
    return [
        [
            Lane(token=1 + k if at == 0 else FEED_BACK, slot=k, fresh=at == 0)
            for k in range(config.lanes)
        ]
        for at in range(steps)
    ]


def _streamed_token(
    image: Image, config: StreamedConfig, dram: DramBoard | None
) -> tuple[dict[str, Any], TokenResult]:
    """Cycles of a step of all lanes; of the last one, since behind a controller no two are alike."""
    simulation = StreamedSimulation(config, board=dram)
    last = simulation.run(image, users(config, _STEPS), limit_s=_LIMIT_S)[-1]
    token = _token(image, last.counters[Counter.TOKEN_CYCLES.name.lower()], last.counters)
    return token | {"step_cycles": last.cycles}, last


def streamed_report(
    image: Image, config: StreamedConfig, seeds: tuple[int, ...], *, dram: DramBoard | None
) -> dict[str, Any]:
    """Everything that ``nomul report --json`` prints of a streamed core.

    Parameters
    ----------
    image : Image
    config : StreamedConfig
    seeds : tuple of int
        Placement seeds; with none the core is synthesised only.
    dram : DramBoard or None
        The memory: with its controller, on the board's chip, at the clock of the controller. Else the memory is ideal,
        the controller is not among the area, and the clock is what routing gives.

    Raises
    ------
    NomulError
        If a tool fails.
    """
    token, last = _streamed_token(image, config, dram)
    core = StreamedCore(config=config)
    if dram is None:
        top = synthesise(design(config), name="top", seeds=seeds, freq=_FREQUENCY, limit_s=_LIMIT_S)
        where = "of the chip but its pins and its memory's controller, out of context"
    else:
        board = MemoryTop(board=find_board(dram.name), config=config)
        top = synthesise_board(board, seeds=seeds, limit_s=_LIMIT_S)
        where = f"with the memory's controller and pins on the chip of an {dram.name}"
    found = figures(top)
    clock = dram.clock_hz / 1e6 if dram else found["fmax_mhz"]
    rate = clock and round(clock * 1e6 / last.cycles, 3)
    made: dict[str, Any] = {
        "how": _how(bool(seeds), where),
        "configuration": asdict(config),
        "core": found,
        "units": unit_areas(top.parts, list(core.units)),
        "token": token,
        "tokens_per_second": rate,
        "tokens_per_second_summed": rate and round(config.lanes * rate, 3),
        **_synthesis_of(top),
    }
    if dram is not None:
        made["memory"] = {
            "board": dram.name,
            "clock_mhz": clock,
            "share_of_peak_read": round(last.words * dram.cycles_per_word / last.cycles, 4),
            "activations": last.activations,
        }
    return made


def _how(routed: bool, where: str) -> dict[str, str]:
    """Labels of the figures."""
    made = "routed" if routed else "synthesised"
    return {
        "area": f"{made}, {where}; units: their cells before packing",
        "token": "simulated",
        "tokens_per_second": "routed clock over simulated cycles; with a memory's controller the controller's clock",
    }
