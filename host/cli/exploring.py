# SPDX-License-Identifier: Apache-2.0
"""``nomul explore``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from nomul.model.errors import NomulError

from .common import json_option, print_json

if TYPE_CHECKING:
    from nomul.host.explore.explore import Explored, Plan
    from nomul.host.explore.farm import Progress as Seen
    from nomul.host.explore.sweep import Sweep
    from nomul.host.explore.work import Outcome, Work

__all__ = ["cluster_options", "explore_command", "needs_explore", "shown_jobs"]

_SHOWN = 5
_STEP = 100  # points between two looks of a bar


def needs_explore() -> None:
    """Says in one line how to install what is missing."""
    import importlib.util

    for name in ("dask", "distributed", "pyarrow"):
        if importlib.util.find_spec(name) is None:
            raise NomulError(f"{name} is not installed: pip install 'nomul[explore]'")


def cluster_options(command: Callable[..., Any]) -> Any:
    """``--scheduler``, ``--workers`` and ``--cache``."""
    for option in (
        click.option("--cache", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
                     help="Where results are kept; default build/explore/cache."),
        click.option("--workers", type=click.IntRange(min=1, max=256), metavar="N",
                     help="Worker processes on this machine; default one a processor."),
        click.option("--scheduler", metavar="tcp://HOST:PORT",
                     help="A Dask scheduler in place of processes on this machine."),
    ):  # fmt: skip
        command = option(command)
    return command


@contextlib.contextmanager
def shown_jobs(what: str, *, quiet: bool) -> Iterator[Seen]:
    """A bar of jobs: how many are settled, how many of these from the cache, and the latest."""
    console = Console(stderr=True, highlight=False)
    cached = failed = 0
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[line]}"), console=console, transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task(what, total=None, line="")

        def seen(work: Work, outcome: Outcome, settled: int, of: int) -> None:
            nonlocal cached, failed
            cached += outcome.cached
            failed += not outcome.done
            counts = f"{cached} cached" + (f", {failed} not done" if failed else "")
            bar.update(task, completed=settled, total=of, line=f"{counts}; {work.name}: {outcome.state}"[:100])

        yield seen


@contextlib.contextmanager
def _shown_plan(sweep: Sweep, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar of points that are checked and judged."""
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("planning"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), console=console, transient=True,
        disable=quiet or not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("planning", total=3 * sweep.count // len(sweep.seeds))
        done = 0

        def seen(count: int) -> None:
            nonlocal done
            done += count
            if done >= _STEP:
                bar.advance(task, done)
                done = 0

        yield seen


def _show_plan(chosen: Plan, console: Console) -> None:
    seeds = len(chosen.sweep.seeds)
    console.print(
        f"{chosen.sweep.count:,} points with their seeds; to route: {len(chosen.kept):,} designs, "
        f"{seeds} seed(s) each; pruned {len(chosen.pruned):,}, impossible {len(chosen.impossible):,} designs",
        soft_wrap=True,
    )
    for point, why in chosen.impossible[:_SHOWN]:
        console.print(f"impossible: {point.label}: {why}", markup=False, soft_wrap=True)
    if len(chosen.impossible) > _SHOWN:
        console.print(f"… and {len(chosen.impossible) - _SHOWN:,} more, in the table")


def _show(found: Explored, paths: dict[str, Path], console: Console) -> None:
    s = found.summary
    console.print(
        f"routed {s['routed']:,} ({s['unmet']:,} miss their clock), not done {s['failed']:,}; {s['cached']:,} of "
        f"{s['jobs']:,} jobs from the cache",
        soft_wrap=True,
    )
    for one in s["failures"][:_SHOWN]:
        seed = "" if one["seed"] is None else f", seed {one['seed']}"
        console.print(f"{one['state']}: {one['point']}{seed}: {one['why']}", markup=False, soft_wrap=True)
    for name in s["damaged_entries"]:
        console.print(f"{name}: was damaged; its result was made again", markup=False, soft_wrap=True)
    for name, one in s["model_errors"].items():
        console.print(
            f"model, {name}: median error {one['median']:.2%}, largest {one['largest']:.2%}, {one['points']} designs"
        )
    for name, points in s["fronts"].items():
        console.print(f"front of {name}: {len(points)} point(s), fastest {points[-1]}", markup=False, soft_wrap=True)
    for one in s["not_buildable"].values():
        console.print(f"not to be built: {one['point']}: {one['why']}", markup=False, soft_wrap=True)
    if s["without_watts"]:
        console.print(f"no power coefficients of {', '.join(s['without_watts'])}: their watts are left out")
    for path in paths.values():
        console.print(str(path), markup=False, soft_wrap=True)


@click.command("explore")
@click.argument("sweep", type=click.Path(path_type=Path), metavar="SWEEP.toml")
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help="Where table, page and configurations go; default build/explore/NAME.")  # fmt: skip
@click.option("--exhaustive", is_flag=True, help="Route every point: the model prunes nothing.")
@click.option("--plan", "plan_only", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Don't ask about a large sweep.")
@cluster_options
@json_option
def explore_command(
    sweep: Path,
    output: Path | None,
    exhaustive: bool,
    plan_only: bool,
    yes: bool,
    scheduler: str | None,
    workers: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Generate, synthesise and route every point of SWEEP.toml, and find the best ones.

    Jobs run in Dask. Results are kept by what they depend on: a second run, an overlapping sweep, and going on with one
    that was interrupted cost nothing. docs/explore.md says what a sweep file says.

    \b
    Example:
      nomul explore sweep.toml --plan
      nomul explore sweep.toml --workers 2 -o build/explore/mine
      nomul explore sweep.toml --scheduler tcp://10.0.0.5:8786 --yes
    """
    needs_explore()
    from nomul.host.explore.cache import Cache
    from nomul.host.explore.cluster import connect
    from nomul.host.explore.explore import explore, plan, write
    from nomul.host.explore.sweep import LARGE, read_sweep
    from nomul.hw.build.tools import build_folder

    read = read_sweep(sweep)
    large = read.count >= LARGE and not yes and not plan_only
    if large and (as_json or not sys.stdin.isatty()):
        raise NomulError(f"{sweep}: spans {read.count:,} points; say --yes if you mean it")
    if large and not click.confirm(f"{read.count:,} points: go on?"):
        raise click.Abort()
    with _shown_plan(read, quiet=as_json) as planned:
        chosen = plan(read, exhaustive=exhaustive, seen=planned)
    console = Console(highlight=False)
    if not as_json:
        _show_plan(chosen, console)
    if plan_only:
        if as_json:
            print_json({
                "count": read.count, "route": [point.label for point in chosen.kept],
                "pruned": [{"point": point.label, "why": why} for point, why in chosen.pruned],
                "impossible": [{"point": point.label, "why": why} for point, why in chosen.impossible],
            })  # fmt: skip
        return
    kept = Cache(cache if cache is not None else build_folder("explore", "cache"))
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(shown_jobs("exploring", quiet=as_json))
        found = explore(chosen, lambda: stack.enter_context(connect(scheduler, workers)), kept, seen=seen)
    paths = write(found, output if output is not None else build_folder("explore", sweep.stem))
    if as_json:
        print_json({**found.summary, "files": {name: str(path) for name, path in paths.items()}})
    else:
        _show(found, paths, console)
    if found.summary["failed"]:
        raise NomulError(
            f"{sweep}: {found.summary['failed']} were not done, {found.summary['unsimulated']} of them simulations; "
            f"run it again to try them again"
        )
