# SPDX-License-Identifier: Apache-2.0
"""The file that a bench leaves, ``bench.json``: what it must hold, and whether its figures follow from its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError
from nomul.model.files import os_errors, parse_json

from .figures import LABELS
from .measure import Case, figures_of

__all__ = ["SCHEMA", "cells", "read_document", "recomputed"]

SCHEMA = 1  #: Version of the file.

_MOST_BYTES = 1 << 28
_NUMBER = (int, float)
#: Type of each field that is needed; a list of one element holds for all elements.
_SHAPE: dict[str, Any] = {
    "schema": int,
    "date": str,
    "command": str,
    "seed": int,
    "machine": dict,
    "tools": dict,
    "model": {"name": str, "path": str, "sha256": str, "ternary_weights": int, "geometry": dict},
    "core": {"design": str, "kind": str, "configuration": dict, "trits_per_cycle": int, "clock_hz": _NUMBER,
             "clock_from": str},
    "settings": {"board": str, "weights": str, "lanes": int, "prompts": [int], "outputs": [int], "repeat": int},
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
        right = isinstance(value, shape) and not isinstance(value, bool)
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            names = [kind.__name__ for kind in (shape if isinstance(shape, tuple) else (shape,))]
            raise NomulError(f"{where} is {_kind(value)}; it must be {' or '.join(names)}")


def _kind(value: Any) -> str:
    text = repr(value)
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
    _check(found, _SHAPE, str(path))
    for where, label in _labels(found, str(path)):
        if label not in LABELS:
            raise NomulError(f"{where}: label is {_kind(label)}; one of {', '.join(LABELS)}")
    return found


def _labels(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Every label in a document, and where it is."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "label":
                yield where, part
            else:
                yield from _labels(part, f"{where}: {name}")
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _labels(part, f"{where}[{number}]")


def cells(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Each target with each of its runs, and what the pair is called."""
    for target in document["targets"]:
        for run in target["runs"]:
            users = "" if run["users"] == 1 else f", {run['users']} users"
            yield target, run, f"{target['name']}, prompt {run['prompt']}, output {run['output']}{users}"


def recomputed(target: dict[str, Any], run: dict[str, Any], clock_hz: float) -> list[str]:
    """What in a run does not follow from its own samples; empty if all does."""
    case = Case(prompt=run["prompt"], output=run["output"], users=run["users"])
    wrong = []
    if not run["samples"]:
        return ["it has no samples"]
    for number, sample in enumerate(run["samples"]):
        if not 0 < sample["first_s"] < sample["last_s"]:
            return [f"sample {number}: first_s {sample['first_s']:g} and last_s {sample['last_s']:g} are no times"]
        for name in ("prefill", "decode"):
            part = sample.get(name)
            if part is not None and sum(part["phases"].values()) != part["cycles"]:
                wrong.append(f"sample {number}: the phases of {name} do not sum to its cycles")
        if target["label"] == "simulated":
            first = sample["prefill"]["cycles"] / clock_hz
            last = (sample["prefill"]["cycles"] + sample["decode"]["cycles"]) / clock_hz
            if not (math.isclose(first, sample["first_s"]) and math.isclose(last, sample["last_s"])):
                wrong.append(f"sample {number}: its times are not its cycles over {clock_hz:g} Hz")
    times = [(sample["first_s"], sample["last_s"]) for sample in run["samples"]]
    for name, figure in figures_of(case, times, target["label"]).items():
        told = run["figures"].get(name)
        if told is None:
            wrong.append(f"{name} is missing")
            continue
        for key, value in figure.items():
            same = told.get(key) == value
            if isinstance(value, float) and isinstance(told.get(key), int | float):
                same = math.isclose(value, told[key], rel_tol=1e-9)
            if not same:
                wrong.append(f"{name}: {key} is {told.get(key)}, its samples give {value}")
    lengths = {len(text) for text in run["tokens"]}
    if len(run["tokens"]) != case.users or lengths != {case.output}:
        wrong.append(f"tokens: {len(run['tokens'])} users with {sorted(lengths)} tokens")
    return wrong
