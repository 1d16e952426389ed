# SPDX-License-Identifier: Apache-2.0
"""``nomul import`` and ``nomul info``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from nomul.model.checkpoint import Checkpoint, read_checkpoint
from nomul.model.errors import NomulError
from nomul.model.fold import fold_parts
from nomul.model.store import save_parts, trit_shares

from .common import Loaded, json_option, load_any, print_json, tokenizer_of


def convert(
    source: Checkpoint, name: str, output: Path, read: Callable[[int], object] | None = None
) -> None:
    """Writes the model file of a checkpoint; one matrix at a time is in memory.

    Parameters
    ----------
    source : Checkpoint
    name : str
        Of the model.
    output : Path
    read : callable, optional
        Called with the bytes of every tensor when it has been read.

    Raises
    ------
    NomulError
        If the checkpoint is damaged or the file cannot be written; what was there stays.
    """
    with ThreadPoolExecutor(1) as pool:
        identity = pool.submit(source.sha256)  # a second reading, beside the first

        def description() -> dict[str, str]:
            return {
                "name": name,
                "tokenizer": tokenizer_of(source.geometry),
                "source": identity.result(),
            }

        parts = fold_parts(source if read is None else source.observed(read))
        save_parts(
            parts, output, geometry=source.geometry, eps=source.eps, description=description
        )


@click.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE")
@json_option
def import_command(checkpoint: Path, output: Path, as_json: bool) -> None:
    """Import a published CHECKPOINT: ternarise once, fold the norms, pack five trits a byte.

    \b
    Example:
      nomul import MMfreeLM-370M -o mmfreelm-370m.nomul
    """
    source = read_checkpoint(checkpoint)
    g = source.geometry
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not output.parent.is_dir():
        raise NomulError(f"{output}: the folder {output.parent} does not exist")
    console = Console(stderr=True)
    with Progress(
        TextColumn("importing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=console, transient=True, disable=as_json or not console.is_terminal,
    ) as shown:  # fmt: skip
        task = shown.add_task("", total=source.size)
        convert(source, folder.resolve().name, output, lambda size: shown.advance(task, size))
    if as_json:
        print_json({"file": str(output), "bytes": output.stat().st_size, "geometry": asdict(g)})
    else:
        click.echo(
            f"{output}: {g.ternary_weights:,} ternary weights, {output.stat().st_size:,} bytes"
        )


def _facts(loaded: Loaded) -> dict[str, Any]:
    model, g = loaded.model, loaded.model.geometry
    shares = trit_shares(model)
    return {
        "file": str(loaded.path),
        **{k: loaded.header[k] for k in ("name", "tokenizer", "source") if k in loaded.header},
        "geometry": asdict(g),
        "ternary_weights": g.ternary_weights,
        "parameters": g.parameters,
        "weight_bytes": sum(
            part.code.size for layer in model.layers for part in vars(layer).values()
            if hasattr(part, "code")
        ) + model.head.code.size,
        "state_values": g.state_values,
        "eps": model.eps,
        "trits": {
            name: {"minus": round(a, 4), "zero": round(b, 4), "plus": round(c, 4)}
            for name, (a, b, c) in shares.items()
        },
    }  # fmt: skip


@click.command("info")
@click.argument("model", required=False)
@json_option
def info_command(model: str | None, as_json: bool) -> None:
    """Show what is in a MODEL file or checkpoint folder; by default the shipped model.

    \b
    Example:
      nomul info models/stdlib-1m3/model.nomul
    """
    facts = _facts(load_any(model))
    if as_json:
        print_json(facts)
        return
    console = Console()
    trits = facts.pop("trits")
    facts |= facts.pop("geometry")
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        console.print(f"{name.replace('_', ' '):<16} {shown}", markup=False, highlight=False)
    table = Table("matrix", "-1", "0", "+1", box=None, header_style="bold", pad_edge=False)
    for name, share in trits.items():
        table.add_row(name, *(f"{v:.1%}" for v in share.values()))
    console.print(table)
