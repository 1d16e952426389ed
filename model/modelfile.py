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
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from .errors import NomulError
from .files import atomic, canonical_json, os_errors, parse_json

__all__ = ["ALIGNMENT", "FORMAT_VERSION", "MAGIC", "ModelFile", "Section", "Writer", "read", "write", "writer"]

#: First bytes of a model file; a transfer as text would change the line end.
MAGIC = b"NOMUL\r\n\x1a"
FORMAT_VERSION = 1  #: Version of the container that this module reads and writes.
ALIGNMENT = 64  #: Every section begins at a multiple of so many bytes.

_PREAMBLE = struct.Struct("<8sIII")  # magic, version, bytes of header JSON, CRC-32
_CHECKED = struct.Struct("<8sII")  # what of the preamble the CRC covers, with the JSON
_HEADER_MAX = 1 << 26
_COPY = 1 << 20
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


def _kind(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    """What the identity has before the bytes of a section."""
    return canonical_json([name, dtype, list(shape)]) + b"\n"


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


class Writer:
    """Sections of a model file as they are made; :func:`writer` gives one.

    Attributes
    ----------
    header : dict
        Anything JSON can say, to be set before the file is complete; read back, tuples are lists
        and keys are strings.
    """

    def __init__(self, spool: BinaryIO):
        self.header: dict[str, Any] = {}
        self._spool = spool
        self._table: list[dict[str, Any]] = []
        self._at = 0  # from the aligned end of the header, whose length is not known yet
        self._digest = hashlib.sha256()

    def add(self, name: str, value: bytes | np.ndarray) -> None:
        """Writes one section; bytes are stored as an array of uint8."""
        kind, array = _elements(name, value)
        content = array.reshape(-1).view(np.uint8).data
        offset = _align(self._at)
        self._spool.write(b"\0" * (offset - self._at))
        self._spool.write(content)
        self._digest.update(_kind(name, kind, array.shape))
        self._digest.update(content)
        self._table.append(
            {"name": name, "dtype": kind, "shape": list(array.shape), "offset": offset,
             "size": content.nbytes, "crc32": zlib.crc32(content)}
        )  # fmt: skip
        self._at = offset + content.nbytes

    @property
    def identity(self) -> str:
        """SHA-256 over all sections so far, in hexadecimal."""
        return self._digest.hexdigest()

    def _start(self) -> bytes:
        """Everything before the first section."""
        text = canonical_json(
            {"header": self.header, "sections": self._table, "sha256": self.identity}
        )
        if len(text) > _HEADER_MAX:
            raise ValueError(
                f"the header of a model file takes {len(text)} bytes, at most {_HEADER_MAX}"
            )
        checked = _CHECKED.pack(MAGIC, FORMAT_VERSION, len(text))
        start = checked + struct.pack("<I", zlib.crc32(text, zlib.crc32(checked))) + text
        padding = _align(len(start)) - len(start)
        return start + b"\0" * padding if self._table else start

    def _copy(self, file: BinaryIO) -> None:
        file.write(self._start())
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, file, _COPY)


@contextmanager
def writer(path: Path) -> Iterator[Writer]:
    """A model file to write section by section, whole or not at all.

    Sections go to a nameless file beside the place, because the header that lies before them has
    their checksums; leaving the context writes the header, copies them behind it and renames.
    Until then that takes the space of two files.
    """
    path = Path(path)
    with os_errors(path), tempfile.TemporaryFile(dir=path.parent, buffering=_COPY) as spool:
        made = Writer(cast(BinaryIO, spool))
        yield made
        with atomic(path) as file:
            made._copy(file)


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
    with writer(path) as made:
        made.header = dict(header)
        for name, value in sections.items():
            made.add(name, value)
    return made.identity


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
        digest = hashlib.sha256()
        for name, section in self.table.items():
            digest.update(_kind(name, section.dtype, section.shape))
            digest.update(self.sections.content(name))
        if digest.hexdigest() != self.identity:
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
