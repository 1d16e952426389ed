# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.cli.activity REPORT.json``: adds toggle rates to a report, for modelled power."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nomul.host.driver import Board
from nomul.host.transport import SerialTransport
from nomul.hw.build.design import design_hash, design_verilog
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.image import regions
from nomul.model.program import Image
from nomul.model.tokenizer import BEGIN
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.toggles import Toggles, count_toggles, kinds_of

from .common import compile_for, load_any, print_json

__all__ = ["activity", "main", "unit_of"]

_TOKENS = 8
_TRIES = 120  # of half a second: a traced board is slow, most of all to sum up its memories
_TOP = "top"


def unit_of(scope: tuple[str, ...], names: Iterable[str]) -> str | None:
    """Unit of a report that a scope belongs to; ``None`` outside the chip."""
    if _TOP not in scope:
        return None
    parts = [re.sub(r"\$\d+$", "", part) for part in scope[scope.index(_TOP) + 1 :]]
    if parts[:1] == ["link"]:
        return "link"
    return parts[1] if len(parts) > 1 and parts[0] == "core" and parts[1] in set(names) else "between"


def rates(units: Mapping[str, Toggles], names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Rates of each unit; what shows no signal of a kind gets the mean of all."""
    whole = Toggles()
    for toggles in units.values():
        whole.cycles = toggles.cycles
        whole.reads += toggles.reads
        whole.accesses += toggles.accesses
        for kind in whole.bits:
            whole.bits[kind] += toggles.bits[kind]
            whole.changes[kind] += toggles.changes[kind]
    mean = whole.rates()
    own = {name: units[name].rates() if name in units else {} for name in names}
    return {
        name: {kind: round(found.get(kind, rate), 4) for kind, rate in mean.items()}
        for name, found in own.items()
    }


def activity(image: Image, config: CoreConfig, names: Iterable[str]) -> dict[str, Any]:
    """Toggle rates by unit while the simulated board makes tokens, each fed back."""
    names = list(names)
    hash_, text = design_hash(config), design_verilog(config)
    program = build_board(text, traced=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.vcd"
        with (
            BoardProcess(program) as process,
            Board(SerialTransport(process.port), design=hash_, tries=_TRIES) as board,
        ):
            board.load(regions(image, config.weight_beats))
            token = board.step(BEGIN, reset=True)
            process.trace(path)
            for _ in range(_TOKENS):
                token = board.step(token, reset=False)
            process.trace(None)
        units = count_toggles(
            path,
            kinds_of(text),
            module_of=lambda scope: ".".join(scope[scope.index(_TOP) :]) if _TOP in scope else "",
            unit_of=lambda scope: unit_of(scope, names),
        )
    return {
        "how": "simulated: Verilator, a part of the cycles of whole tokens",
        "tokens": _TOKENS,
        "cycles": next(iter(units.values())).cycles,
        "rates": rates(units, names),
    }


@click.command("activity")
@click.argument("report", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--model", metavar="FILE", help="Model file or checkpoint; default the shipped one.")
def main(report: Path, model: str | None) -> None:
    """REPORT.json (of ``nomul report --json``) with toggle rates, for the meter ``modelled:FILE``.

    \b
    Example:
      python -m nomul.host.cli.activity report.json > modelled.json
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        wanted = found["configuration"]
        names = found["units"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{report}: not a report of nomul report --json ({error})") from None
    loaded = load_any(model)
    image, config = compile_for(
        loaded.model, engine=wanted.get("engine"), bytes_per_beat=wanted.get("bytes_per_beat")
    )
    if json.loads(config.to_json()) != wanted:
        raise click.ClickException(f"{report}: is of another core than the one that runs {loaded.path}")
    with Console(stderr=True).status("simulating"):
        try:
            print_json(found | {"activity": activity(image, config, names)})
        except NomulError as error:
            raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
