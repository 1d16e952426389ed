# SPDX-License-Identifier: Apache-2.0
"""``nomul bench``: speed, energy and memory traffic of a board and of this machine; the check of a published file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from nomul.model.errors import NomulError
from nomul.model.files import atomic

from .common import core_options, dram_option, json_option, memory_of, print_json

_WIDTH = 140
_MOST_LENGTH = 1 << 20  # as Settings has it, whose module is not for the command line's start
_STYLES = {"equal": "green", "differs": "bold red", "ratio": "cyan", "not re-run": "yellow"}


class _Lengths(click.ParamType):
    """Numbers separated by commas."""

    name = "lengths"

    def __init__(self, least: int):
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        for word in words:
            if not (word.isascii() and word.isdigit() and len(word) < 9 and self._least <= int(word) <= _MOST_LENGTH):
                self.fail(f"{word[:40]!r} is no length; it must be {self._least} to {_MOST_LENGTH}", param, ctx)
        return tuple(dict.fromkeys(map(int, words)))


def _progress(quiet: bool) -> tuple[AbstractContextManager[Any], Callable[[str], None]]:
    """What shows how far it is, and what is called with a line."""
    if quiet:
        return nullcontext(), lambda line: None
    status = Console(stderr=True, highlight=False).status("benching")
    return status, lambda line: status.update(line)


@click.command("bench")
@click.option("--verify", "file", type=click.Path(path_type=Path), metavar="FILE",
              help="Check a bench.json: re-run what can be re-run here, and compare.")  # fmt: skip
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@click.option("--board", "board_name", default=None, metavar="sim|NAME",
              help="The simulated board (the default), a serial port, or tcp://HOST:PORT.")  # fmt: skip
@core_options
@dram_option
@click.option("--clock-mhz", type=click.FloatRange(min=0.001, max=10_000),
              help="Clock of the simulated core; by default what it says of itself.")  # fmt: skip
@click.option("--prompts", type=_Lengths(1), default="16,64", show_default=True, help="Lengths of prompts, in tokens.")
@click.option("--outputs", type=_Lengths(2), default="32", show_default=True, help="Tokens to generate.")
@click.option("--repeat", type=click.IntRange(min=1, max=1000), default=3, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of the prompts.")
@click.option("--meter", "meters", multiple=True, metavar="NAME",
              help="A power meter, as in nomul power: rapl for this machine, any other for the board.")  # fmt: skip
@click.option("--no-cpu", is_flag=True, help="Leave out the golden model and PyTorch.")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Write bench.json and bench.html there.")  # fmt: skip
@json_option
@click.pass_context
def bench_command(
    ctx: click.Context,
    file: Path | None,
    model: str | None,
    board_name: str | None,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: str | None,
    clock_mhz: float | None,
    prompts: tuple[int, ...],
    outputs: tuple[int, ...],
    repeat: int,
    seed: int,
    meters: tuple[str, ...],
    no_cpu: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time to first token, tokens a second, joules a token and memory traffic, beside this machine's CPU.

    Every figure has a label: where there is no board, time is cycles of the simulated RTL over a clock.

    \b
    Example:
      nomul bench -o build/bench
      nomul bench --port native --lanes 4 --dram ecpix5-85f --prompts 16,64 --outputs 32
      nomul bench --verify build/bench/bench.json
    """
    from nomul.host.bench.session import Settings, bench

    shown, say = _progress(as_json or not sys.stderr.isatty())
    if file is not None:
        _only_verify(ctx)
        from nomul.host.bench.verify import verify

        with shown:
            checks = verify(file, model=model, board=board_name, cpu=not no_cpu, say=say)
        _verified([check.to_dict() for check in checks], file, as_json)
        return
    memory_of(dram, weights=weights, board=board_name or "sim")  # or bad usage
    settings = Settings(
        model=model, board=board_name or "sim", weights=weights, lanes=lanes, engine=engine,
        bytes_per_beat=bytes_per_beat, dram=dram, prompts=prompts, outputs=outputs, repeat=repeat, seed=seed,
        clock_mhz=clock_mhz, meters=meters, cpu=not no_cpu,
    )  # fmt: skip
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with shown:
        document = bench(settings, command=shlex.join(["nomul", *sys.argv[1:]]), say=say)
    if output is not None:
        from nomul.host.bench.page import page

        for name, text in (("bench.json", json.dumps(document, indent=1, allow_nan=False) + "\n"),
                           ("bench.html", page(document))):  # fmt: skip
            with atomic(output / name) as out:
                out.write(text.encode())
    if as_json:
        print_json(document)
        return
    _show(document)
    if output is not None:
        click.echo(f"\n{output / 'bench.json'}, {output / 'bench.html'}")


def _only_verify(ctx: click.Context) -> None:
    """Refuses what a file that is checked says itself."""
    allowed = {"file", "model", "board_name", "no_cpu", "as_json"}
    for parameter in ctx.command.params:
        name = parameter.name or ""
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in allowed:
            raise click.UsageError(f"{parameter.opts[-1]} with --verify: the file says it; leave it out")


def _verified(checks: list[dict[str, Any]], file: Path, as_json: bool) -> None:
    """Prints what a check found; leaves with status 1 if something differs, or nothing was re-run."""
    count = {outcome: sum(check["outcome"] == outcome for check in checks) for outcome in _STYLES}
    again = [c for c in checks if c["outcome"] in ("equal", "ratio") and not c["own"]]
    good = not count["differs"] and bool(again)
    if as_json:
        print_json({"file": str(file), "good": good, "counts": count, "checks": checks})
    else:
        console = Console(highlight=False)
        table = Table("outcome", "what", "", box=None, header_style="bold", pad_edge=False)
        for check in checks:
            style = _STYLES[check["outcome"]]
            table.add_row(f"[{style}]{check['outcome']}[/]", check["what"], check["detail"])
        console.print(table)
    if count["differs"]:
        raise NomulError(f"{file}: {count['differs']} of {len(checks)} checks differ; it is not what runs here")
    if not again:
        raise NomulError(f"{file}: nothing of it could be run again here; its figures only follow from its own samples")
    if not as_json:
        told = f"{count['equal']} equal, {count['ratio']} speeds compared, {count['not re-run']} not re-run"
        click.echo(f"{file}: {told}")


def _show(document: dict[str, Any]) -> None:
    from nomul.host.bench.figures import shown

    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)  # a narrow terminal breaks lines; a table would cut figures off
    model, core = document["model"], document["core"]
    console.print(
        f"{model['name']}: {model['ternary_weights']:,} ternary weights; {core['kind']} core, design "
        f"{core['design'] or '?'}, {core['clock_hz'] / 1e6:g} MHz ({core['clock_from']})\n",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    several = document["settings"]["lanes"] > 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    heads = ["", "label", "prompt+output", "first token", "prefill", "decode", *["summed"] * several]
    for head in heads:
        table.add_column(head, no_wrap=True, justify="left" if head in heads[:2] else "right")
    for target in document["targets"]:
        for run in target["runs"]:
            users = f", {run['users']} users" if run["users"] > 1 else ""
            f = run["figures"]
            table.add_row(
                f"{target['name']}{users}", target["label"], f"{run['prompt']}+{run['output']}",
                *(_with_spread(f[name]) for name in ("ttft", "prefill", "decode", *["decode_summed"] * several)),
            )  # fmt: skip
    console.print(table)
    for part in document["absent"]:
        console.print(f"{part['name']}: not measured: {part['why']}", markup=False, soft_wrap=True)
    for target in document["targets"]:
        run = target["runs"][-1]
        if "traffic" in run:
            t = run["traffic"]
            console.print(
                f"\nmemory: {shown(t['bytes_per_token']['value'], 'B')} a token ({t['bytes_per_token']['label']}), "
                f"{shown(t['bandwidth']['value'], 'B/s')} ({t['bandwidth']['label']}), "
                f"{t['share_of_peak']['value']:.1%} of {shown(t['peak']['value'], 'B/s')}",
                markup=False, soft_wrap=True,
            )  # fmt: skip
    _show_energy(document, console)
    console.print(
        "\nprefill, decode: tokens/s; medians, ± half of what lies between the quartiles\n"
        "simulated: cycles of the core over its clock, link and host left out"
    )


def _show_energy(document: dict[str, Any], console: Console) -> None:
    """Joules of every run, and the meter behind them."""
    from nomul.host.bench.energy_page import idle_text, meter_lines
    from nomul.host.bench.figures import shown
    from nomul.host.bench.pieces import called

    measured = [(target, run) for target in document["targets"] for run in target["runs"] if "energy" in run]
    if not measured:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    any_idle = any(run["energy"].get("idle") for _, run in measured)
    for head in ("", "label", "prompt+output", "J/token", *("above idle", "idle before", "after") * any_idle):
        table.add_column(head, no_wrap=True, justify="left" if head in ("", "label") else "right")
    for target, run in measured:
        energy, idle = run["energy"]["decode"], run["energy"].get("idle")
        gross, above = energy["joules_per_token"], energy.get("joules_per_token_above_idle")
        bar = f" ({shown(gross['low'], 'J')} to {shown(gross['high'], 'J')})" if "low" in gross else ""
        more = [
            f"{shown(above['value'], 'J')} ± {shown(above['uncertainty'], 'J')}" if above else "",
            *(shown(idle[side]["value"], "W") if idle else "" for side in ("before", "after")),
        ]
        table.add_row(
            called(target, run["users"]), gross["label"], f"{run['prompt']}+{run['output']}",
            f"{shown(gross['value'], 'J')}{bar}", *(more if any_idle else ()),
        )  # fmt: skip
    console.print()
    console.print(table)
    for target in document["targets"]:
        energy = target["runs"][-1].get("energy")
        if energy is None:
            continue
        console.print(f"\n{target['name']}", markup=False)
        idle = [("idle", idle_text(energy["idle"]))] if energy.get("idle") else []
        for name, text in (*meter_lines(energy["meter"]), *idle):
            console.print(f"  {name:<9} {text}", markup=False, soft_wrap=True)


def _with_spread(figure: dict[str, Any]) -> str:
    from nomul.host.bench.figures import shown

    unit = figure["unit"] if figure["unit"] == "s" else ""
    text = shown(figure["value"], unit)
    half = (figure["q3"] - figure["q1"]) / 2 / figure["value"]
    return f"{text} ±{half:.0%}" if half >= 0.005 else text
