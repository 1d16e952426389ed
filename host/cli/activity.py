# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.cli.activity REPORT.json``: adds toggle rates to a report, for modelled power."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nomul.host.bench.traffic import step_traffic
from nomul.host.driver import Board
from nomul.host.transport import SerialTransport
from nomul.hw.build.design import design_hash, design_verilog
from nomul.hw.build.units import unit_of
from nomul.hw.dram.boards import BOARDS, DramBoard
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import Model
from nomul.model.image import regions
from nomul.model.program import Image
from nomul.model.streamed_config import StreamedConfig
from nomul.model.tokenizer import BEGIN
from nomul.sim.board import BoardProcess, build_board
from nomul.sim.streamed import StreamedSimulation
from nomul.sim.toggles import Toggles, count_toggles, kinds_of

from .common import compile_for, load_any, print_json
from .report_figures import users

__all__ = ["activity", "main", "memory_activity", "scope_unit", "streamed_activity"]

_TOKENS = 8
_TRIES = 120  # of half a second: a traced board is slow, most of all to sum up its memories
_STEPS = 2  # of a streamed core
_WINDOWS = 256  # at most so many are looked at of each of them
_LIMIT_S = 3600.0
_MODEL = "adaptor"  # what a simulation has in the memory's place, controller and all


def scope_unit(scope: tuple[str, ...], root: str, names: Iterable[str]) -> str | None:
    """Unit of a report that a scope of a simulation belongs to.

    Parameters
    ----------
    scope : tuple of str
    root : str
        Scope of the chip.
    names : iterable of str
        The core's units.

    Returns
    -------
    str or None
        ``None`` outside the chip: what simulates the memory is.
    """
    if root not in scope:
        return None
    inside = [part.partition("$")[0] for part in scope[scope.index(root) + 1 :]]
    return None if _MODEL in inside else unit_of(inside, names)


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


def _counted(path: Path, verilog: str, root: str, names: Iterable[str]) -> dict[str, Toggles]:
    """Toggles by unit in a VCD file."""
    chosen = list(names)
    return count_toggles(
        path,
        kinds_of(verilog),
        module_of=lambda scope: ".".join(scope[scope.index(root) :]) if root in scope else "",
        unit_of=lambda scope: scope_unit(scope, root, chosen),
    )


def _found(units: Mapping[str, Toggles], names: Iterable[str], tokens: int) -> dict[str, Any]:
    return {
        "how": "simulated: Verilator, a part of the cycles of whole tokens",
        "tokens": tokens,
        "cycles": next(iter(units.values())).cycles,
        "rates": rates(units, names),
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
        units = _counted(path, text, "top", names)
    return _found(units, names, _TOKENS)


def streamed_activity(
    image: Image, config: StreamedConfig, names: Iterable[str], *, dram: DramBoard | None
) -> dict[str, Any]:
    """Toggle rates by unit while a streamed core generates on all lanes, and what its memory does.

    Link and controller are not in that simulation: their rates are the mean of the others.
    """
    names = list(names)
    simulation = StreamedSimulation(config, board=dram, traced=True)
    period = max(512, _STEPS * int(image.bound_cycles) // _WINDOWS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "steps.vcd"
        last = simulation.run(
            image, users(config, _STEPS), vcd=path, vcd_period=period, limit_s=_LIMIT_S
        )[-1]
        units = _counted(path, simulation.verilog, "core", names)
    found = _found(units, names, _STEPS * config.lanes)
    if dram is None:
        return found
    memory = memory_activity(image, config, dram, last.cycles, last.words, last.activations)
    return found | {"clock_mhz": dram.clock_hz / 1e6, "memory": memory}


def memory_activity(
    image: Image, config: StreamedConfig, dram: DramBoard, cycles: int, words: int, activations: int
) -> dict[str, Any]:
    """What the memory's part does during a step, as :func:`~nomul.host.power.modelled.memory_power` takes it."""
    writes = step_traffic(image, config, texts=config.lanes, logits=0).writes
    return {
        "part": dram.part.name.partition("-")[0],
        "clock_mhz": dram.ratio * dram.clock_hz / 1e6,
        "read_share": round(words * dram.cycles_per_word / cycles, 4),
        "write_share": round(sum(writes.values()) / dram.bytes_per_cycle / cycles, 4),
        "activates_per_second": round(activations * dram.clock_hz / cycles),
    }


def _streamed(
    model: Model, wanted: dict[str, Any], names: Iterable[str], board: str | None
) -> dict[str, Any]:
    """Activity of a streamed core of this configuration."""
    config = StreamedConfig(**wanted)
    return streamed_activity(
        config.compile(model), config, names, dram=BOARDS[board] if board else None
    )


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
        wanted = dict(found["configuration"])
        names = [*found["units"]]
        board = found["memory"]["board"] if "memory" in found else None
        if board is not None and board not in BOARDS:
            raise ValueError(f"memory: board is {board!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise click.ClickException(f"{report}: not a report of nomul report --json ({error})") from None
    loaded = load_any(model)
    try:
        with Console(stderr=True).status("simulating"):
            if "port" in wanted:
                made = _streamed(loaded.model, wanted, names, board)
            else:
                image, config = compile_for(
                    loaded.model, engine=wanted.get("engine", ""),
                    bytes_per_beat=wanted.get("bytes_per_beat", 0),
                )  # fmt: skip
                if asdict(config) != wanted:
                    raise NomulError(f"{report}: is of another core than the one that runs {loaded.path}")
                made = activity(image, config, names)
    except NomulError as error:
        raise click.ClickException(str(error)) from None
    except TypeError as error:  # a field that the configuration does not have
        raise click.ClickException(f"{report}: configuration: {error}") from None
    print_json(found | {"activity": made})


if __name__ == "__main__":
    main()
