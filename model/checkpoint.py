# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the published layout: ``config.json`` and safetensors, in one file or in shards."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import NomulError
from .files import atomic, canonical_json, os_errors, parse_json
from .geometry import Geometry
from .safetensors import (
    AGAIN,
    ITEM_BYTES,
    Stored,
    check_finite,
    read_shards,
    read_tensors,
    write_tensors,
)

__all__ = [
    "Checkpoint",
    "config_of",
    "is_ternary",
    "read_checkpoint",
    "tensor_shapes",
    "write_by_tensor",
    "write_checkpoint",
]

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
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


def is_ternary(name: str) -> bool:
    """Whether the tensor of this name is a matrix that will be ternarised."""
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
    _tensors: Mapping[str, Stored | np.ndarray]
    _read: Callable[[int], object] | None = None

    @classmethod
    def in_memory(cls, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Checkpoint:
        """A checkpoint of a configuration and float32 tensors.

        Raises
        ------
        NomulError
            If a tensor is missing, too many or of wrong shape, or the configuration is not supported.
        """
        geometry, eps = _read_config(config, "config")
        _check_tensors({name: t.shape for name, t in tensors.items()}, geometry, "checkpoint")
        return cls(geometry=geometry, eps=eps, config=dict(config), files=(), _tensors=tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(tensor_shapes(self.geometry))

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        stored = self._tensors.values()
        return sum(t.size if isinstance(t, Stored) else t.nbytes for t in stored)

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
        where = f"{stored.path}: tensor {name}" if isinstance(stored, Stored) else f"tensor {name}"
        values = stored.load() if isinstance(stored, Stored) else stored.copy()
        if self._read is not None:
            self._read(stored.size if isinstance(stored, Stored) else stored.nbytes)
        check_finite(values, where)
        if is_ternary(name) and values.size >= _PLAIN_MIN and _plain(values):
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


def _plain(weight: np.ndarray) -> bool:
    """Whether all values are -a, 0 and a, with zeros among them."""
    flat = weight.reshape(-1)
    for part in (flat[:_PLAIN_MIN], flat):  # most matrices show it at once
        magnitude = np.abs(part)
        largest = magnitude.max()
        if not largest or not ((magnitude == 0) | (magnitude == largest)).all():
            return False
    return bool((flat == 0).any())


def _check_tensors(shapes: Mapping[str, tuple[int, ...]], geometry: Geometry, where: str) -> None:
    """Compares names and shapes of tensors with those that a geometry asks for."""
    if geometry.layers > max(len(shapes), 1000):  # before billions of names are made
        raise NomulError(
            f"{where}: num_hidden_layers is {geometry.layers}, but there are {len(shapes)} tensors in all; "
            f"{AGAIN}"
        )
    wanted = tensor_shapes(geometry)

    def some(names: Iterable[str]) -> str:
        first, *rest = sorted(names)
        return first + (f" and {len(rest)} more" if rest else "")

    if missing := wanted.keys() - shapes.keys():
        raise NomulError(f"{where}: tensor {some(missing)} missing; {AGAIN}")
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
        config = parse_json(config_path.read_bytes(), f"{config_path}: the file", AGAIN)
    geometry, eps = _read_config(config, str(config_path))

    if weights.exists():
        tensors, read = read_tensors(weights), [weights]
    else:
        tensors, shards = read_shards(index)
        read = [*shards, index]
    _check_tensors({name: s.shape for name, s in tensors.items()}, geometry, str(path))
    files = tuple(sorted([config_path, *read], key=lambda file: file.name))
    return Checkpoint(geometry=geometry, eps=eps, config=config, files=files, _tensors=tensors)


# -- writing -------------------------------------------------------------------------------------


def write_by_tensor(
    folder: Path,
    config: Mapping[str, Any],
    shards: Sequence[Sequence[str]] | None,
    values: Callable[[str], np.ndarray],
    dtype: str,
) -> None:
    """Writes a checkpoint of which one tensor at a time is in memory.

    Parameters
    ----------
    folder : Path
        Made if it does not exist.
    config : mapping
        As :func:`config_of` gives it.
    shards : sequence of sequences of str or None
        Names of the tensors in each file: all of :func:`tensor_shapes`, in its order; one file if None.
    values : callable
        Called with each name once, in that order, for its tensor.
    dtype : str
        ``"bfloat16"`` or ``"float32"``.

    Raises
    ------
    NomulError
        If a tensor is not finite, a file cannot be written, or the configuration is not supported.
    """
    geometry, _ = _read_config(config, "config")
    with os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / _CONFIG) as file:
        file.write(canonical_json({**config, "torch_dtype": dtype}) + b"\n")
    shapes = tensor_shapes(geometry)
    if shards is None:
        write_tensors(folder / _WEIGHTS, shapes, values, dtype)
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file_name, {name: shapes[name] for name in names}, values, dtype)
        places |= dict.fromkeys(names, file_name)
    total = geometry.parameters * ITEM_BYTES[dtype]
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
    if dtype not in ITEM_BYTES:
        raise ValueError(f"a checkpoint is written as {' or '.join(ITEM_BYTES)}, not {dtype!r}")
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
            size = tensors[name].size * ITEM_BYTES[dtype]
            if size > room and shards[-1]:
                shards.append([])
                room = shard_bytes
            shards[-1].append(name)
            room -= size
    write_by_tensor(folder, config, shards, lambda name: tensors[name], dtype)
