# SPDX-License-Identifier: Apache-2.0
"""A file with the configuration of a board's core: what ``nomul explore`` writes and ``nomul build`` takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.files import parse_json
from nomul.model.geometry import Geometry
from nomul.model.streamed_config import StreamedConfig

__all__ = ["FORMAT", "ConfigurationFile", "read_configuration"]

FORMAT = 1
_KINDS = {"onchip": CoreConfig, "streamed": StreamedConfig}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


@dataclass(frozen=True, kw_only=True)
class ConfigurationFile:
    """What is in it.

    Attributes
    ----------
    board, name : str
        For which board; what the bitstream's configuration is called.
    core : CoreConfig or StreamedConfig
    geometry : Geometry
        The model that it is sized for.
    clock_mhz : float
        Of a core with its weights on the chip; else it is the memory controller's.
    seed : int or None
        With which it met its clock.
    """

    board: str
    name: str
    core: CoreConfig | StreamedConfig
    geometry: Geometry
    clock_mhz: float
    seed: int | None


def read_configuration(path: Path) -> ConfigurationFile:
    """Reads one.

    Raises
    ------
    NomulError
        Naming file, field and value.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NomulError(f"{path}: {(error.strerror or str(error)).lower()}; name a configuration file") from None
    found = parse_json(data, f"{path}:", "name a file that nomul explore wrote")

    def field(name: str, kind: type | tuple[type, ...]) -> Any:
        value = found.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise NomulError(f"{path}: {name} is {value!r}; name a file that nomul explore wrote")
        return value

    if field("format", int) != FORMAT:
        raise NomulError(f"{path}: format is {found['format']}; this nomul reads format {FORMAT}")
    kind = field("kind", str)
    if kind not in _KINDS:
        raise NomulError(f"{path}: kind is {kind!r}; one of {', '.join(_KINDS)}")
    name = field("name", str)
    if not _NAME.fullmatch(name):
        raise NomulError(f"{path}: name is {name!r}; letters, digits, dots, dashes and underlines")
    clock = float(field("clock_mhz", (int, float)))
    if not 1.0 <= clock <= 400.0:
        raise NomulError(f"{path}: clock_mhz is {clock:g}; it must be 1 to 400")
    seed = found.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise NomulError(f"{path}: seed is {seed!r}; it must be a whole number")
    sizes, shape = field("core", dict), field("geometry", dict)
    try:
        core = _KINDS[kind](**sizes)
        geometry = Geometry(**shape)
    except TypeError as error:
        raise NomulError(f"{path}: core or geometry is of another version of nomul ({error})") from None
    except NomulError as error:
        raise NomulError(f"{path}: {error}") from None
    return ConfigurationFile(
        board=field("board", str), name=name, core=core, geometry=geometry, clock_mhz=clock, seed=seed
    )
