# SPDX-License-Identifier: Apache-2.0
"""``nomul bench``: what this machine can measure, as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nomul.hw.build.bench_engines import CONFIGURATIONS, measure
from nomul.hw.build.synth import SEEDS
from nomul.model.core_config import CoreConfig
from nomul.model.program import Image
from nomul.model.tokenizer import BEGIN
from nomul.sim.golden import Golden

from .board import open_board
from .common import Loaded, compile_for, json_option, load_any, print_json
from .reporting import report

_TOKENS = 200


def golden_speed(image: Image) -> float:
    """Tokens a second that the golden model generates, one lane."""
    golden, token = Golden(image), BEGIN
    token = int(golden.step(token)[0])
    begin = time.perf_counter()
    for _ in range(_TOKENS):
        token = int(golden.step(token)[0])
    return round(_TOKENS / (time.perf_counter() - begin), 1)


def board_speed(image: Image, config: CoreConfig) -> dict[str, float]:
    """Tokens and cycles a second of the simulated board, driven through its link."""
    with open_board("sim", image, config) as (board, process):
        assert process is not None
        before = process.statistics()
        begin = time.perf_counter()
        made = sum(1 for _ in board.generate([BEGIN], _TOKENS))
        seconds = time.perf_counter() - begin
        after = process.statistics()
    return {
        "tokens_per_second": round(made / seconds, 1),
        "cycles_per_second": round(
            (after["cycles"] - before["cycles"]) / (after["seconds"] - before["seconds"])
        ),
    }


_COMMAND = "from nomul.host.cli import main; main()"
_GENERATE = """
import json, sys
from nomul.hw.build.design import design
from nomul.hw.build.verilog import convert
from nomul.model.core_config import CoreConfig
convert(design(CoreConfig(**json.loads(sys.argv[1]))), "top")
"""


def child(program: str, *arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a Python program as a whole process."""
    begin = time.perf_counter()
    command = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"bench: {' '.join(arguments)} failed")
    return {"seconds": round(time.perf_counter() - begin, 2), "peak_mb": round(usage.ru_maxrss / 1024, 1)}


def _whole(loaded: Loaded, seeds: tuple[int, ...]) -> dict[str, Any]:
    image, config = compile_for(loaded.model, engine="select", bytes_per_beat=36)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        result: dict[str, Any] = {"verilog": child(_GENERATE, config.to_json())}
        if loaded.checkpoint is not None:
            source = str(loaded.path.parent if loaded.path.is_file() else loaded.path)
            result["import"] = child(_COMMAND, "import", source, "-o", str(target / "model.nomul"))
    result["golden"] = {"tokens_per_second": golden_speed(image)}
    result["simulated_board"] = board_speed(image, config)
    result["engines"] = {name: measure(name) for name in CONFIGURATIONS}
    result["report"] = report(image, config, seeds)
    return result


@click.command("bench")
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--seeds", type=click.IntRange(min=1, max=16), default=len(SEEDS), show_default=True,
              help="Placement seeds of the core; engines take four.")  # fmt: skip
@json_option
def bench_command(model: str | None, seeds: int, as_json: bool) -> None:
    """Measure everything: engines, core, cycles, golden model, simulated board, import, Verilog.

    \b
    Example:
      nomul bench --json > bench.json
    """
    with Console(stderr=True).status("measuring"):
        result = {
            "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
            **_whole(load_any(model), tuple(range(1, seeds + 1))),
        }
    if as_json:
        print_json(result)
        return
    for name in ("golden", "simulated_board", "import", "verilog"):
        if name in result:
            pairs = ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in result[name].items())
            click.echo(f"{name.replace('_', ' '):<16} {pairs}")
    for name, row in result["engines"].items():
        click.echo(
            f"engine {name:<14} {row['comb']:,} comb, {row['fmax_median_mhz']:.1f} MHz, "
            f"{row['bram']} block RAMs, {row['multipliers']} multipliers"
        )
    click.echo(f"core             {result['report']['tokens_per_second']:,} tokens/s (routed over simulated)")
