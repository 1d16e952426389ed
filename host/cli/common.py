# SPDX-License-Identifier: Apache-2.0
"""What several commands share: the shipped model, options, JSON output."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import click

from nomul.hw.dram.boards import BOARDS, DramBoard
from nomul.model.checkpoint import Checkpoint, read_checkpoint
from nomul.model.core_config import ENGINES, CoreConfig
from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer
from nomul.model.fold import Model, fold
from nomul.model.geometry import Geometry
from nomul.model.memory_map import BLOCK
from nomul.model.program import Image, compile_model
from nomul.model.sections import compile_sections
from nomul.model.store import load
from nomul.model.streamed_config import StreamedConfig
from nomul.model.tokenizer import ByteTokenizer, tokenizer

__all__ = ["Loaded", "compile_core", "compile_for", "core_option", "core_options", "dram_option", "json_option",
           "load_any", "memory_of", "print_json", "shipped", "streamed_config", "tokenizer_for"]  # fmt: skip

_FILE = "model.nomul"
SHIPPED = "stdlib-1m3"  #: The model on the simulated board when none is named.


@cache
def shipped() -> Path:
    """The folder of the shipped on-chip model."""
    return Path(str(resources.files("nomul.models").joinpath(SHIPPED)))


class Loaded:
    """A model from a model file, or from a checkpoint folder, ternarised on the spot, or a folder's model file.

    Attributes
    ----------
    model : Model
    header : dict
        Of the model file; of a checkpoint only its name and tokenizer.
    checkpoint : Checkpoint or None
        Where the float weights are, if they are at hand: beside a model file, the checkpoint that it
        was made of and no other.
    """

    def __init__(self, path: Path):
        self.path = path
        self.model: Model
        self.header: dict[str, Any]
        if path.is_dir() and (path / "config.json").is_file():
            checkpoint = read_checkpoint(path)
            self.checkpoint = checkpoint
            self.model = fold(checkpoint)
            self.header = {"name": path.name, "tokenizer": tokenizer_of(self.model.geometry)}
        elif path.is_dir() and not (path / _FILE).is_file():
            raise NomulError(f"{path}: the folder has no config.json and no {_FILE}; name a checkpoint or a file")
        else:
            self.path = path / _FILE if path.is_dir() else path
            self.model, self.header = load(self.path)

    @cached_property
    def checkpoint(self) -> Checkpoint | None:
        if not (self.path.parent / "config.json").is_file():
            return None
        found = read_checkpoint(self.path.parent)
        return found if found.sha256() == self.header.get("source") else None


def tokenizer_of(geometry: Geometry) -> str:
    """Kind of tokenizer that goes with a vocabulary."""
    return "bytes" if geometry.vocab == 256 else "tokenizer.json"


def tokenizer_for(loaded: Loaded) -> ByteTokenizer | FileTokenizer:
    """The tokenizer that a model was trained with; a ``tokenizer.json`` lies beside it.

    Raises
    ------
    NomulError
        If it is missing or unknown.
    """
    kind, vocab = loaded.header.get("tokenizer"), loaded.model.geometry.vocab
    if kind == FileTokenizer.kind:
        folder = loaded.path if loaded.path.is_dir() else loaded.path.parent
        return FileTokenizer(folder, vocab=vocab)
    return tokenizer(str(kind), vocab=vocab)


def load_any(path: str | None) -> Loaded:
    """A model by path; the shipped one by default."""
    chosen = Path(path) if path is not None else shipped() / _FILE
    if not chosen.exists():
        raise NomulError(f"{chosen}: no such file or folder")
    if not (chosen.is_file() or chosen.is_dir()):
        raise NomulError(f"{chosen}: is neither a file nor a folder; name a model file")
    return Loaded(chosen)


def compile_for(model: Model, *, engine: str, bytes_per_beat: int) -> tuple[Image, CoreConfig]:
    """Image of a model and the core that it runs on: the released one if the model fits it, else one grown for it."""
    config = CoreConfig(engine=engine, bytes_per_beat=bytes_per_beat)
    own = CoreConfig.for_geometry(model.geometry, engine=engine, bytes_per_beat=bytes_per_beat)
    image = compile_model(
        model, bytes_per_beat=config.bytes_per_beat, tile_outputs=config.tile_outputs
    )
    try:
        config.check(image)
    except NomulError:
        config = own.grown_for(image)
    return image, config


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--json``: machine-readable output."""
    return click.option("as_json", "--json", is_flag=True, help="Print JSON.")(command)


#: Word and size of the memory behind each port of a streamed core: that of an ECPIX-5; 2 GB over AXI.
_BEATS = {"onchip": 36, "native": 8, "axi": 32}  # bytes, where none are given
_STATE_ON_CHIP = 1 << 20  # elements
_MEMORIES = {"native": (16, 1 << 29), "axi": (None, 1 << 31)}


def streamed_config(
    geometry: Geometry,
    *,
    port: str,
    bytes_per_beat: int,
    lanes: int,
    dram: DramBoard | None = None,
    boards: int = 1,
) -> StreamedConfig:
    """A streamed core for models up to a size; for the memory of a board, if one is named.

    States stay on the chip with one lane, or behind an AXI port, whose chips are large, if they are not
    too many; logits too where memory's words are too wide for them. Of several boards that share a model each has
    states for twice the lanes of all, in memory.
    """
    word, memory = (dram.word_bytes, dram.part.capacity) if dram else _MEMORIES[port]
    if word is None and bytes_per_beat > BLOCK:
        raise NomulError(f"core: bytes_per_beat is {bytes_per_beat}; over AXI it is at most {BLOCK}")
    word = word or bytes_per_beat
    slots = 1 if lanes == boards == 1 else 2 * boards * lanes
    large = slots * geometry.state_values > _STATE_ON_CHIP
    return StreamedConfig.for_geometry(
        geometry, port=port, bytes_per_beat=bytes_per_beat, lanes=lanes, word_bytes=word,
        memory_bytes=memory, slots=slots,
        state="memory" if large or boards > 1 or (lanes > 1 and port == "native") else "chip",
        logits="chip" if word > 32 else "memory",
    )  # fmt: skip


def compile_core(
    model: Model,
    *,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: DramBoard | None = None,
) -> tuple[Image, CoreConfig | StreamedConfig]:
    """Image of a model and the core that the options of :func:`core_options` ask for."""
    beat = bytes_per_beat or _BEATS[weights]
    if weights == "onchip":
        if lanes != 1:
            raise NomulError(
                f"core: lanes is {lanes}; a whole core has one lane so far on the chip: take another --port"
            )
        return compile_for(model, engine=engine or ENGINES[0], bytes_per_beat=beat)
    if engine is not None:
        raise click.UsageError(
            f"--engine {engine} with --port {weights}: streamed cores have the table engine; leave --engine out"
        )
    config = streamed_config(
        model.geometry, port=weights, bytes_per_beat=beat, lanes=lanes, dram=dram
    )
    return config.compile(model), config


def board_names(name: str) -> list[str]:
    """Boards that ``--board`` names, separated by commas.

    Raises
    ------
    NomulError
        If one is named twice, or has no name.
    """
    names = [one.strip() for one in name.split(",")]
    for one in names:
        if not one:
            raise NomulError(f"--board {name}: a name is empty; separate names by single commas")
        if one != "sim" and names.count(one) > 1:
            raise NomulError(f"--board {name}: {one} is named twice; each board holds layers of its own")
    return names


def compile_for_boards(
    model: Model,
    count: int,
    *,
    weights: str,
    lanes: int,
    engine: str | None,
    bytes_per_beat: int | None,
    dram: DramBoard | None = None,
) -> tuple[list[Image], StreamedConfig]:
    """Image of each of several boards' section of a model, and their core.

    Raises
    ------
    NomulError
        If there are more boards than layers, or their core has its weights on the chip.
    """
    if weights == "onchip":
        raise NomulError(
            f"boards: {count} of them; a core with its weights on the chip runs whole models only: take another --port"
        )
    if engine is not None:
        raise click.UsageError(
            f"--engine {engine} with --port {weights}: streamed cores have the table engine; leave --engine out"
        )
    config = streamed_config(
        model.geometry, port=weights, bytes_per_beat=bytes_per_beat or _BEATS[weights], lanes=lanes, dram=dram,
        boards=count,
    )  # fmt: skip
    return compile_sections(model, config, count), config


def core_options(command: Callable[..., Any], *, port: str = "--port") -> Callable[..., Any]:
    """The generated core: ``--port`` (or another name for it), ``--lanes``, ``--engine``, ``--bytes-per-beat``."""
    for option in (
        click.option("--bytes-per-beat", type=click.IntRange(min=1),
                     help="Weight bytes a cycle, five trits each; default 36 on the chip, 8 native, 32 AXI."),
        click.option("--engine", type=click.Choice(ENGINES),
                     help=f"Ternary engine of a core with its weights on the chip, by default {ENGINES[0]}; "
                          f"others have tables."),
        click.option("--lanes", type=click.IntRange(min=1, max=16), default=1, show_default=True,
                     help="Tokens that share each weight byte; 1 on the chip."),
        click.option("weights", port, type=click.Choice([*_BEATS]), default="onchip", show_default=True,
                     help="Where weights come from: memories on the chip, LiteDRAM's native port, an AXI4 port."),
    ):  # fmt: skip
        command = option(command)
    return command


def dram_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--dram``: the memory of the simulated board."""
    return click.option(
        "--dram", type=click.Choice([*BOARDS]),
        help="Memory and controller of the simulated board are this one's; for a native port.",
    )(command)  # fmt: skip


def memory_of(dram: str | None, *, weights: str, board: str) -> DramBoard | None:
    """The memory that ``--dram`` names.

    Raises
    ------
    click.UsageError
        If there is no place for it.
    """
    if dram is None:
        return None
    if weights != "native" or {*board_names(board)} != {"sim"}:
        raise click.UsageError(f"--dram {dram}: it is for the simulated board and weights from a native port")
    return BOARDS[dram]


def core_option(command: Callable[..., Any], *, engine: str = "--engine") -> Callable[..., Any]:
    """``--engine`` (or another name for it) and ``--bytes-per-beat`` of the generated core."""
    command = click.option(
        "engine", engine, type=click.Choice(ENGINES), default=ENGINES[0], show_default=True,
        help="Ternary engine of the core.",
    )(command)  # fmt: skip
    return click.option(
        "--bytes-per-beat", type=click.IntRange(min=1), default=36, show_default=True,
        help="Weight bytes a cycle; five trits each.",
    )(command)  # fmt: skip


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
