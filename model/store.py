# SPDX-License-Identifier: Apache-2.0
"""A folded model in a model file, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from . import modelfile
from .errors import NomulError
from .fold import Embedding, Layer, Matrix, Model, NormVector, Part
from .geometry import Geometry
from .ternary import shares, valid_codes

__all__ = ["NUMBERS_VERSION", "load", "save", "save_parts", "trit_shares"]

NUMBERS_VERSION = 1  #: Version of the number contract that the integers of a file follow.


def _parts(model: Model) -> Iterator[tuple[str, Part]]:
    """Every part by its name, in the order of :func:`~nomul.model.fold.fold_parts`."""
    yield "embedding", model.embedding
    for number, layer in enumerate(model.layers):
        for field in fields(Layer):
            yield f"layers.{number}.{field.name}", getattr(layer, field.name)
    for name in ("head_square", "head_norm", "head"):
        yield name, getattr(model, name)


def save(model: Model, path: Path, description: Mapping[str, Any]) -> None:
    """Writes a model file, whole or not at all.

    Parameters
    ----------
    model : Model
    path : Path
    description : mapping
        What ``nomul info`` shows besides: ``name``, ``tokenizer``, ``source`` (sha256 of the checkpoint).
    """
    save_parts(_parts(model), path, geometry=model.geometry, eps=model.eps,
               description=lambda: description)  # fmt: skip


def save_parts(
    parts: Iterable[tuple[str, Part]],
    path: Path,
    *,
    geometry: Geometry,
    eps: float,
    description: Callable[[], Mapping[str, Any]],
) -> None:
    """Writes a model file from parts as they are made, whole or not at all.

    Parameters
    ----------
    parts : iterable of (name, part)
        As :func:`~nomul.model.fold.fold_parts` yields them.
    path : Path
    geometry : Geometry
    eps : float
    description : callable
        As in :func:`save`; called when all parts are written.
    """
    numbers: dict[str, Any] = {}
    with modelfile.writer(path) as file:
        for name, part in parts:
            match part:
                case Matrix():
                    file.add(name, part.code)
                    numbers[name] = {"inputs": part.inputs, "scale": part.scale}
                case NormVector():
                    file.add(name, part.values)
                    numbers[name] = {"exponent": part.exponent}
                case Embedding():
                    file.add(f"{name}.values", part.values)
                    file.add(f"{name}.scale", part.scale)
                    numbers[name] = {"exponent": part.exponent}
                case _:
                    file.add(name, part)
        file.header = {
            **description(),
            "geometry": asdict(geometry),
            "eps": eps,
            "numbers_version": NUMBERS_VERSION,
            "numbers": numbers,
        }


class _Reader:
    """Sections of a model file, checked against the shapes that the geometry asks for."""

    def __init__(self, path: Path):
        self.path = path
        self.file = modelfile.read(path)
        header = self.file.header
        version = header.get("numbers_version")
        if version != NUMBERS_VERSION:
            raise NomulError(
                f"{path}: follows version {version} of the number contract, this nomul {NUMBERS_VERSION}; "
                "import the checkpoint again"
            )
        try:
            self.geometry = Geometry(**header["geometry"])
            self.numbers = dict(header["numbers"])
            self.eps = float(header["eps"])
            if not 0 <= self.eps < 1:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise NomulError(
                f"{path}: the header lacks geometry, numbers or eps; import the checkpoint again"
            ) from None

    def array(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        if name not in self.file.sections:
            raise NomulError(f"{self.path}: section {name} is missing; import the checkpoint again")
        values = np.asarray(self.file.sections[name])
        if values.dtype != dtype or values.shape != shape:
            raise NomulError(
                f"{self.path}: section {name} is {values.dtype} {list(values.shape)}, "
                f"expected {np.dtype(dtype)} {list(shape)}"
            )
        return values

    def number(self, name: str, key: str) -> Any:
        try:
            value = self.numbers[name][key]
        except (KeyError, TypeError):
            value = None
        if not isinstance(value, int | float):
            raise NomulError(f"{self.path}: the header lacks {key} of {name}")
        return value

    def matrix(self, name: str, outputs: int, inputs: int) -> Matrix:
        code = self.array(name, np.uint8, (outputs, -(-inputs // 5)))
        if not valid_codes(code):
            raise NomulError(f"{self.path}: section {name} has bytes that are no five trits")
        return Matrix(code=code, inputs=inputs, scale=float(self.number(name, "scale")))

    def norm(self, name: str, size: int) -> NormVector:
        return NormVector(
            values=self.array(name, np.int16, (size,)), exponent=int(self.number(name, "exponent"))
        )

    def layer(self, number: int) -> Layer:
        d, m = self.geometry.hidden, self.geometry.intermediate
        shapes = {"gate_up": (2 * m, d), "down_proj": (d, m)}
        parts: dict[str, Any] = {}
        for field in fields(Layer):
            name = f"layers.{number}.{field.name}"
            if field.name == "lower_bound":
                parts[field.name] = self.array(name, np.uint16, (d,))
            elif field.type == "Matrix":
                parts[field.name] = self.matrix(name, *shapes.get(field.name, (d, d)))
            else:
                parts[field.name] = self.norm(name, m if field.name == "down_norm" else d)
        return Layer(**parts)

    def model(self) -> Model:
        g = self.geometry
        return Model(
            geometry=g,
            eps=self.eps,
            embedding=Embedding(
                values=self.array("embedding.values", np.int8, (g.vocab, g.hidden)),
                scale=self.array("embedding.scale", np.uint16, (g.vocab,)),
                exponent=int(self.number("embedding", "exponent")),
            ),
            layers=tuple(self.layer(number) for number in range(g.layers)),
            head_square=self.norm("head_square", g.hidden),
            head_norm=self.norm("head_norm", g.hidden),
            head=self.matrix("head", g.vocab, g.hidden),
        )


def load(path: Path) -> tuple[Model, dict[str, Any]]:
    """A model and the header of its file.

    Raises
    ------
    NomulError
        If the file is no whole model file of this version, naming the section.
    """
    reader = _Reader(path)
    return reader.model(), reader.file.header


def trit_shares(model: Model) -> dict[str, tuple[float, float, float]]:
    """Shares of -1, 0 and +1 of every matrix."""
    return {
        name: shares(part.code, part.inputs)
        for name, part in _parts(model)
        if isinstance(part, Matrix)
    }
