# SPDX-License-Identifier: Apache-2.0
"""What is known of a bitstream: the file beside it, by which it is checked, loaded and made again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .core_config import CoreConfig
from .dram_control import DramControl, InitStep
from .errors import NomulError
from .files import atomic, os_errors, parse_json
from .streamed_config import StreamedConfig

__all__ = ["IDCODES", "Manifest", "read_manifest"]

FORMAT = 1
_LINKS = ("uart", "usb")
_AREA = ("used", "available")
_UNITS = ("comb", "ff", "bram", "multipliers")
_MEMORY = {"int": "int", "str": "str", "dict[str, int]": "dict"}
_SHOWN = 60  # characters of a value that is wrong

#: What a chip says of itself over JTAG (Lattice, FPGA-TN-02039, table "ECP5 device IDs").
IDCODES = {
    "LFE5U-25F": 0x41111043, "LFE5U-45F": 0x41112043, "LFE5U-85F": 0x41113043,
    "LFE5UM-25F": 0x01111043, "LFE5UM-45F": 0x01112043, "LFE5UM-85F": 0x01113043,
    "LFE5UM5G-25F": 0x81111043, "LFE5UM5G-45F": 0x81112043, "LFE5UM5G-85F": 0x81113043,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bitstream.

    Attributes
    ----------
    board, configuration : str
        What it is for, and what it is.
    file, sha256, size
        Name beside the manifest; hash and bytes of its contents.
    device, package, speed : str, str, int
        The part.
    design : str
        16 hexadecimal digits: what the board answers when asked.
    sources : str
        64 hexadecimal digits: hash of all that the bitstream was made of, tools included.
    clock_hz : int
        Of the core.
    pll : dict
        ``input_hz`` and dividers; empty where the memory's controller has it.
    link : dict
        ``kind`` and, of a UART, ``baud``.
    loader : list of str
        By which openFPGALoader knows the board.
    cables : list of str
        USB ids of its cable.
    memory : dict or None
        What a host needs to bring the memory up: :class:`~.dram_control.DramControl`.
    core : dict or None
        The configuration of the core.
    geometry : dict or None
        Of the model that it was sized for.
    timing : dict
        Routed: for each clock ``wanted_mhz`` and ``routed_mhz``; ``fmax_mhz`` of the core's;
        ``worst_slack_ns``.
    area : dict
        Cells used and available.
    units : dict
        Cells before packing by unit of the core and of what is around it: ``comb`` (LUT4s), ``ff``, ``bram``,
        ``multipliers``. Empty in manifests of before.
    seed : int
        Of placement.
    tools : dict
        Versions.
    command : str
        That makes it again.
    """

    board: str
    configuration: str
    file: str
    sha256: str
    size: int
    device: str
    package: str
    speed: int
    design: str
    sources: str
    clock_hz: int
    pll: dict[str, Any]
    link: dict[str, Any]
    loader: list[str]
    cables: list[str]
    memory: dict[str, Any] | None
    core: dict[str, Any] | None
    geometry: dict[str, Any] | None
    timing: dict[str, Any]
    area: dict[str, Any]
    seed: int
    tools: dict[str, str]
    command: str
    format: int = field(default=FORMAT)
    units: dict[str, Any] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """As it stands in the bitstream: ``LFE5U-85F-6CABGA381``."""
        return f"{self.device}-{self.speed}{self.package}"

    @property
    def idcode(self) -> int:
        """Of the chip, over JTAG."""
        return IDCODES[self.device]

    def write(self, path: Path) -> None:
        """Writes it, whole or not at all."""
        with atomic(path) as out:
            out.write((json.dumps(asdict(self), indent=2) + "\n").encode())

    def bitstream(self, path: Path) -> bytes:
        """The bitstream beside the manifest ``path``.

        Raises
        ------
        NomulError
            If it is missing, or not what the manifest is about.
        """
        file = path.with_name(self.file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise NomulError(f"{file}: {(error.strerror or str(error)).lower()}; build it: {self.command}") from None
        if len(data) != self.size or hashlib.sha256(data).hexdigest() != self.sha256:
            raise NomulError(
                f"{file}: is not the bitstream that {path.name} is about ({len(data):,} bytes, {self.size:,} "
                f"expected, or other contents): build it again: {self.command}"
            )
        return data


_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": ("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)),
    "str": ("text", lambda value: isinstance(value, str)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "list": ("a list", lambda value: isinstance(value, list)),
    "dict": ("an object", lambda value: isinstance(value, dict)),
    "None": ("null", lambda value: value is None),
}


def _check(path: Path, name: str, value: Any, kind: str) -> None:
    """Refuses a value of none of the types in ``dict[str, Any] | None``, say; what is in it is not looked at."""
    kinds = [_KINDS[one.partition("[")[0]] for one in kind.split(" | ")]
    if not any(holds(value) for _, holds in kinds):
        text = json.dumps(value)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
        wanted = " or ".join(called for called, _ in kinds)
        raise NomulError(f"{path}: {name} is {shown}; it must be {wanted}: build the bitstream again")


def _inside(found: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Places below the fields, and their types; those above a place come before it, and are right when it comes."""
    for name in ("loader", "cables"):
        yield from (((name, k), "str") for k in range(len(found[name])))
    yield from ((("tools", name), "str") for name in found["tools"])
    yield ("link", "kind"), "str"
    if found["link"]["kind"] == "uart":
        yield ("link", "baud"), "int"
    yield from ((("timing", name), "float") for name in ("fmax_mhz", "worst_slack_ns"))
    yield ("timing", "clocks"), "list"
    for k in range(len(found["timing"]["clocks"])):
        yield ("timing", "clocks", k), "dict"
        yield from ((("timing", "clocks", k, name), "float") for name in ("wanted_mhz", "routed_mhz"))
    for field_name, names in (("area", _AREA), ("units", _UNITS)):
        for name in found[field_name]:
            yield (field_name, name), "dict"
            yield from (((field_name, name, one), "int") for one in names)
    if found["core"] is not None:
        yield from ((("core", name), "int | str") for name in found["core"])
    if found["memory"] is not None:
        yield from ((("memory", one.name), _MEMORY.get(str(one.type), "list")) for one in fields(DramControl))
        yield from ((("memory", "registers", name), "int") for name in found["memory"]["registers"])
        for k in range(len(found["memory"]["init"])):
            yield ("memory", "init", k), "dict"
            yield from ((("memory", "init", k, one.name), str(one.type)) for one in fields(InitStep))


def _named(place: tuple[str | int, ...]) -> str:
    """As ``timing.clocks[0].wanted_mhz``."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises
    ------
    NomulError
        Naming the file, and the field that is wrong.
    """
    with os_errors(path):
        raw = path.read_bytes()
    found = parse_json(raw, f"{path}:", "build the bitstream again")
    if found.get("format") != FORMAT:
        raise NomulError(
            f"{path}: format is {found.get('format')!r}, expected {FORMAT}: it is of another version of nomul"
        )
    found.setdefault("units", {})
    names = {one.name for one in fields(Manifest)}
    for name in sorted(names ^ found.keys()):
        raise NomulError(f"{path}: field {name} is {'missing' if name in names else 'unknown'}")
    for one in fields(Manifest):
        _check(path, one.name, found[one.name], str(one.type))
    for place, kind in _inside(found):
        *above, last = place
        value: Any = found
        for key in above:
            value = value[key]
        if isinstance(value, dict) and last not in value:
            raise NomulError(f"{path}: field {_named(place)} is missing; build the bitstream again")
        _check(path, _named(place), value[last], kind)
    if found["link"]["kind"] not in _LINKS:
        raise NomulError(f"{path}: link.kind is {found['link']['kind']!r}; one of {', '.join(_LINKS)}")
    try:
        if found["memory"] is not None:
            DramControl.from_dict(found["memory"])
        if found["core"] is not None:
            (StreamedConfig if "port" in found["core"] else CoreConfig)(**found["core"])
    except TypeError:
        pass  # a core of another version, which may be built again
    except NomulError as error:
        raise NomulError(f"{path}: {error}") from None
    if found["device"] not in IDCODES:
        raise NomulError(f"{path}: device is {found['device']!r}; one of {', '.join(IDCODES)}")
    if Path(found["file"]).name != found["file"]:
        raise NomulError(f"{path}: file is {found['file']!r}; it must be a name without folders")
    return Manifest(**found)
