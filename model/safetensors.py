# SPDX-License-Identifier: Apache-2.0
"""The safetensors container: tensors in one file, or in shards that an index names.

It is parsed here, strictly, because NumPy has no bfloat16 and because whatever is wrong with a file
shall be said in one line that names the tensor.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NomulError
from .files import atomic, canonical_json, os_errors, parse_json

__all__ = [
    "AGAIN",
    "ITEM_BYTES",
    "Stored",
    "check_finite",
    "encode",
    "read_shards",
    "read_tensors",
    "write_tensors",
]

#: What mends a damaged file.
AGAIN = "download or export it again"

#: Bytes of an element, by the types that tensors are written as.
ITEM_BYTES = {"bfloat16": 2, "float32": 4}

_HEADER_MAX = 100_000_000  # as the safetensors library has it
_ITEM = {"BF16": 2, "F16": 2, "F32": 4}
_STORED = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}
_WRITTEN = {"bfloat16": "BF16", "float32": "F32"}
_PIECE = 1 << 22  # bytes or elements of a tensor that are worked on at a time


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A tensor in a safetensors file; ``offset`` counts from the begin of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int

    def load(self) -> np.ndarray:
        """All of it as float32, read in pieces: nothing is in memory twice."""
        values = np.empty(self.size // _ITEM[self.dtype], dtype=np.float32)
        buffer = np.empty(min(self.size, _PIECE), dtype=np.uint8)
        at = 0
        with os_errors(self.path), self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            while at < values.size:
                want = buffer[: (values.size - at) * _ITEM[self.dtype]]
                if not self._fill(file, want):
                    raise NomulError(f"{self.path}: became shorter while it was read; {AGAIN}")
                raw = want.view(_STORED[self.dtype])
                here = values[at : at + raw.size]
                if self.dtype == "BF16":  # the upper half of a float32
                    np.left_shift(raw, 16, out=here.view(np.uint32), dtype=np.uint32)
                else:
                    with np.errstate(invalid="ignore"):  # a signalling NaN is found below
                        here[:] = raw
                at += raw.size
        return values.reshape(self.shape)

    @staticmethod
    def _fill(file: RawIOBase, piece: np.ndarray) -> bool:
        """Whether a file had enough left to fill a piece."""
        view = piece.data
        while view:
            got = file.readinto(view)
            if not got:
                return False
            view = view[got:]
        return True


def check_finite(values: np.ndarray, where: str) -> None:
    flat = values.reshape(-1)
    for at in range(0, flat.size, _PIECE):
        finite = np.isfinite(flat[at : at + _PIECE])
        if not finite.all():
            wrong = np.unravel_index(at + int(finite.argmin()), values.shape)
            index = tuple(int(k) for k in wrong)
            raise NomulError(
                f"{where} holds {values[index]} at {list(index)}; weights must be finite: "
                "use a checkpoint from before training diverged"
            )


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _entry(path: Path, name: str, entry: Any, begin: int) -> Stored:
    """One checked entry of a header; ``begin`` is where the data begin."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise NomulError(
            f"{path}: header entry {name!r} needs just dtype, shape and data_offsets; {AGAIN}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM:
        raise NomulError(
            f"{path}: tensor {name} has dtype {dtype!r}, nomul reads {', '.join(_ITEM)}; "
            "use the checkpoint before it was quantised"
        )
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_natural, shape)):
        raise NomulError(f"{path}: tensor {name} has no proper shape: {str(shape)[:60]}; {AGAIN}")
    proper = isinstance(offsets, list) and len(offsets) == 2 and all(map(_natural, offsets))
    if not proper or offsets[0] > offsets[1]:
        raise NomulError(
            f"{path}: tensor {name} has no proper data_offsets: {str(offsets)[:60]}; {AGAIN}"
        )
    size, wanted = offsets[1] - offsets[0], math.prod(shape) * _ITEM[dtype]
    if size != wanted:
        raise NomulError(
            f"{path}: tensor {name} has {size} bytes of data, "
            f"{dtype} {shape} takes {wanted}; {AGAIN}"
        )
    return Stored(path=path, dtype=dtype, shape=tuple(shape), offset=begin + offsets[0], size=size)


def read_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file; their data fill it, end to end behind the header."""
    if not path.is_file():
        raise NomulError(f"{path}: no such file; {AGAIN}")
    with os_errors(path), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        if len(start) < 8:
            raise NomulError(f"{path}: truncated: {size} bytes, no header length; {AGAIN}")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= _HEADER_MAX:
            raise NomulError(
                f"{path}: not a safetensors file, or damaged: its header would take "
                f"{length} bytes; {AGAIN}"
            )
        begin = 8 + length
        if begin > size:
            raise NomulError(
                f"{path}: truncated in the header: it ends at {begin}, the file has {size} bytes; "
                f"{AGAIN}"
            )
        text = file.read(length)
    header = parse_json(text, f"{path}: the header", AGAIN)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NomulError(f"{path}: __metadata__ must map strings to strings; {AGAIN}")
    tensors = {name: _entry(path, name, entry, begin) for name, entry in header.items()}
    end = begin
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        if stored.offset != end:
            how = "overlap those of another" if stored.offset < end else "leave a gap before them"
            raise NomulError(
                f"{path}: the data of tensor {name} {how} "
                f"(at {stored.offset}, expected {end}); {AGAIN}"
            )
        end += stored.size
        if end > size:
            raise NomulError(
                f"{path}: truncated in tensor {name}: it ends at {end}, the file has {size} bytes; "
                f"{AGAIN}"
            )
    if end != size:
        raise NomulError(f"{path}: {size - end} bytes too many after the last tensor; {AGAIN}")
    return tensors


def read_shards(index: Path) -> tuple[dict[str, Stored], tuple[Path, ...]]:
    """Tensors of all shards that an index names, and the shards."""
    with os_errors(index):
        content = parse_json(index.read_bytes(), f"{index}: the file", AGAIN)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise NomulError(f"{index}: weight_map is missing or empty; {AGAIN}")
    for name, shard in places.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
            raise NomulError(
                f"{index}: weight_map places tensor {name} in {shard!r}, "
                f"which is no name of a safetensors file; {AGAIN}"
            )
    shards = tuple(index.with_name(shard) for shard in sorted(set(places.values())))
    tensors: dict[str, Stored] = {}
    for shard in shards:
        for name, stored in read_tensors(shard).items():
            if name in tensors:
                raise NomulError(
                    f"{shard}: tensor {name} is also in {tensors[name].path.name}; {AGAIN}"
                )
            tensors[name] = stored
    for name in sorted(places.keys() | tensors.keys()):
        says = places.get(name)
        found = tensors[name].path.name if name in tensors else None
        if says != found:
            raise NomulError(
                f"{index}: weight_map places tensor {name} in {says or 'no shard'}, "
                f"but {found or 'no shard'} has it; {AGAIN}"
            )
    return tensors, shards


def encode(values: np.ndarray, dtype: str, name: str) -> bytes | memoryview:
    """Little-endian bytes of a tensor; bfloat16 rounds half to even."""
    values = np.asarray(values, dtype=np.float32)
    check_finite(values, f"tensor {name}")
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
    half = np.empty(bits.size, dtype="<u2")
    for at in range(0, bits.size, _PIECE):
        part = bits[at : at + _PIECE]
        half[at : at + _PIECE] = (part + 0x7FFF + (part >> 16 & 1)) >> 16
    if ((half & 0x7F80) == 0x7F80).any():
        raise NomulError(f"tensor {name} is too large for bfloat16; write float32")
    return half.data


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], values: Callable[[str], np.ndarray], dtype: str
) -> None:
    """Writes a safetensors file; tensors are asked for by name, one at a time, in the order of ``shapes``.

    Raises
    ------
    NomulError
        If a tensor is not finite or, as bfloat16, too large; or the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {
            "dtype": _WRITTEN[dtype], "shape": list(shape), "data_offsets": [at, end]
        }  # fmt: skip
        at = end
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    with atomic(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            file.write(encode(values(name), dtype, name))
