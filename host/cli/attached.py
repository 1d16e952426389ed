# SPDX-License-Identifier: Apache-2.0
"""A model compiled for a board: for the core that the options ask for, or for the one that a board at a port has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nomul.host.driver import Board
from nomul.host.transport import open_transport
from nomul.hw.dram.boards import DramBoard
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import Model
from nomul.model.manifest import Manifest
from nomul.model.program import Image, compile_model
from nomul.model.sections import compile_sections
from nomul.model.streamed_config import StreamedConfig

from .common import compile_core, compile_for_boards
from .flashing import core_of, find_design

__all__ = ["Compiled", "compiled", "running"]

_HERE = ("sim", "golden")


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A model for one or several boards.

    Attributes
    ----------
    images : list of Image
        Of each board's section; one board has all of it.
    config : CoreConfig or StreamedConfig
    manifest : Manifest or None
        Of the bitstream that a board at a port runs, if it is here.
    """

    images: list[Image]
    config: CoreConfig | StreamedConfig
    manifest: Manifest | None


def running(port: str) -> Manifest | None:
    """The manifest of what a board runs, by the design that it tells; ``None`` if it is not here."""
    with Board(open_transport(port)) as board:
        return find_design(board.identity.design)


def compiled(
    names: Sequence[str],
    model: Model,
    *,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: DramBoard | None = None,
) -> Compiled:
    """A model for boards by name: ``sim``, ``golden``, or what a port is called.

    What a board at a port has, its bitstream says, so options may leave it out; they may not say otherwise. Where no
    manifest is of its design, the core is the one that options ask for.

    Raises
    ------
    NomulError
        If the model does not fit, the board has no core, or another one than options say.
    """
    ports = [name for name in names if name not in _HERE]
    manifest = running(ports[0]) if ports else None
    if manifest is None:
        asked: dict[str, Any] = {
            "weights": weights, "lanes": lanes, "engine": engine, "bytes_per_beat": bytes_per_beat, "dram": dram
        }  # fmt: skip
        if len(names) > 1:
            images, config = compile_for_boards(model, len(names), **asked)
            return Compiled(images=images, config=config, manifest=None)
        image, core = compile_core(model, **asked)
        return Compiled(images=[image], config=core, manifest=None)
    found = core_of(manifest)
    what = f"the board at {ports[0]} runs {manifest.board} {manifest.configuration}"
    if found is None:
        raise NomulError(f"{what}, which has no core; load another: nomul flash {manifest.board} --config …")
    onchip = isinstance(found, CoreConfig)
    own = {
        "--port": ("onchip" if onchip else "native", weights if weights != "onchip" else None),
        "--lanes": (found.lanes, lanes if lanes != 1 else None),
        "--engine": (found.engine if isinstance(found, CoreConfig) else "table", engine),
        "--bytes-per-beat": (found.bytes_per_beat, bytes_per_beat),
    }
    for option, (has, given) in own.items():
        if given is not None and given != has:
            raise NomulError(f"{option} {given}: {what}, which has {has}; leave {option} out")
    if isinstance(found, StreamedConfig):
        images = compile_sections(model, found, len(names)) if len(names) > 1 else [found.compile(model)]
        return Compiled(images=images, config=found, manifest=manifest)
    if len(names) > 1:
        raise NomulError(f"boards: {len(names)} of them; {what}, whose core runs whole models only")
    image = compile_model(model, bytes_per_beat=found.bytes_per_beat, tile_outputs=found.tile_outputs)
    found.check(image)
    return Compiled(images=[image], config=found, manifest=manifest)
