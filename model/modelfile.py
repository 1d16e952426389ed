# SPDX-License-Identifier: Apache-2.0
"""The container of a ``.nomul`` file: a JSON header and named arrays, with checksums.

``docs/model-file.md`` has the layout. The container knows nothing of models;
:mod:`nomul.model.store` says what a model puts in.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NomulError
from .files import atomic, canonical_json, os_errors, parse_json

__all__ = ["ALIGNMENT", "FORMAT_VERSION", "MAGIC", "ModelFile", "Section", "read", "write"]

#: First bytes of a model file; a transfer as text would change the line end.
MAGIC = b"NOMUL\r\n\x1a"
FORMAT_VERSION = 1  #: Version of the container that this module reads and writes.
ALIGNMENT = 64  #: Every section begins at a multiple of so many bytes.

_PREAMBLE = struct.Struct("<8sIII")  # magic, version, bytes of header JSON, CRC-32
_CHECKED = struct.Struct("<8sII")  # what of the preamble the CRC covers, with the JSON
_HEADER_MAX = 1 << 26
_DTYPES = {
    f"{kind}{size}": np.dtype(f"<{kind}{size}")
    for kind, sizes in (("i", (1, 2, 4, 8)), ("u", (1, 2, 4, 8)), ("f", (2, 4, 8)))
    for size in sizes
}
_MEND = "copy it again or import the checkpoint again"


def _align(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class Section:
    """Where a section lies and what it is.

    Attributes
    ----------
    name : str
    dtype : str
        ``i``, ``u`` or ``f`` and the bytes of an element; little endian.
    shape : tuple of int
    offset : int
        From the begin of the file.
    size : int
        Bytes.
    crc : int
        CRC-32 (as in zip) of the bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    crc: int


def _identity(kinds: list[tuple[str, str, tuple[int, ...]]], contents: list[Any]) -> str:
    """SHA-256 over all sections.

    Of each: ``[name, dtype, shape]`` as canonical JSON, a line end, its bytes.
    """
    digest = hashlib.sha256()
    for (name, dtype, shape), content in zip(kinds, contents, strict=True):
        digest.update(canonical_json([name, dtype, list(shape)]) + b"\n")
        digest.update(content)
    return digest.hexdigest()


def _elements(name: str, value: bytes | np.ndarray) -> tuple[str, np.ndarray]:
    """Type name and little-endian, contiguous array of a section."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = np.frombuffer(value, np.uint8)
    kind = f"{value.dtype.kind}{value.dtype.itemsize}"
    if kind not in _DTYPES:
        raise TypeError(
            f"section {name!r} has dtype {value.dtype}; a model file takes {', '.join(_DTYPES)}"
        )
    return kind, np.asarray(value, dtype=_DTYPES[kind], order="C")


def write(path: Path, header: Mapping[str, Any], sections: Mapping[str, bytes | np.ndarray]) -> str:
    """Writes a model file, whole or not at all.

    Parameters
    ----------
    path : Path
    header : mapping
        Anything JSON can say; read back, tuples are lists and keys are strings.
    sections : mapping of str to bytes or ndarray
        Bytes are stored as an array of uint8. Their order is kept.

    Returns
    -------
    str
        Identity of the file: SHA-256 over all sections, in hexadecimal.
    """
    arrays = {name: _elements(name, value) for name, value in sections.items()}
    kinds = [(name, kind, array.shape) for name, (kind, array) in arrays.items()]
    contents = [array.reshape(-1).view(np.uint8).data for _, array in arrays.values()]
    crcs = [zlib.crc32(content) for content in contents]
    identity = _identity(kinds, contents)

    table: list[dict[str, Any]] = []
    at = 0  # from the aligned end of the header, so that offsets do not change its length
    for (name, kind, shape), content, crc in zip(kinds, contents, crcs, strict=True):
        at = _align(at)
        table.append(
            {"name": name, "dtype": kind, "shape": list(shape), "offset": at,
             "size": content.nbytes, "crc32": crc}
        )  # fmt: skip
        at += content.nbytes
    text = canonical_json({"header": dict(header), "sections": table, "sha256": identity})
    if len(text) > _HEADER_MAX:
        raise ValueError(
            f"the header of a model file takes {len(text)} bytes, at most {_HEADER_MAX}"
        )
    checked = _CHECKED.pack(MAGIC, FORMAT_VERSION, len(text))
    with atomic(Path(path)) as file:
        file.write(checked + struct.pack("<I", zlib.crc32(text, zlib.crc32(checked))) + text)
        for content in contents:
            file.write(b"\0" * (_align(file.tell()) - file.tell()))
            file.write(content)
    return identity


class _Sections(Mapping[str, np.ndarray]):
    """Read-only arrays on the mapped file; each is checked when it is first asked for."""

    def __init__(self, path: Path, data: memoryview, table: Mapping[str, Section]):
        self._path = path
        self._data = data
        self._table = table
        self._checked: set[str] = set()

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def content(self, name: str) -> memoryview:
        section = self._table.get(name)
        if section is None:
            raise NomulError(f"{self._path}: section {name!r} is missing; {_MEND}")
        content = self._data[section.offset : section.offset + section.size]
        if name not in self._checked:
            if zlib.crc32(content) != section.crc:
                raise NomulError(f"{self._path}: section {name!r} is damaged (checksum); {_MEND}")
            self._checked.add(name)
        return content

    def __getitem__(self, name: str) -> np.ndarray:
        content = self.content(name)
        section = self._table[name]
        return np.frombuffer(content, _DTYPES[section.dtype]).reshape(section.shape)


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """An open model file.

    Attributes
    ----------
    path : Path
    header : dict
        What the writer stored.
    sections : mapping of str to ndarray
        Read-only, little endian, mapped from the file. A section is checked when it is first asked
        for; a missing or damaged one raises :class:`~nomul.model.errors.NomulError`.
    table : mapping of str to Section
    identity : str
        SHA-256 over all sections, in hexadecimal, as the header has it; :meth:`verify` checks it.
    """

    path: Path
    header: dict[str, Any]
    sections: _Sections
    table: Mapping[str, Section]
    identity: str

    def verify(self) -> None:
        """Checks every section and the identity.

        Raises
        ------
        NomulError
            If a checksum differs.
        """
        kinds = [(s.name, s.dtype, s.shape) for s in self.table.values()]
        if _identity(kinds, [self.sections.content(name) for name in self.table]) != self.identity:
            raise NomulError(f"{self.path}: the SHA-256 over all sections differs; {_MEND}")


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _section(path: Path, entry: Any, begin: int) -> Section:
    """A checked entry of the section table; ``begin`` is the end of the header."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise NomulError(f"{path}: a section has no name; {_MEND}")
    name, dtype, shape = entry["name"], entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise NomulError(
            f"{path}: section {name!r} has dtype {dtype!r}, not one of {', '.join(_DTYPES)}"
        )
    for key in ("offset", "size", "crc32"):
        if not _natural(entry.get(key)):
            raise NomulError(
                f"{path}: section {name!r} has {key} {str(entry.get(key))[:40]}, "
                f"no natural number; {_MEND}"
            )
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_natural, shape)):
        raise NomulError(f"{path}: section {name!r} has no proper shape; {_MEND}")
    wanted = math.prod(shape) * _DTYPES[dtype].itemsize
    if wanted != entry["size"] or math.prod(max(n, 1) for n in shape) >= 1 << 59:
        raise NomulError(
            f"{path}: section {name!r} has {entry['size']} bytes, "
            f"but {dtype} {shape} takes {wanted}; {_MEND}"
        )
    return Section(
        name=name, dtype=dtype, shape=tuple(shape), offset=_align(begin) + entry["offset"],
        size=entry["size"], crc=entry["crc32"],
    )  # fmt: skip


def _table(path: Path, data: memoryview, entries: Any, begin: int) -> dict[str, Section]:
    """The section table: aligned, one behind the other, zeros between, to the end of the file."""
    if not isinstance(entries, list):
        raise NomulError(f"{path}: the header lacks the list of sections; {_MEND}")
    table: dict[str, Section] = {}
    end = begin
    for entry in entries:
        section = _section(path, entry, begin)
        if section.name in table:
            raise NomulError(f"{path}: section {section.name!r} occurs twice; {_MEND}")
        if section.offset != _align(end):
            how = "overlaps the section before it" if section.offset < end else "is out of place"
            raise NomulError(
                f"{path}: section {section.name!r} {how} (offset {section.offset}, "
                f"expected {_align(end)}); {_MEND}"
            )
        if section.offset + section.size > len(data):
            raise NomulError(
                f"{path}: truncated in section {section.name!r}: the file has {len(data)} bytes, "
                f"the section ends at {section.offset + section.size}; {_MEND}"
            )
        if any(data[end : section.offset]):
            raise NomulError(f"{path}: bytes other than 0 before section {section.name!r}; {_MEND}")
        table[section.name] = section
        end = section.offset + section.size
    if len(data) != end:
        raise NomulError(
            f"{path}: {len(data) - end} bytes too many after the last section; {_MEND}"
        )
    return table


def read(path: Path) -> ModelFile:
    """Opens a model file: checks header and layout now, sections when they are asked for.

    The file stays mapped as long as an array of it lives; replace it by renaming (as :func:`write`
    does), never in place.

    Raises
    ------
    NomulError
        One line that names the file and what is wrong with it.
    """
    path = Path(path)
    with os_errors(path), path.open("rb") as file:
        size = file.seek(0, 2)
        # An empty file cannot be mapped; it is no model file either.
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    start = bytes(data[: len(MAGIC)])
    if start != MAGIC:
        if start and MAGIC.startswith(start):
            raise NomulError(f"{path}: truncated in its first bytes ({size} bytes); {_MEND}")
        raise NomulError(
            f"{path}: not a nomul model file; make one from a checkpoint with: nomul import"
        )
    if size < _PREAMBLE.size:
        raise NomulError(f"{path}: truncated before the header ({size} bytes); {_MEND}")
    _, version, length, crc = _PREAMBLE.unpack_from(data)
    if version != FORMAT_VERSION:
        raise NomulError(
            f"{path}: model file format {version}, this nomul reads {FORMAT_VERSION}; "
            + ("update nomul" if version > FORMAT_VERSION else _MEND)
        )
    begin = _PREAMBLE.size + length
    if length > _HEADER_MAX or begin > size:
        raise NomulError(
            f"{path}: truncated in the header: it takes {length} bytes, "
            f"the file has {size - _PREAMBLE.size} after the preamble; {_MEND}"
        )
    text = bytes(data[_PREAMBLE.size : begin])
    if zlib.crc32(text, zlib.crc32(data[: _CHECKED.size])) != crc:
        raise NomulError(f"{path}: the header is damaged (checksum); {_MEND}")
    content = parse_json(text, f"{path}: the header", _MEND)
    header, identity = content.get("header"), content.get("sha256")
    if not isinstance(header, dict):
        raise NomulError(f"{path}: the header lacks 'header'; {_MEND}")
    if not isinstance(identity, str) or not re.fullmatch("[0-9a-f]{64}", identity):
        raise NomulError(f"{path}: the header lacks a proper 'sha256'; {_MEND}")
    table = _table(path, data, content.get("sections"), begin)
    return ModelFile(
        path=path, header=header, sections=_Sections(path, data, table), table=table,
        identity=identity,
    )  # fmt: skip
