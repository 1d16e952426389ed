# SPDX-License-Identifier: Apache-2.0
"""What a point costs, in closed form: LUTs and flip-flops fitted, block RAMs, multipliers, cycles and traffic counted.

``python -m nomul.host.explore.fit`` makes the coefficients from areas that were synthesised, packed and routed.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from nomul.hw.boards.board import Board
from nomul.hw.build.bitstream import CAPACITY, check_fit
from nomul.model.core_config import CoreConfig
from nomul.model.geometry import Geometry
from nomul.model.numbers import acc_bits
from nomul.model.streamed_config import StreamedConfig

from .area import (
    engine_memories,
    engine_terms,
    memories,
    multipliers_of,
    rest_terms,
    total_block_rams,
)
from .cycles import engine_cycles, onchip_cycles
from .point import Point
from .sizes import traffic, words_read
from .streamed_cycles import streamed_cycles

__all__ = [
    "CYCLES_EXACT", "Cost", "area_of_core", "area_of_engine", "area_on_board", "capacity", "check_room", "clock_band",
    "cost_of", "dram_cycles", "runs_at",
]  # fmt: skip

#: For summaries: where the cycles are those of simulation.
CYCLES_EXACT = "computed; equal to simulation where weights lie on the chip; docs/explore.md says how near elsewhere"

_REFRESH = 0.9656  # of the time, that a DDR3's refresh leaves to reads


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the model says.

    Attributes
    ----------
    comb, ff : float
        LUT4 equivalents, flip-flops; fitted.
    bram, multipliers : int
    cycles : int
        Of a step of all lanes with an ideal memory; of an engine alone all matrices one after another.
    read_bytes, written_bytes : int
        Of external memory in a step.
    """

    comb: float
    ff: float
    bram: int
    multipliers: int
    cycles: int
    read_bytes: int = 0
    written_bytes: int = 0

    @property
    def area(self) -> dict[str, float]:
        """The four counts."""
        return {"comb": self.comb, "ff": self.ff, "bram": self.bram, "multipliers": self.multipliers}


@cache
def coefficients() -> dict[str, Any]:
    """The fitted ones."""
    return tomllib.loads(resources.files(__package__).joinpath("coefficients.toml").read_text(encoding="utf-8"))


def _sum(table: dict[str, float], terms: dict[str, float]) -> float:
    return sum(table.get(name, 0.0) * value for name, value in terms.items())


def area_of_engine(
    kind: str, *, bytes_per_beat: int, lanes: int, outputs: int, inputs: int
) -> dict[str, float]:
    """LUTs, flip-flops, block RAMs and multipliers of an engine alone."""
    terms = engine_terms(bytes_per_beat, lanes, outputs, acc_bits(inputs))
    table = coefficients()[kind]
    found = engine_memories(kind, bytes_per_beat, lanes, outputs, acc_bits(inputs))
    return {
        "comb": _sum(table["comb"], terms), "ff": _sum(table["ff"], terms), "bram": total_block_rams(found),
        "multipliers": 0,
    }  # fmt: skip


def area_of_core(config: CoreConfig | StreamedConfig) -> dict[str, float]:
    """The same of a core with its link; of a streamed one with its port, without a memory's controller."""
    kind = config.engine if isinstance(config, CoreConfig) else "table"
    engine = area_of_engine(
        kind, bytes_per_beat=config.bytes_per_beat, lanes=config.lanes, outputs=config.tile_outputs,
        inputs=config.longest_row,
    )  # fmt: skip
    table = coefficients()["onchip" if isinstance(config, CoreConfig) else "streamed"]
    terms = rest_terms(config)
    return {
        "comb": engine["comb"] + _sum(table["comb"], terms),
        "ff": engine["ff"] + _sum(table["ff"], terms),
        "bram": total_block_rams(memories(config)),
        "multipliers": multipliers_of(config),
    }  # fmt: skip


def area_on_board(config: CoreConfig | StreamedConfig, board: Board) -> dict[str, float]:
    """The same of all of a board's chip: with the memory's controller, and a link that is a USB device."""
    area = area_of_core(config)
    kinds = [type(board.link).__name__]
    if isinstance(config, StreamedConfig) and board.memory is not None:
        kinds.append(board.memory.part.kind)
    for kind in kinds:
        for name, more in coefficients()["around"].get(kind, {}).items():
            area[name] += more
    return area


def check_room(name: str, device: str, config: CoreConfig | StreamedConfig) -> None:
    """Refuses a core with more block RAMs or multipliers than a chip has; a memory's controller takes none.

    Raises
    ------
    NomulError
        With how many too many.
    """
    needed = area_of_core(config)
    check_fit(name, device, {"DP16KD": round(needed["bram"]), "MULT18X18D": round(needed["multipliers"])})


@cache
def _onchip(g: Geometry, engine: str, bytes_per_beat: int, tile: int) -> int:
    return onchip_cycles(g, engine=engine, bytes_per_beat=bytes_per_beat, tile_outputs=tile)


@cache
def _streamed(g: Geometry, config: StreamedConfig) -> int:
    return streamed_cycles(g, config)


@cache
def cost_of(point: Point) -> Cost:
    """What a point costs.

    Raises
    ------
    NomulError
        If it can't be.
    """
    g = point.geometry
    if point.scope == "engine":
        tile = point.tile or 1024
        area = area_of_engine(
            point.engine, bytes_per_beat=point.bytes_per_beat, lanes=point.lanes, outputs=tile,
            inputs=max(g.hidden, g.intermediate),
        )  # fmt: skip
        cycles = engine_cycles(
            g, engine=point.engine, bytes_per_beat=point.bytes_per_beat, lanes=point.lanes, tile_outputs=tile
        )
        return Cost(**_counted(area), cycles=cycles)
    config = point.config
    area = area_on_board(config, point.chip) if point.scope == "board" else area_of_core(config)
    if isinstance(config, CoreConfig):
        return Cost(**_counted(area), cycles=_onchip(g, config.engine, config.bytes_per_beat, config.tile_outputs))
    reads = config.word_bytes * words_read(config, g, texts=config.lanes)
    writes = traffic(config, g, texts=config.lanes)[1]
    return Cost(**_counted(area), cycles=_streamed(g, config), read_bytes=reads, written_bytes=writes)


def _counted(area: dict[str, float]) -> dict[str, Any]:
    return {
        "comb": round(area["comb"], 1), "ff": round(area["ff"], 1), "bram": int(area["bram"]),
        "multipliers": int(area["multipliers"]),
    }  # fmt: skip


def dram_cycles(point: Point, cost: Cost) -> float:
    """Cycles of a step behind a board's controller: no fewer than its pins take for the bytes, refresh allowed for."""
    dram = point.chip.memory
    if point.scope == "engine" or point.weights != "memory" or dram is None:
        return cost.cycles
    return max(cost.cycles, (cost.read_bytes + cost.written_bytes) / dram.bytes_per_cycle / _REFRESH)


def runs_at(point: Point, clock_mhz: float) -> float:
    """The clock of a core that reaches so many MHz: behind a board's memory at most its controller's."""
    dram = point.chip.memory
    if point.scope == "engine" or point.weights != "memory" or dram is None:
        return clock_mhz
    return min(clock_mhz, dram.clock_hz / 1e6)


def capacity(device: str) -> dict[str, int]:
    """Cells of a chip; each flip-flop has a LUT beside it."""
    there = CAPACITY[device.rpartition("-")[2]]
    return {
        "comb": there["TRELLIS_FF"], "ff": there["TRELLIS_FF"], "bram": there["DP16KD"],
        "multipliers": there["MULT18X18D"],
    }  # fmt: skip


def clock_band(point: Point) -> tuple[float, float]:
    """Clocks that designs of its kind reach on its chip, the lowest and the highest that are to be expected, in MHz."""
    kind = point.engine if point.scope == "engine" else ("onchip" if point.weights == "chip" else "streamed")
    low, high = coefficients()["clock"][kind]
    faster = coefficients()["clock"]["grade"] ** (point.chip.speed - 6)
    return low * faster, high * faster
