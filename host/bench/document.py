# SPDX-License-Identifier: Apache-2.0
"""The file that a bench leaves, ``bench.json``: what it must hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.files import os_errors, parse_json

from .figures import LABELS

__all__ = ["MOST_MHZ", "SCHEMA", "cells", "read_document"]

SCHEMA = 2  #: Version of the file.

_MOST_BYTES = 1 << 28
MOST_MHZ = (0.001, 10_000.0)  #: Least and most of a core's clock.

_MOST_DEPTH = 16
_MOST_NUMBER = 10**18
_NUMBER = (int, float)
_TEXT = (str, type(None))
#: Type of each field that is needed; a list of one element holds for all elements.
_SHAPE: dict[str, Any] = {
    "schema": int,
    "date": str,
    "command": str,
    "seed": int,
    "machine": dict,
    "tools": dict,
    "model": {"name": str, "path": str, "sha256": str, "ternary_weights": int,
              "parameters": int, "geometry": {"hidden": int, "intermediate": int, "layers": int, "vocab": int}},
    "core": {"design": str, "kind": str, "configuration": {"lanes": int, "bytes_per_beat": int},
             "trits_per_cycle": int, "bound_cycles": _NUMBER, "clock_hz": _NUMBER, "clock_from": str},
    "settings": {"model": _TEXT, "board": str, "weights": str, "lanes": int, "engine": _TEXT,
                 "bytes_per_beat": (int, type(None)), "dram": _TEXT, "prompts": [int], "outputs": [int], "repeat": int,
                 "seed": int, "clock_mhz": (*_NUMBER, type(None)), "meters": [str], "board_too": bool, "cpu": bool},
    "targets": [
        {
            "key": str, "name": str, "label": str, "what": str,
            "runs": [
                {
                    "prompt": int, "output": int, "users": int, "figures": dict, "tokens": [[int]],
                    "samples": [{"first_s": _NUMBER, "last_s": _NUMBER}],
                }
            ],
        }
    ],
    "absent": [{"key": str, "name": str, "why": str}],
    "roofline": {"bounds": [{"name": str, "label": str, "weights_per_second": _NUMBER}]},
}  # fmt: skip


def _check(value: Any, shape: Any, where: str) -> None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise NomulError(f"{where} is {_kind(value)}; it must be an object")
        for name, part in shape.items():
            if name not in value:
                raise NomulError(f"{where} lacks {name}; run nomul bench again")
            _check(value[name], part, f"{where}: {name}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise NomulError(f"{where} is {_kind(value)}; it must be a list")
        for number, element in enumerate(value):
            _check(element, shape[0], f"{where}[{number}]")
    else:
        if not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
            kinds = shape if isinstance(shape, tuple) else (shape,)
            names = ["null" if kind is type(None) else kind.__name__ for kind in kinds]
            raise NomulError(f"{where} is {_kind(value)}; it must be {' or '.join(names)}")


def _kind(value: Any) -> str:
    try:
        text = repr(value)
    except RecursionError:
        text = f"a deep {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"


def read_document(path: Path) -> dict[str, Any]:
    """A bench from its file.

    Raises
    ------
    NomulError
        If it is none, or of another version; naming the field.
    """
    with os_errors(path):
        if path.stat().st_size > _MOST_BYTES:
            raise NomulError(f"{path}: has {path.stat().st_size:,} bytes; no bench is that large")
        raw = path.read_bytes()
    found = parse_json(raw, f"{path}:", "name the bench.json that nomul bench wrote")
    version = found.get("schema")
    if version != SCHEMA:
        raise NomulError(f"{path}: schema is {_kind(version)}; this nomul reads {SCHEMA}: run nomul bench again")
    _walk(found, str(path))
    _check(found, _SHAPE, str(path))
    clock = found["core"]["clock_hz"]
    low, high = (1e6 * mhz for mhz in MOST_MHZ)
    if not low <= clock <= high:
        raise NomulError(f"{path}: core: clock_hz is {clock:g}; it must be {low:g} to {high:g}")
    return found


def _walk(document: dict[str, Any], path: str) -> None:
    """Every number can be computed with, every label is one, and nothing lies deeper than a bench does."""
    left: list[tuple[Any, str, int]] = [(document, path, 0)]
    while left:
        value, where, depth = left.pop()
        if depth > _MOST_DEPTH:
            raise NomulError(f"{where}: lies {depth} levels deep; no bench is that deep")
        if isinstance(value, dict):
            if "label" in value and not (isinstance(value["label"], str) and value["label"] in LABELS):
                raise NomulError(f"{where}: label is {_kind(value['label'])}; one of {', '.join(LABELS)}")
            left += [(part, f"{where}: {name[:40]}", depth + 1) for name, part in value.items()]
        elif isinstance(value, list):
            left += [(part, f"{where}[{number}]", depth + 1) for number, part in enumerate(value)]
        elif isinstance(value, int | float) and not -_MOST_NUMBER <= value <= _MOST_NUMBER:
            raise NomulError(f"{where} is {_kind(value)}; no number of a bench is beyond {_MOST_NUMBER:g}")


def cells(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Each target with each of its runs, and what the pair is called."""
    for target in document["targets"]:
        for run in target["runs"]:
            users = "" if run["users"] == 1 else f", {run['users']} users"
            yield target, run, f"{target['name']}, prompt {run['prompt']}, output {run['output']}{users}"
