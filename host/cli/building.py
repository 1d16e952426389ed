# SPDX-License-Identifier: Apache-2.0
"""``nomul build``."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from nomul.host.configuration import read_configuration
from nomul.host.explore.cost import check_room
from nomul.hw.boards.configurations import (
    CONFIGURATIONS,
    board_top,
    find_configuration,
    identity_hash,
)
from nomul.hw.boards.registry import BOARDS, Board, find_board
from nomul.hw.build.bitstream import Built, Chip, board_sources, build, used_tools
from nomul.hw.build.progress import Seen
from nomul.hw.build.routing import PLACERS
from nomul.hw.build.toolset import KINDS, Toolset, toolset
from nomul.model.core_config import ENGINES, CoreConfig
from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED
from nomul.model.manifest import Manifest, read_manifest
from nomul.model.streamed_config import StreamedConfig

from .common import compile_for, json_option, load_any, print_json, streamed_config
from .flashing import core_of
from .released import released

_SEEDS = 8
#: Where static gives the better clock in a third of the time. What else is released was placed with HeAP, and its
#: command gives its bytes again.
_PLACERS = {"lanes1": "static", "lanes8": "static"}
_BEAT = 36  # bytes, of the core on the chip
_STREAMED, _STREAMED_BEAT = "370M", 8


def is_file(configuration: str) -> bool:
    """Whether ``--config`` names a file rather than a configuration."""
    return configuration not in CONFIGURATIONS and (configuration.endswith(".json") or "/" in configuration)


def chip_from_file(board_name: str, path: Path) -> Chip:
    """What a board gets by a configuration file.

    Raises
    ------
    NomulError
        If the file is for another board, or asks for what the board has not.
    """
    board, found = find_board(board_name), read_configuration(path)
    if found.board != board.name:
        raise NomulError(f"{path}: is for {found.board}, not for {board.name}; build {found.board} with it")
    streamed = isinstance(found.core, StreamedConfig)
    find_configuration("lanes1" if streamed else "onchip", board)
    if streamed:
        assert board.memory is not None
        needs = {"word_bytes": board.memory.word_bytes, "memory_bytes": board.memory.part.capacity, "port": "native"}
        for name, value in needs.items():
            if getattr(found.core, name) != value:
                raise NomulError(
                    f"{path}: core: {name} is {getattr(found.core, name)!r}; the memory of {board.name} wants {value!r}"
                )
        if found.clock_mhz * 1e6 != board.memory.clock_hz:
            raise NomulError(
                f"{path}: clock_mhz is {found.clock_mhz:g}; the controller of {board.name} runs at "
                f"{board.memory.clock_hz / 1e6:g}"
            )
    else:
        board = replace(board, clock_hz=round(found.clock_mhz * 1e6))
    _check_memories(f"{board.name}-{found.name}", board, found.core)
    return Chip(
        top=board_top(board, found.core), configuration=found.name, design=identity_hash(found.core, board),
        core=asdict(found.core), geometry=asdict(found.geometry),
        command=f"nomul build {board.name} --config {shlex.quote(str(path))}",
    )  # fmt: skip


def _check_memories(name: str, board: Board, core: CoreConfig | StreamedConfig | None) -> None:
    """Refuses a core whose block RAMs and multipliers a chip has not, before the minutes that synthesis takes."""
    if core is not None:
        check_room(name, board.device, core)


def chip_for(board_name: str, configuration: str, model: str | None = None) -> Chip:
    """What a board gets; with the sizes of the shipped model or of another one, or as a file says."""
    if is_file(configuration):
        if model is not None:
            raise NomulError(f"--model {model}: {configuration} says what the core is sized for; leave --model out")
        return chip_from_file(board_name, Path(configuration))
    board = find_board(board_name)
    chosen = find_configuration(configuration, board)
    core: CoreConfig | StreamedConfig | None = None
    geometry = None
    if chosen.onchip:
        loaded = load_any(model).model
        image, core = compile_for(loaded, engine=ENGINES[0], bytes_per_beat=_BEAT)
        geometry = image.geometry
    elif chosen.lanes:
        # Any model of up to this size runs on it; by default the smallest of those that were published.
        geometry = load_any(model).model.geometry if model is not None else PUBLISHED[_STREAMED]
        core = streamed_config(
            geometry, port="native", bytes_per_beat=_STREAMED_BEAT, lanes=chosen.lanes, dram=board.memory
        )
    _check_memories(f"{board.name}-{chosen.name}", board, core)
    command = f"nomul build {board.name} --config {chosen.name}"
    if model is not None:
        command += f" --model {shlex.quote(model)}"
    return Chip(
        top=board_top(board, core),
        configuration=chosen.name,
        design=identity_hash(core, board),
        core=None if core is None else asdict(core),
        geometry=None if geometry is None else asdict(geometry),
        command=command,
    )


def chip_of(manifest: Manifest) -> Chip:
    """What a bitstream was made of, as the sources at hand have it.

    Raises
    ------
    NomulError
        If its board or configuration is no more, or the core is of another version.
    """
    if manifest.configuration in CONFIGURATIONS and "--model" not in shlex.split(manifest.command):
        return chip_for(manifest.board, manifest.configuration)
    board, core = find_board(manifest.board), core_of(manifest)
    if not isinstance(core, StreamedConfig):
        board = replace(board, clock_hz=manifest.clock_hz)
    words = shlex.split(manifest.command)
    command = shlex.join(words[: words.index("--seed")])
    return Chip(
        top=board_top(board, core), configuration=manifest.configuration, design=identity_hash(core, board),
        core=manifest.core, geometry=manifest.geometry, command=command,
    )  # fmt: skip


def placer_for(configuration: str) -> str:
    """What ``nomul build`` places a configuration with, unless told."""
    return _PLACERS.get(configuration, PLACERS[0])


def placer_of(manifest: Manifest) -> str:
    """What a bitstream was placed with; commands of before do not say it."""
    words = shlex.split(manifest.command)
    return words[words.index("--placer") + 1] if "--placer" in words else PLACERS[0]


@contextmanager
def shown_progress(name: str, *, quiet: bool) -> Iterator[Seen]:
    """A row for each stage with its time and the tool's last line; without a terminal, lines for begin and outcome."""
    console = Console(stderr=True, highlight=False)
    last: dict[str, str] = {}
    if quiet or not console.is_terminal:

        def tell(stage: str, line: str | None) -> None:
            outcome = f": {last[stage]}" if line is None and last.get(stage) else ""
            if not quiet and (stage not in last or outcome):
                console.print(f"{name}: {stage}{outcome}", markup=False, soft_wrap=True)
            last[stage] = "" if line is None else line

        yield tell
        return
    with Progress(
        SpinnerColumn(finished_text="·"), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
        TextColumn("{task.fields[line]}", style="dim", markup=False), console=console, transient=True,
    ) as progress:  # fmt: skip
        tasks: dict[str, TaskID] = {}

        def seen(stage: str, line: str | None) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"{name}: {stage}", total=1, line="")
            if line is None:
                progress.update(tasks[stage], completed=1)
            else:
                progress.update(tasks[stage], line=line.removeprefix("Info: ")[:60])

        yield seen


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that is closed, end this as Ctrl-C does: with all that it started."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(built: Built) -> None:
    console = Console(highlight=False)
    manifest, report = built.manifest, built.report
    area = Table(
        "unit", "LUT4", "flip-flops", "block RAMs", "multipliers", box=None, header_style="bold", pad_edge=False
    )
    for name, row in manifest.units.items():
        area.add_row(name, *(f"{row[kind]:,}" for kind in ("comb", "ff", "bram", "multipliers")))
    console.print(area)
    console.print("their cells, before packing\n")
    console.print(f"{built.folder / manifest.file} ({manifest.size:,} bytes)", markup=False, soft_wrap=True)
    worst = report.worst
    cells = manifest.area
    counts = ", ".join(
        f"{cells[kind]['used']:,} of {cells[kind]['available']:,} {word}"
        for kind, word in (("TRELLIS_COMB", "LUT4"), ("TRELLIS_FF", "flip-flops"), ("DP16KD", "block RAMs"),
                           ("MULT18X18D", "multipliers"))
        if kind in cells
    )  # fmt: skip
    console.print(
        f"routed with seed {manifest.seed}: {worst.routed_mhz:.1f} MHz of {worst.wanted_mhz:.1f} MHz wanted, "
        f"worst slack {worst.slack_ns:.2f} ns; {counts}\ndesign {manifest.design}; load it with "
        f"nomul flash {manifest.board} --config {manifest.configuration}",
        markup=False, soft_wrap=True,
    )  # fmt: skip


@click.command("build")
@click.argument("board", required=False)
@click.option("--config", "configuration", default=next(iter(CONFIGURATIONS)), show_default=True, metavar="NAME",
              help=f"One of {', '.join(CONFIGURATIONS)}, or a file that nomul explore wrote.")  # fmt: skip
@click.option("--model", metavar="FILE",
              help="Model that the core is sized for; default the shipped one on the chip, else 370M.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where bitstream, manifest and logs go; default build/boards/NAME.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(min=1, max=64), default=_SEEDS, show_default=True,
              help="Placement seeds; the first that meets timing is taken.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), help="Only this placement seed.")
@click.option("-j", "--jobs", type=click.IntRange(min=1),
              help="Seeds placed and routed at once; default one for each core, and one where the sources are "
                   "those of the released bitstream. The result is the same.")  # fmt: skip
@click.option("--placer", type=click.Choice(PLACERS),
              help="nextpnr's placer; default static for lanes1 and lanes8, else heap.")  # fmt: skip
@click.option("--tools", type=click.Choice(KINDS), default=KINDS[0], show_default=True,
              help="yosys and nextpnr from pip, the system's, or the latter where all are there.")  # fmt: skip
@click.option("--lpf", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Your pins, for a bare chip.")  # fmt: skip
@click.option("--list", "list_boards", is_flag=True, help="List boards and configurations.")
@json_option
def build_command(
    board: str | None,
    configuration: str,
    model: str | None,
    output: Path | None,
    seeds: int,
    seed: int | None,
    jobs: int | None,
    placer: str | None,
    tools: str,
    lpf: Path | None,
    list_boards: bool,
    as_json: bool,
) -> None:
    """Build the bitstream of BOARD: synthesis, placement, routing, packing; with a manifest.

    Placement seeds are tried, as many at once as there are cores, until it is known which is the first that meets
    timing. Logs lie beside the bitstream.

    \b
    Example:
      nomul build ulx3s-85f
      nomul build ulx3s-85f --config link
      nomul build ecpix5-85f --config lanes8
      nomul build ulx3s-85f --config build/explore/sweep/ulx3s-85f-180x540x3x256.json
      nomul build lfe5u-45f --config link --lpf pins.lpf
      nomul build --list
    """
    if list_boards:
        _list(as_json)
        return
    if board is None:
        raise click.UsageError(f"name a board: one of {', '.join(BOARDS)}")
    chip = chip_for(board, configuration, model)
    if lpf is not None and chip.board.clock.sites:
        raise click.UsageError(f"--lpf {lpf}: the pins of {board} are known; it is for a bare chip")
    chosen, placer = toolset(tools), placer or placer_for(configuration)
    before = None if is_file(configuration) else _released(chip)
    order = [seed] if seed is not None else _seeds(configuration, seeds, before)
    if jobs is None:
        jobs = 1 if before is not None and _again(before, chip, chosen, placer) else os.cpu_count() or 1
    with ended_by_signals(), shown_progress(chip.name, quiet=as_json) as seen:
        built = build(
            chip, seeds=order, jobs=jobs, placer=placer, tools=chosen, constraints=None if lpf is None else _read(lpf),
            output=output, seen=seen,
        )  # fmt: skip
    if as_json:
        print_json({"folder": str(built.folder), **asdict(built.manifest)})
    else:
        _show(built)


def _released(chip: Chip) -> Manifest | None:
    """The manifest of the bitstream that is released, of this or of other sources."""
    return next((read_manifest(path) for path in released() if path.stem == chip.name), None)


def _again(before: Manifest, chip: Chip, tools: Toolset, placer: str) -> bool:
    """Whether it is made of the same, so that its seed meets timing and others need not run at its side."""
    return placer == placer_of(before) and before.sources == board_sources(chip, used_tools(chip, tools.versions))


def _seeds(configuration: str, count: int, before: Manifest | None) -> list[int]:
    """So many placement seeds; that of a configuration file, or of the released bitstream, comes first: it met once."""
    plain = [*range(1, count + 1)]
    if is_file(configuration):
        first = read_configuration(Path(configuration)).seed
    else:
        first = None if before is None else before.seed
    return plain if first is None else [first, *(seed for seed in plain if seed != first)][:count]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise NomulError(f"{path}: is not text; name an LPF file") from None


def _list(as_json: bool) -> None:
    if as_json:
        print_json({
            "boards": {name: {"title": one.title, "part": one.part} for name, one in BOARDS.items()},
            "configurations": {name: one.what for name, one in CONFIGURATIONS.items()},
        })  # fmt: skip
        return
    for name, one in BOARDS.items():
        click.echo(f"{name:<22}{one.title}")
    click.echo()
    for name, configuration in CONFIGURATIONS.items():
        click.echo(f"{name:<22}{configuration.what}")
