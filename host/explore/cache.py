# SPDX-License-Identifier: Apache-2.0
"""Results by the content that they depend on, each in a file with a checksum."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from nomul.model.files import atomic, canonical_json, os_errors

__all__ = ["Cache"]

_FORMAT = 1


class Cache:
    """A folder of results.

    A file is whole or not there; one that was damaged is removed when it is looked at, or written over later if it can
    not be removed; it is counted, and its result made again.

    Parameters
    ----------
    root : Path
        Made when something is put there.

    Attributes
    ----------
    damaged : list of str
        Files that were.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self.damaged: list[str] = []

    def path(self, key: str) -> Path:
        """Where the result of a key lies."""
        return self.root / key[:2] / f"{key}.json"

    def get(self, key: str) -> Any | None:
        """The result, or ``None``."""
        path = self.path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError:
            with os_errors(path):
                raise
        try:
            found = json.loads(text)
            value = found["value"]
            right = found["format"] == _FORMAT and found["key"] == key and found["sha256"] == _digest(value)
        except (ValueError, KeyError, TypeError, RecursionError):
            right = False
        if not right:
            self.damaged.append(str(path))
            with contextlib.suppress(OSError):  # a folder that is only read: the one who puts something there is told
                path.unlink(missing_ok=True)
            return None
        return value

    def put(self, key: str, name: str, value: Any) -> None:
        """Keeps a result; ``name`` says to people what it is of."""
        path = self.path(key)
        with os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        made = {"format": _FORMAT, "key": key, "name": name, "sha256": _digest(value), "value": value}
        with atomic(path) as out:
            out.write(json.dumps(made, indent=1).encode() + b"\n")


def _digest(value: Any) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
