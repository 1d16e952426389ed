# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, and JSON without surprises."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from .errors import NomulError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

__all__ = ["atomic", "canonical_json", "os_errors", "parse_json"]


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into one line that names the file."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        mend = "free some space" if error.errno in _FULL else "check the path and its permissions"
        raise NomulError(f"{path}: {reason}; {mend}") from None


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name only when it is complete.

    It is written beside its place as ``.NAME.PID.tmp``, synchronised and renamed; a killed process
    leaves nothing under the final name, an exception nothing at all.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise NomulError(f"{path}: is a device or pipe, which a file cannot replace; name a file")
    with os_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def canonical_json(value: Any) -> bytes:
    """ASCII JSON with sorted keys and no spaces: equal values have equal bytes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise ValueError(f"key {twice!r} occurs twice")
    return result


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def parse_json(data: bytes, what: str, mend: str) -> dict[str, Any]:
    """A JSON object; duplicate keys, NaN and infinities are refused.

    Parameters
    ----------
    data : bytes
        UTF-8.
    what, mend : str
        Begin and end of the error line.

    Raises
    ------
    NomulError
        If it is anything else.
    """
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise NomulError(f"{what} is not valid JSON ({reason}); {mend}") from None
    if not isinstance(value, dict):
        raise NomulError(f"{what} is a JSON {type(value).__name__}, not an object; {mend}")
    return value
