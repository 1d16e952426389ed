# SPDX-License-Identifier: Apache-2.0
"""``nomul report``."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nomul.model.core_config import CoreConfig

from .common import (
    compile_core,
    core_options,
    dram_option,
    json_option,
    load_any,
    memory_of,
    print_json,
)
from .report_figures import report, streamed_report

_AREA = ("comb", "ff", "bram", "multipliers")


def _show(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    area = Table(
        "unit", "LUT4 (comb)", "flip-flops", "block RAMs", "multipliers", "Fmax",
        box=None, header_style="bold", pad_edge=False,
    )  # fmt: skip
    for name, row in result["units"].items():
        area.add_row(name, *(f"{row[k]:,}" for k in _AREA), "")
    core = result["core"]
    fmax = core["fmax_mhz"]
    area.add_row(
        "all of it",
        *(f"{core[k]:,}" for k in _AREA),
        "not routed" if fmax is None else f"{fmax:.1f} MHz",
        style="bold",
    )
    console.print(area)
    seeds = f", median of seeds {result['seeds']}" if result["seeds"] else ""
    console.print(f"\n{result['part']}-{result['speed']}; {result['how']['area']}{seeds}\n", soft_wrap=True)
    token = result["token"]
    cycles = Table("cycles of a token (simulated)", "", "share", box=None, header_style="bold",
                   pad_edge=False)  # fmt: skip
    for name, value in token["phases"].items():
        cycles.add_row(name, f"{value:,}", f"{value / token['cycles']:.1%}")
    cycles.add_row("all", f"{token['cycles']:,}", "", style="bold")
    console.print(cycles)
    console.print(
        f"\nbound: {token['bound_cycles']:,.0f} weight beats; {token['utilisation']:.1%} of the cycles "
        f"stream weights",
        soft_wrap=True,
    )
    if result["tokens_per_second"] is None:
        console.print("no clock without routing: give --seeds")
        return
    rate = result["tokens_per_second"]
    summed = result.get("tokens_per_second_summed", rate)
    places = 0 if rate > 1000 else 2
    lanes = "" if summed == rate else f", {summed:,.{places}f} with all lanes"
    console.print(
        f"{rate:,.{places}f} tokens/s{lanes} ({result['how']['tokens_per_second']})", soft_wrap=True
    )


@click.command("report")
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--seeds", type=click.IntRange(min=0, max=16), default=4, show_default=True,
              help="Placement seeds; figures are medians. With 0 nothing is routed.")  # fmt: skip
@core_options
@dram_option
@json_option
def report_command(
    model: str | None,
    seeds: int,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: str | None,
    as_json: bool,
) -> None:
    """Area by unit, Fmax, cycles per token against the bound, and where the other cycles go.

    Routing a whole core takes many minutes a seed; results are kept below build/. With --dram the
    memory's controller is part of it.

    \b
    Example:
      nomul report --seeds 1
      nomul report --seeds 0 --port native --lanes 8 --dram ecpix5-85f
    """
    memory = memory_of(dram, weights=weights, board="sim")
    image, config = compile_core(
        load_any(model).model, weights=weights, lanes=lanes, engine=engine,
        bytes_per_beat=bytes_per_beat, dram=memory,
    )  # fmt: skip
    chosen = tuple(range(1, seeds + 1))
    with Console(stderr=True).status("simulating, synthesising, routing"):
        if isinstance(config, CoreConfig):
            result = report(image, config, chosen)
        else:
            result = streamed_report(image, config, chosen, dram=memory)
    print_json(result) if as_json else _show(result)
