# SPDX-License-Identifier: Apache-2.0
"""``nomul report``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nomul.hw.build.design import design
from nomul.hw.build.synth import Synthesis, synthesise
from nomul.hw.core import Core
from nomul.model.core_config import CoreConfig
from nomul.model.counters import EXPOSED, Counter
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.model.ternary import TRITS_PER_BYTE
from nomul.model.tokenizer import BEGIN

from .board import counters, open_board
from .common import compile_for, core_option, json_option, load_any, print_json

_FREQUENCY = 120  # MHz that placement of the whole core aims at
_LIMIT_S = 3600
_TOKENS = 16  # simulated for the cycles


def figures(result: Synthesis) -> dict[str, Any]:
    """Area, and the clock's median over the seeds."""
    return {
        "comb": result.comb,
        "ff": result.ff,
        "bram": result.bram,
        "multipliers": result.multipliers,
        "fmax_mhz": result.fmax_median_mhz,
        "fmax_by_seed_mhz": list(result.fmax_mhz),
    }


def token_figures(image: Image, config: CoreConfig) -> dict[str, Any]:
    """Cycles of a token on the simulated board, against the bound, and where they go."""
    with open_board("sim", image, config) as (board, _):
        seen = set()
        token, fresh = BEGIN, True
        for _ in range(_TOKENS):
            token, fresh = board.step(token, reset=fresh), False
            found = counters(board)
            seen.add(tuple(found.items()))
    if len(seen) != 1:
        raise NomulError("report: tokens took different numbers of cycles; something waits on data")
    cycles = found["token_cycles"]
    phases = {"streaming": found["beats"]}
    phases |= {c.name.lower().removeprefix("exposed_"): found[c.name.lower()] for c in EXPOSED}
    if sum(phases.values()) != cycles or found[Counter.ERROR.name.lower()]:
        raise NomulError(f"report: the core's counters do not add up: {found}")
    return {
        "cycles": cycles,
        "bound_cycles": image.bound_cycles,
        "utilisation": round(image.bound_cycles / cycles, 4),
        "phases": phases,
    }


def units(top: Synthesis, names: list[str]) -> dict[str, dict[str, int]]:
    """Area of the core's units, of the link, and of what belongs to none of them."""
    result: dict[str, dict[str, int]] = {}
    for owner, counts in top.parts.items():
        head, _, unit = owner.partition(".")
        key = unit if head == "core" and unit in names else "link" if head == "link" else "between"
        sums = result.setdefault(key, dict.fromkeys(counts, 0))
        for kind, count in counts.items():
            sums[kind] += count
    return {name: result[name] for name in [*names, "link", "between"] if name in result}


def report(image: Image, config: CoreConfig, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Everything that ``nomul report --json`` prints."""
    token = token_figures(image, config)
    whole = design(config)
    core = whole.core
    assert isinstance(core, Core)
    engine = synthesise(core.engine, name="engine", seeds=seeds)
    top = synthesise(whole, name="top", seeds=seeds, freq=_FREQUENCY, limit_s=_LIMIT_S)
    by_unit = units(top, list(core.units))
    fmax = top.fmax_median_mhz
    return {
        "how": {"area": "routed out of context; units: their cells before packing", "token": "simulated",
                "tokens_per_second": "routed clock over simulated cycles"},
        "configuration": asdict(config),
        "engine": {"kind": config.engine, "trits_per_cycle": TRITS_PER_BYTE * config.bytes_per_beat,
                   **figures(engine)},
        "core": figures(top),
        "units": by_unit,
        "token": token,
        "tokens_per_second": round(fmax * 1e6 / token["cycles"], 1),
        "part": top.part,
        "speed": top.speed,
        "seeds": list(top.seeds),
        "tools": top.tools,
    }  # fmt: skip


def _show(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    area = Table(
        "unit", "LUT4 (comb)", "flip-flops", "block RAMs", "multipliers", "Fmax",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for name, row in result["units"].items():
        area.add_row(name, *(f"{row[k]:,}" for k in ("comb", "ff", "bram", "multipliers")), "")
    core = result["core"]
    area.add_row(
        "whole core, link included",
        *(f"{core[k]:,}" for k in ("comb", "ff", "bram", "multipliers")),
        f"{core['fmax_mhz']:.1f} MHz",
        style="bold",
    )
    console.print(area)
    console.print(
        f"\n{result['part']}-{result['speed']}; units: cells before packing; the core routed out of context, "
        f"median of seeds {result['seeds']}\n",
        soft_wrap=True,
    )
    token = result["token"]
    cycles = Table("cycles of a token (simulated)", "", "share", box=None, header_style="bold",
                   pad_edge=False)  # fmt: skip
    for name, value in token["phases"].items():
        cycles.add_row(name, f"{value:,}", f"{value / token['cycles']:.1%}")
    cycles.add_row("all", f"{token['cycles']:,}", "", style="bold")
    console.print(cycles)
    console.print(
        f"\nbound: {token['bound_cycles']:,.0f} weight beats; {token['utilisation']:.1%} of the cycles "
        f"stream weights\n{result['tokens_per_second']:,.0f} tokens/s (routed clock over simulated cycles)",
        soft_wrap=True,
    )


@click.command("report")
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--seeds", type=click.IntRange(min=1, max=16), default=4, show_default=True,
              help="Placement seeds; figures are medians.")  # fmt: skip
@core_option
@json_option
def report_command(
    model: str | None, seeds: int, engine: str, bytes_per_beat: int, as_json: bool
) -> None:
    """Area by unit, Fmax, cycles per token against the bound, and where the other cycles go.

    Routing the whole core takes minutes a seed; results are kept below build/.

    \b
    Example:
      nomul report --seeds 1
    """
    image, config = compile_for(
        load_any(model).model, engine=engine, bytes_per_beat=bytes_per_beat
    )
    with Console(stderr=True).status("simulating, synthesising, routing"):
        result = report(image, config, tuple(range(1, seeds + 1)))
    print_json(result) if as_json else _show(result)
