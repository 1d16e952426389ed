# SPDX-License-Identifier: Apache-2.0
"""``nomul verilog`` and ``nomul sim``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.image import external_regions, regions

from .common import compile_core, core_options, json_option, load_any, print_json
from .exploring import cluster_options, needs_explore, shown_jobs


@click.command("verilog")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FOLDER")
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
@core_options
@json_option
def verilog_command(
    output: Path,
    model: str | None,
    lanes: int,
    weights: str,
    engine: str | None,
    bytes_per_beat: int | None,
    as_json: bool,
) -> None:
    """Write FOLDER/top.v, the model's memory image, and a manifest that says what they are.

    \b
    Example:
      nomul verilog -o build/verilog --bytes-per-beat 36
      nomul verilog -o build/axi --port axi --bytes-per-beat 64
    """
    from nomul.hw.build.design import NOMINAL_CLOCK_HZ, design_hash, design_verilog
    from nomul.hw.build.tools import versions

    loaded = load_any(model)
    image, config = compile_core(
        loaded.model, weights=weights, lanes=lanes, engine=engine, bytes_per_beat=bytes_per_beat
    )
    parts: Sequence[tuple[int, bytes | memoryview]]
    if isinstance(config, CoreConfig):
        parts = [*regions(image, config.weight_beats).items()]
    else:
        parts = external_regions(image)
    source = design_verilog(config)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NomulError(f"{output}: {error.strerror}; name a folder that can be made") from None
    (output / "top.v").write_text(source)
    placed, digest, size = [], hashlib.sha256(), 0
    with open(output / "image.bin", "wb") as blob:
        for address, data in parts:
            placed.append({"address": address, "offset": size, "bytes": len(data)})
            blob.write(data)
            digest.update(data)
            size += len(data)
    manifest = {
        "top": "top",
        "port": weights,
        "design": design_hash(config).hex(),
        "clock_hz": NOMINAL_CLOCK_HZ,
        "core": asdict(config),
        "model": loaded.header.get("name"),
        "geometry": asdict(image.geometry),
        "files": {
            "top.v": hashlib.sha256(source.encode()).hexdigest(),
            "image.bin": digest.hexdigest(),
        },
        "image": placed,
        "tools": versions(),
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    if as_json:
        print_json(manifest)
    else:
        click.echo(
            f"{output}: top.v ({len(source):,} bytes), image.bin ({size:,} bytes), manifest.json"
        )


def _tests() -> Path:
    """The folder of the testbenches, which only a checkout has."""
    folder = Path(__file__).resolve().parents[2] / "tests"
    if not folder.is_dir():
        raise NomulError("sim: the testbenches are in the source checkout; run nomul from one")
    return folder


def _units() -> dict[str, list[Path]]:
    """Unit → its test files that run a cocotb testbench."""
    units: dict[str, list[Path]] = {}
    for bench in sorted(_tests().rglob("*_tb.py")):
        units.setdefault(bench.parent.name, [])
    for unit in units:
        units[unit] = sorted((_tests() / unit).glob("test_*.py"))
    return units


@click.command("sim")
@click.argument("unit", required=False)
@click.option("--list", "list_units", is_flag=True, help="List the units.")
@click.option("--all", "everything", is_flag=True, help="The long sweeps too, as jobs in Dask; what passed is kept.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of all randomness; with --all.")
@click.option("--seeds", type=click.IntRange(min=1, max=1000), default=1, show_default=True, metavar="N",
              help="So many seeds, from --seed on; with --all.")  # fmt: skip
@cluster_options
@json_option
def sim_command(
    unit: str | None,
    list_units: bool,
    everything: bool,
    seed: int,
    seeds: int,
    scheduler: str | None,
    workers: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Run the cocotb testbenches of UNIT, or of all units, on Verilator.

    With --all the long sweeps too, each a job in Dask with a seed that is recorded; a failure is shown with the one
    command that runs it again.

    \b
    Example:
      nomul sim engine
      nomul sim --all --seed 7 --seeds 4
      nomul sim --all --scheduler tcp://10.0.0.5:8786
    """
    units = _units()
    if list_units:
        print_json(list(units)) if as_json else click.echo("\n".join(units))
        return
    if unit is not None and unit not in units:
        raise click.UsageError(f"no unit is called {unit!r}; one of {', '.join(units)}")
    if everything:
        chosen = units if unit is None else {unit: units[unit]}
        _regress(chosen, range(seed, seed + seeds), scheduler, workers, cache, as_json)
        return
    for name, given in (("--scheduler", scheduler), ("--workers", workers), ("--cache", cache)):
        if given is not None:
            raise click.UsageError(f"{name}: it is for --all")
    files = units[unit] if unit else [path for paths in units.values() for path in paths]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not sweep", *map(str, files)]
    done = subprocess.run(
        command, cwd=_tests().parent, check=False, capture_output=as_json, text=True
    )
    if as_json:
        print_json({"unit": unit or "all", "passed": done.returncode == 0,
                    "summary": done.stdout.strip().splitlines()[-1:]})  # fmt: skip
    if done.returncode:
        raise NomulError(f"sim: {unit or 'a unit'} failed")


def _regress(
    units: dict[str, list[Path]],
    seeds: range,
    scheduler: str | None,
    workers: int | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """All testbenches as jobs."""
    needs_explore()
    from nomul.host.explore.cache import Cache
    from nomul.host.explore.cluster import connect
    from nomul.host.explore.regressions import regressions, run_regressions, write_report
    from nomul.hw.build.tools import build_folder

    works = regressions(units, seeds)
    kept = Cache(cache if cache is not None else build_folder("explore", "cache"))
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(shown_jobs("simulating", quiet=as_json))
        found = run_regressions(
            works, lambda: stack.enter_context(connect(scheduler, workers)), kept, seen=seen
        )
    report = build_folder("explore") / "regressions.json"
    write_report(found, report)
    failed = [one for one in found if one["state"] != "passed"]
    if as_json:
        print_json({"seeds": list(seeds), "passed": not failed, "jobs": found})
    else:
        for one in failed:
            click.echo(f"{one['state']}: {one['job']}: {one['summary'].partition('; again: ')[0]}\n  {one['again']}")
        cached = sum(one["cached"] for one in found)
        click.echo(
            f"{len(found) - len(failed)} of {len(found)} jobs passed, {cached} of them before; seeds {seeds[0]} to "
            f"{seeds[-1]}; {report}"
        )
    if failed:
        raise NomulError(f"sim: {len(failed)} of {len(found)} jobs failed; again: {failed[0]['again']}")
