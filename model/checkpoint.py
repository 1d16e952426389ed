# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the published layout: ``config.json`` and safetensors, in one file or in shards.

The safetensors container is parsed here, strictly, because NumPy has no bfloat16 and because
whatever is wrong with a file shall be said in one line that names the tensor.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NomulError
from .files import atomic, canonical_json, os_errors, parse_json
from .geometry import Geometry

__all__ = [
    "Checkpoint",
    "config_of",
    "random_checkpoint",
    "read_checkpoint",
    "tensor_shapes",
    "write_checkpoint",
    "write_random_checkpoint",
]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_HEADER_MAX = 100_000_000  # as the safetensors library has it
_ITEM = {"BF16": 2, "F16": 2, "F32": 4}
_STORED = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}
_PIECE = 1 << 22  # bytes or elements of a tensor that are worked on at a time
_WRITTEN = {"bfloat16": "BF16", "float32": "F32"}
_AGAIN = "download or export it again"
_PLAIN_MIN = 1024  # a smaller matrix may have one magnitude by chance


def tensor_shapes(geometry: Geometry) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint, ``15·Ly + 5`` of them."""
    d, m, v = geometry.hidden, geometry.intermediate, geometry.vocab
    shapes: dict[str, tuple[int, ...]] = {
        "model.embeddings.weight": (v, d),
        "model.lower_bounds": (geometry.layers, d),
    }
    for number in range(geometry.layers):
        prefix = f"model.layers.{number}."
        shapes[prefix + "attn_norm.weight"] = (d,)
        for name in "ifgo":
            shapes[f"{prefix}attn.{name}_proj.weight"] = (d, d)
            shapes[f"{prefix}attn.{name}_proj.norm.weight"] = (d,)
        shapes[prefix + "attn.g_norm.weight"] = (d,)
        shapes[prefix + "mlp_norm.weight"] = (d,)
        shapes[prefix + "mlp.gate_proj.weight"] = (2 * m, d)
        shapes[prefix + "mlp.gate_proj.norm.weight"] = (d,)
        shapes[prefix + "mlp.down_proj.weight"] = (d, m)
        shapes[prefix + "mlp.down_proj.norm.weight"] = (m,)
    shapes["model.norm.weight"] = (d,)
    shapes["lm_head.weight"] = (v, d)
    shapes["lm_head.norm.weight"] = (d,)
    return shapes


def _is_ternary(name: str) -> bool:
    """Whether a tensor is a matrix that will be ternarised."""
    return name.endswith("_proj.weight") or name == "lm_head.weight"


# -- config.json ---------------------------------------------------------------------------------

# What must hold: field, default of the published configuration (None: required), allowed values.
_FIXED: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("model_type", None, ("hgrn_bit",)),
    ("use_short_conv", False, (False,)),
    ("num_heads", 1, (1,)),
    ("expand_ratio", 1, (1,)),
    ("tie_word_embeddings", False, (False,)),
    ("use_lower_bound", True, (True,)),
    ("hidden_act", "swish", ("swish", "silu")),
)


def _read_config(config: Mapping[str, Any], where: str) -> tuple[Geometry, float]:
    """Geometry and ε of a configuration."""

    def number(name: str, default: float | None, whole: bool) -> Any:
        value = config.get(name, default)
        if name not in config and default is None:
            raise NomulError(f"{where}: {name} is missing; add the field of the published layout")
        kinds = int if whole else int | float
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < 1 << 31:
            kind = "integer" if whole else "number"
            raise NomulError(f"{where}: {name} is {value!r}; it must be a positive {kind}")
        return value

    for name, default, allowed in _FIXED:
        if name not in config and default is None:
            raise NomulError(f"{where}: {name} is missing; it must be {allowed[0]!r}")
        value = config.get(name, default)
        if not any(value == a and isinstance(value, bool) is isinstance(a, bool) for a in allowed):
            must = " or ".join(repr(a) for a in allowed)
            raise NomulError(
                f"{where}: {name} is {value!r}; nomul runs only {must}, "
                "as all published models have it"
            )
    hidden = number("hidden_size", None, True)
    if config.get("intermediate_size") is not None:
        intermediate = number("intermediate_size", None, True)
    else:
        ratio = 4 if config.get("hidden_ratio", 4) is None else number("hidden_ratio", 4, False)
        intermediate = 256 * -(-int(hidden * ratio * 2 / 3) // 256)
        if intermediate == 0:
            raise NomulError(f"{where}: hidden_ratio {ratio} leaves no intermediate_size; give one")
    geometry = Geometry(
        hidden=hidden,
        intermediate=intermediate,
        layers=number("num_hidden_layers", None, True),
        vocab=number("vocab_size", None, True),
    )
    eps = float(number("rms_norm_eps", 1e-6, False))
    if eps >= 1:
        raise NomulError(f"{where}: rms_norm_eps is {eps}; it must be a small number, such as 1e-6")
    return geometry, eps


def config_of(geometry: Geometry, *, eps: float = 1e-6) -> dict[str, Any]:
    """The published ``config.json`` for a geometry."""
    return {
        "architectures": ["HGRNBitForCausalLM"],
        "model_type": "hgrn_bit",
        "vocab_size": geometry.vocab,
        "hidden_size": geometry.hidden,
        "num_hidden_layers": geometry.layers,
        "intermediate_size": geometry.intermediate,
        "hidden_ratio": 4,
        "num_heads": 1,
        "expand_ratio": 1,
        "use_short_conv": False,
        "use_lower_bound": True,
        "hidden_act": "swish",
        "rms_norm_eps": eps,
        "tie_word_embeddings": False,
    }


# -- tensors -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Stored:
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
                    raise NomulError(f"{self.path}: became shorter while it was read; {_AGAIN}")
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


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of which one tensor at a time is read.

    Attributes
    ----------
    geometry : Geometry
    eps : float
        ε of all norms.
    config : dict
        ``config.json`` as it is.
    files : tuple of Path
        What it was read from, by name; none for one in memory.
    """

    geometry: Geometry
    eps: float
    config: dict[str, Any]
    files: tuple[Path, ...]
    _tensors: Mapping[str, _Stored | np.ndarray]
    _read: Callable[[int], object] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(tensor_shapes(self.geometry))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        stored = self._tensors.values()
        return sum(t.size if isinstance(t, _Stored) else t.nbytes for t in stored)

    def observed(self, read: Callable[[int], object]) -> Checkpoint:
        """The same checkpoint; ``read`` is called with the bytes of every tensor read from it."""
        return replace(self, _read=read)

    def tensor(self, name: str) -> np.ndarray:
        """Tensor by its published name, float32; read and checked anew at every call.

        Raises
        ------
        NomulError
            If it holds NaN or infinity, or was dequantised from trits.
        """
        stored = self._tensors[name]
        where = f"{stored.path}: tensor {name}" if isinstance(stored, _Stored) else f"tensor {name}"
        values = stored.load() if isinstance(stored, _Stored) else stored.copy()
        if self._read is not None:
            self._read(stored.size if isinstance(stored, _Stored) else stored.nbytes)
        _check_finite(values, where)
        if _is_ternary(name) and values.size >= _PLAIN_MIN and _plain(values):
            raise NomulError(
                f"{where} holds only -a, 0 and a: it was dequantised from trits, which loses the "
                "scale; import the original training weights"
            )
        return values

    def verify(self) -> None:
        """Reads and checks every tensor."""
        for name in self.names:
            self.tensor(name)

    def sha256(self) -> str:
        """SHA-256 of the lines that ``sha256sum`` prints for :attr:`files`, names without folder.

        Of a checkpoint in memory: of its configuration and tensors in the same way.
        """
        if self.files:
            lines = [(_file_sha256(path), path.name) for path in self.files]
        else:
            parts = [(name, self.tensor(name).tobytes()) for name in self.names]
            parts.append((_CONFIG, canonical_json(self.config)))
            lines = [(hashlib.sha256(part).hexdigest(), name) for name, part in sorted(parts)]
        text = "".join(f"{digest}  {name}\n" for digest, name in lines)
        return hashlib.sha256(text.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with os_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_finite(values: np.ndarray, where: str) -> None:
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


def _plain(weight: np.ndarray) -> bool:
    """Whether all values are -a, 0 and a, with zeros among them."""
    flat = weight.reshape(-1)
    for part in (flat[:_PLAIN_MIN], flat):  # most matrices show it at once
        magnitude = np.abs(part)
        largest = magnitude.max()
        if not largest or not ((magnitude == 0) | (magnitude == largest)).all():
            return False
    return bool((flat == 0).any())


# -- the safetensors container -------------------------------------------------------------------


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _entry(path: Path, name: str, entry: Any, begin: int) -> _Stored:
    """One checked entry of a header; ``begin`` is where the data begin."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise NomulError(
            f"{path}: header entry {name!r} needs just dtype, shape and data_offsets; {_AGAIN}"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM:
        raise NomulError(
            f"{path}: tensor {name} has dtype {dtype!r}, nomul reads {', '.join(_ITEM)}; "
            "use the checkpoint before it was quantised"
        )
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_natural, shape)):
        raise NomulError(f"{path}: tensor {name} has no proper shape: {str(shape)[:60]}; {_AGAIN}")
    proper = isinstance(offsets, list) and len(offsets) == 2 and all(map(_natural, offsets))
    if not proper or offsets[0] > offsets[1]:
        raise NomulError(
            f"{path}: tensor {name} has no proper data_offsets: {str(offsets)[:60]}; {_AGAIN}"
        )
    size, wanted = offsets[1] - offsets[0], math.prod(shape) * _ITEM[dtype]
    if size != wanted:
        raise NomulError(
            f"{path}: tensor {name} has {size} bytes of data, "
            f"{dtype} {shape} takes {wanted}; {_AGAIN}"
        )
    return _Stored(path=path, dtype=dtype, shape=tuple(shape), offset=begin + offsets[0], size=size)


def _read_header(path: Path) -> dict[str, _Stored]:
    """The tensors of a safetensors file; their data fill it, end to end behind the header."""
    if not path.is_file():
        raise NomulError(f"{path}: no such file; {_AGAIN}")
    with os_errors(path), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        if len(start) < 8:
            raise NomulError(f"{path}: truncated: {size} bytes, no header length; {_AGAIN}")
        (length,) = struct.unpack("<Q", start)
        if not 2 <= length <= _HEADER_MAX:
            raise NomulError(
                f"{path}: not a safetensors file, or damaged: its header would take "
                f"{length} bytes; {_AGAIN}"
            )
        begin = 8 + length
        if begin > size:
            raise NomulError(
                f"{path}: truncated in the header: it ends at {begin}, the file has {size} bytes; "
                f"{_AGAIN}"
            )
        text = file.read(length)
    header = parse_json(text, f"{path}: the header", _AGAIN)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise NomulError(f"{path}: __metadata__ must map strings to strings; {_AGAIN}")
    tensors = {name: _entry(path, name, entry, begin) for name, entry in header.items()}
    end = begin
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        if stored.offset != end:
            how = "overlap those of another" if stored.offset < end else "leave a gap before them"
            raise NomulError(
                f"{path}: the data of tensor {name} {how} "
                f"(at {stored.offset}, expected {end}); {_AGAIN}"
            )
        end += stored.size
        if end > size:
            raise NomulError(
                f"{path}: truncated in tensor {name}: it ends at {end}, the file has {size} bytes; "
                f"{_AGAIN}"
            )
    if end != size:
        raise NomulError(f"{path}: {size - end} bytes too many after the last tensor; {_AGAIN}")
    return tensors


def _read_shards(index: Path) -> tuple[dict[str, _Stored], tuple[Path, ...]]:
    """Tensors of all shards that an index names, and the shards."""
    with os_errors(index):
        content = parse_json(index.read_bytes(), f"{index}: the file", _AGAIN)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise NomulError(f"{index}: weight_map is missing or empty; {_AGAIN}")
    for name, shard in places.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\\0]+\.safetensors", shard):
            raise NomulError(
                f"{index}: weight_map places tensor {name} in {shard!r}, "
                f"which is no name of a safetensors file; {_AGAIN}"
            )
    shards = tuple(index.with_name(shard) for shard in sorted(set(places.values())))
    tensors: dict[str, _Stored] = {}
    for shard in shards:
        for name, stored in _read_header(shard).items():
            if name in tensors:
                raise NomulError(
                    f"{shard}: tensor {name} is also in {tensors[name].path.name}; {_AGAIN}"
                )
            tensors[name] = stored
    for name in sorted(places.keys() | tensors.keys()):
        says = places.get(name)
        found = tensors[name].path.name if name in tensors else None
        if says != found:
            raise NomulError(
                f"{index}: weight_map places tensor {name} in {says or 'no shard'}, "
                f"but {found or 'no shard'} has it; {_AGAIN}"
            )
    return tensors, shards


def _check_tensors(shapes: Mapping[str, tuple[int, ...]], geometry: Geometry, where: str) -> None:
    """Compares names and shapes of tensors with those that a geometry asks for."""
    if geometry.layers > max(len(shapes), 1000):  # before billions of names are made
        raise NomulError(
            f"{where}: num_hidden_layers is {geometry.layers}, but there are {len(shapes)} tensors in all; "
            f"{_AGAIN}"
        )
    wanted = tensor_shapes(geometry)

    def some(names: Iterable[str]) -> str:
        first, *rest = sorted(names)
        return first + (f" and {len(rest)} more" if rest else "")

    if missing := wanted.keys() - shapes.keys():
        raise NomulError(f"{where}: tensor {some(missing)} missing; {_AGAIN}")
    if extra := shapes.keys() - wanted.keys():
        raise NomulError(
            f"{where}: tensor {some(extra)} is not part of this architecture; "
            f"remove it, or make num_hidden_layers in {_CONFIG} fit"
        )
    for name, shape in wanted.items():
        if tuple(shapes[name]) != shape:
            raise NomulError(
                f"{where}: tensor {name} has wrong shape: expected {list(shape)}, "
                f"found {list(shapes[name])}; {_CONFIG} and weights must belong together"
            )


def read_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a checkpoint; checks everything but the values, which :meth:`Checkpoint.tensor` does.

    Parameters
    ----------
    path : Path
        A folder with ``config.json`` and ``model.safetensors`` or ``model.safetensors.index.json``
        and its shards; or a safetensors file with ``config.json`` beside it.

    Raises
    ------
    NomulError
        One line that names the file, the tensor or field, and the mend.
    """
    path = Path(path)
    if not path.exists():
        raise NomulError(f"{path}: no such file or folder; give a checkpoint's folder")
    if path.is_dir():
        folder, weights, index = path, path / _WEIGHTS, path / _INDEX
        if weights.exists() and index.exists():
            raise NomulError(f"{path}: has both {_WEIGHTS} and {_INDEX}; remove one of them")
        if not weights.exists() and not index.exists():
            raise NomulError(
                f"{path}: has neither {_WEIGHTS} nor {_INDEX}; give a checkpoint's folder "
                "(other formats must be converted to safetensors)"
            )
    elif path.suffix == ".safetensors":
        folder, weights, index = path.parent, path, path.with_name(_INDEX)
    else:
        raise NomulError(
            f"{path}: neither a folder nor a .safetensors file; give a checkpoint's folder"
        )

    config_path = folder / _CONFIG
    if not config_path.is_file():
        raise NomulError(f"{config_path}: no such file; it belongs beside the weights")
    with os_errors(config_path):
        config = parse_json(config_path.read_bytes(), f"{config_path}: the file", _AGAIN)
    geometry, eps = _read_config(config, str(config_path))

    if weights.exists():
        tensors, read = _read_header(weights), [weights]
    else:
        tensors, shards = _read_shards(index)
        read = [*shards, index]
    _check_tensors({name: s.shape for name, s in tensors.items()}, geometry, str(path))
    files = tuple(sorted([config_path, *read], key=lambda file: file.name))
    return Checkpoint(geometry=geometry, eps=eps, config=config, files=files, _tensors=tensors)


# -- writing -------------------------------------------------------------------------------------


def _encode(values: np.ndarray, dtype: str, name: str) -> bytes | memoryview:
    """Little-endian bytes of a tensor; bfloat16 rounds half to even."""
    values = np.asarray(values, dtype=np.float32)
    _check_finite(values, f"tensor {name}")
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


def _write_file(
    path: Path, shapes: Mapping[str, tuple[int, ...]], values: Callable[[str], np.ndarray], dtype: str
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * _ITEM[_WRITTEN[dtype]]
        header[name] = {
            "dtype": _WRITTEN[dtype], "shape": list(shape), "data_offsets": [at, end]
        }  # fmt: skip
        at = end
    text = canonical_json(header)
    text += b" " * (-len(text) % 8)  # so that the data are aligned
    with atomic(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            file.write(_encode(values(name), dtype, name))


def _write(
    folder: Path,
    config: Mapping[str, Any],
    shards: Sequence[Sequence[str]] | None,
    values: Callable[[str], np.ndarray],
    dtype: str,
) -> None:
    """Writes configuration and weights; tensors are asked for one at a time, in their order."""
    geometry, _ = _read_config(config, "config")
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / _CONFIG) as file:
        file.write(canonical_json({**config, "torch_dtype": dtype}) + b"\n")
    shapes = tensor_shapes(geometry)
    if shards is None:
        _write_file(folder / _WEIGHTS, shapes, values, dtype)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_file(folder / file_name, {name: shapes[name] for name in names}, values, dtype)
        places |= dict.fromkeys(names, file_name)
    total = geometry.parameters * _ITEM[_WRITTEN[dtype]]
    with atomic(folder / _INDEX) as file:
        file.write(canonical_json({"metadata": {"total_size": total}, "weight_map": places}))


def write_checkpoint(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "bfloat16",
    shard_bytes: int | None = None,
) -> None:
    """Writes a checkpoint in the published layout.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    config : mapping
        As :func:`config_of` gives it.
    tensors : mapping of str to ndarray
        All of :func:`tensor_shapes`, finite.
    dtype : str
        ``"bfloat16"`` or ``"float32"``.
    shard_bytes : int, optional
        Begin another shard where one would take more data than this; one file if left out.

    Raises
    ------
    NomulError
        If a tensor is missing, too many, of wrong shape or not finite, or the configuration is not
        supported.
    """
    if dtype not in _WRITTEN:
        raise ValueError(f"a checkpoint is written as {' or '.join(_WRITTEN)}, not {dtype!r}")
    if shard_bytes is not None and shard_bytes < 1:
        raise ValueError(f"a shard takes at least 1 byte, not {shard_bytes}")
    folder = Path(folder)
    geometry, _ = _read_config(config, "config")
    _check_tensors({name: np.shape(t) for name, t in tensors.items()}, geometry, "checkpoint")
    shards: list[list[str]] | None = None
    if shard_bytes is not None:
        shards = [[]]
        room = shard_bytes
        for name in tensor_shapes(geometry):
            size = tensors[name].size * _ITEM[_WRITTEN[dtype]]
            if size > room and shards[-1]:
                shards.append([])
                room = shard_bytes
            shards[-1].append(name)
            room -= size
    _write(folder, config, shards, lambda name: tensors[name], dtype)


def _drawn(geometry: Geometry, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Random tensors in the order of :func:`tensor_shapes`, float32.

    Matrices are normal, so 31 % of their trits are 0, with deviation 0.05, so their scale is 0.04;
    embeddings and lower bounds have deviation 1; norm weights lie about 1 with deviation 0.3.
    """
    rng = np.random.default_rng(seed)
    for name, shape in tensor_shapes(geometry).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        if _is_ternary(name):
            values *= np.float32(0.05)
        elif name.endswith("norm.weight"):
            values = 1 + np.float32(0.3) * values
        yield name, values


def write_random_checkpoint(
    folder: Path, geometry: Geometry, *, seed: int, shards: int | None = None
) -> None:
    """Writes a random checkpoint of any size in bfloat16, one tensor in memory at a time.

    It holds what :func:`random_checkpoint` gives.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    geometry : Geometry
    seed : int
    shards : int, optional
        Files of about equal size, with an index; one file without if left out. At most the
        number of tensors.

    Raises
    ------
    NomulError
        If a file cannot be written.
    """
    groups: list[list[str]] | None = None
    if shards is not None:
        shapes = tensor_shapes(geometry)
        if not 1 <= shards <= len(shapes):
            raise ValueError(f"shards are 1 to {len(shapes)}, one tensor each, not {shards}")
        groups = [[]]
        done, left = 0, len(shapes)
        for name, shape in shapes.items():
            full = done * shards >= len(groups) * geometry.parameters
            if groups[-1] and len(groups) < shards and (full or left == shards - len(groups)):
                groups.append([])
            groups[-1].append(name)
            done += math.prod(shape)
            left -= 1
    tensors = _drawn(geometry, seed)

    def following(wanted: str) -> np.ndarray:
        name, values = next(tensors)
        assert name == wanted
        return values

    _write(Path(folder), config_of(geometry), groups, following, "bfloat16")


def random_checkpoint(geometry: Geometry, seed: int) -> Checkpoint:
    """A small random checkpoint in memory, bfloat16 values; its statistics are those of the upstream fixture."""
    tensors: dict[str, np.ndarray] = {}
    for name, values in _drawn(geometry, seed):
        half = np.frombuffer(_encode(values, "bfloat16", name), "<u2")
        tensors[name] = (half.astype(np.uint32) << 16).view(np.float32).reshape(values.shape)
    config = config_of(geometry)
    return Checkpoint(geometry=geometry, eps=1e-6, config=config, files=(), _tensors=tensors)
