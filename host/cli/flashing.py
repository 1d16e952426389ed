# SPDX-License-Identifier: Apache-2.0
"""``nomul flash``."""

from __future__ import annotations

import gc
import importlib.util
import warnings
from importlib import resources
from itertools import chain
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from nomul.host.loader import Loader
from nomul.hw.build.tools import build_folder
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.manifest import IDCODES, Manifest, read_manifest
from nomul.model.names import nearest
from nomul.model.streamed_config import StreamedConfig

from .common import json_option, print_json

__all__ = ["core_of", "find_bitstream", "find_design", "flash_command", "manifests", "out_of_date"]

#: USB ids of boot loaders, which take bitstreams over DFU and lie at the flash's beginning; by how names begin.
_BOOT_LOADERS = {"orangecrab": "1209:5af0", "butterstick": "1209:5af1"}


def manifests() -> dict[str, list[Path]]:
    """Manifests by the names of their bitstreams: those built here, and behind them the released ones."""
    found: dict[str, list[Path]] = {}
    for path in [*sorted(build_folder("boards").glob("*/*.json")), *sorted(_released().glob("*.json"))]:
        if path.name != "report.json":
            found.setdefault(path.stem, []).append(path)
    return found


def _released() -> Path:
    return Path(str(resources.files("nomul.bitstreams")))


def find_bitstream(board: str, configuration: str) -> tuple[Path, Manifest]:
    """The manifest of a board's bitstream: of the one built here, or, if that is out of date, of the released one.

    Raises
    ------
    NomulError
        If there is none, or it is not whole.
    """
    known, name = manifests(), f"{board}-{configuration}"
    if name in known:
        found = [(path, read_manifest(path)) for path in known[name]]
        return next((one for one in found if out_of_date(one[1]) is None), found[0])
    if importlib.util.find_spec("amaranth") is None:  # what can be built is not known here
        near = nearest(name, known)
        raise NomulError(f"{name}: no bitstream is here; {near}")
    from nomul.hw.boards.configurations import find_configuration
    from nomul.hw.boards.registry import find_board

    find_configuration(configuration, find_board(board))
    others = sorted(one.removeprefix(f"{board}-") for one in known if one.startswith(f"{board}-"))
    there = f", or take --config {' or '.join(others)}" if others else ""
    raise NomulError(f"{name}: no bitstream is here; build it: nomul build {board} --config {configuration}{there}")


def find_design(design: bytes) -> Manifest | None:
    """The manifest of what a board runs that says it has this design; ``None`` if none is here.

    Boards with a memory have designs of their own. One with its model on the chip may be another board's with the
    same core.
    """
    for path in chain.from_iterable(manifests().values()):
        manifest = read_manifest(path)
        if manifest.design == design.hex():
            return manifest
    return None


def core_of(manifest: Manifest) -> CoreConfig | StreamedConfig | None:
    """The configuration of a bitstream's core."""
    if manifest.core is None:
        return None
    kind = StreamedConfig if "port" in manifest.core else CoreConfig
    try:
        return kind(**manifest.core)
    except TypeError as error:
        raise NomulError(f"{manifest.file}: its core is of another version of nomul ({error})") from None


def out_of_date(manifest: Manifest) -> str | None:
    """Why a bitstream is not what the sources at hand make, or ``None``.

    Unknown where what writes its Verilog is not installed, as on a host without Amaranth. Which tools made it, and of
    which versions, is not asked: that is what its manifest says.
    """
    needed = ["amaranth"] + ["litex"] * bool(manifest.memory) + ["luna"] * (manifest.link["kind"] == "usb")
    if any(importlib.util.find_spec(name) is None for name in needed):
        return None
    from nomul.hw.build.bitstream import board_sources

    from .building import chip_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Amaranth's, of hardware that is only looked at
        chip = chip_of(manifest)
        sources = board_sources(chip, manifest.tools)
        design = chip.design.hex()
        del chip
        gc.collect()
    if design != manifest.design:
        why = f"its design is {manifest.design}, that of this nomul {design}"
    elif sources != manifest.sources:
        why = "it was made of another state of the board's top or the build flow"
    else:
        return None
    return f"{manifest.file} is out of date: {why}; build it again: {manifest.command}"


def _mind_boot_loader(board: str, file: Path) -> None:
    """Keeps the flash of a board whose boot loader lies at its beginning, where a bitstream would go."""
    for name, ids in _BOOT_LOADERS.items():
        if board.startswith(name):
            raise NomulError(
                f"{board}: --persist would write over the boot loader at the beginning of its flash; start the boot "
                f"loader instead, then: dfu-util --device {ids} --alt 0 --download {file} --reset"
            )


@click.command("flash")
@click.argument("board")
@click.option("--config", "configuration", default="onchip", show_default=True, metavar="NAME",
              help="Which of the board's bitstreams.")  # fmt: skip
@click.option("--persist", is_flag=True, help="To the board's flash, for every power-up; else until the next.")
@click.option("--cable", metavar="NAME", help="openFPGALoader's name of another JTAG cable than the board's own.")
@json_option
def flash_command(board: str, configuration: str, persist: bool, cable: str | None, as_json: bool) -> None:
    """Load the bitstream of BOARD with openFPGALoader.

    It is the one that nomul build made last or, if that is out of date, the released one. Chip and bitstream are
    compared first.

    \b
    Example:
      nomul flash ulx3s-85f
      nomul flash ulx3s-85f --persist
    """
    path, manifest = find_bitstream(board, configuration)
    if persist:
        _mind_boot_loader(board, path.with_name(manifest.file))
    data = manifest.bitstream(path)
    if manifest.part.encode() not in data[:256]:
        raise NomulError(
            f"{path.with_name(manifest.file)}: is not for {manifest.part}; build it again: {manifest.command}"
        )
    stale = out_of_date(manifest)
    if stale is not None:
        raise NomulError(stale)
    if not manifest.loader and cable is None:
        raise NomulError(f"{board}: has no cable of its own; name yours with --cable, as in --cable ft232")
    loader = Loader(manifest.loader if cable is None else ("--cable", cable),
                    manifest.cables if cable is None else ())  # fmt: skip
    version = loader.version()
    found = loader.detect()
    if found != manifest.idcode:
        names = [name for name, code in IDCODES.items() if code == found]
        raise NomulError(
            f"{manifest.file} is for {manifest.device} ({manifest.idcode:#010x}), the board has "
            f"{names[0] if names else 'another chip'} ({found:#010x}); name the board that is attached"
        )
    console = Console(stderr=True, highlight=False)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        console=console, transient=True, disable=as_json or not console.is_terminal,
    ) as shown:  # fmt: skip
        task = shown.add_task("loading", total=100)
        loader.write(
            path.with_name(manifest.file), persist=persist,
            progress=lambda stage, percent: shown.update(task, description=stage.lower(), completed=percent),
        )  # fmt: skip
    result = {
        "board": board, "configuration": configuration, "file": str(path.with_name(manifest.file)),
        "design": manifest.design, "part": manifest.part, "idcode": f"{found:#010x}", "persist": persist,
        "loader": version,
    }  # fmt: skip
    if as_json:
        print_json(result)
        return
    where = "in its flash, read back and equal" if persist else "running, until it is switched off"
    click.echo(f"{board}: {manifest.file} is {where}; design {manifest.design}")
    click.echo(f"next: nomul doctor --board {board} --config {configuration}")
