# SPDX-License-Identifier: Apache-2.0
"""A hash of all that a folder's text says: programs, harnesses, fixtures, tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from nomul.model.files import os_errors

__all__ = ["IGNORED", "SUFFIXES", "hash_tree"]

#: What a file's name ends with that a result may depend on, in the source tree.
SUFFIXES = (
    ".bin", ".c", ".cc", ".cfg", ".cpp", ".css", ".csv", ".h", ".hex", ".hpp", ".html", ".ini", ".js", ".json", ".lpf",
    ".md", ".mem", ".nomul", ".npy", ".npz", ".py", ".safetensors", ".sh", ".sv", ".svh", ".tcl", ".toml", ".txt", ".v",
    ".vh", ".vlt", ".yaml", ".yml", ".ys",
)  # fmt: skip
#: Folders of what tools leave, anywhere in a tree.
IGNORED = frozenset({"__pycache__", ".hypothesis", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".venv"})


def hash_tree(roots: Mapping[str, Path]) -> bytes:
    """SHA-256 of all files below folders, or of files, that end with one of :data:`SUFFIXES`: places and contents.

    Parameters
    ----------
    roots : mapping of str to Path
        By a name that stands for the place: trees that lie elsewhere are the same if their files are. Roots that are
        not there count as empty.

    Raises
    ------
    NomulError
        If a file can not be read.
    """
    digest = hashlib.sha256()
    for name, root in sorted(roots.items()):
        for path in sorted(_files(root)):
            place = path.relative_to(root).as_posix()
            with os_errors(path):
                content = path.read_bytes()
            digest.update(f"{name}/{place}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.digest()


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found = []
    for path in root.rglob("*"):
        inside = path.relative_to(root).parts
        if path.suffix in SUFFIXES and not IGNORED.intersection(inside) and path.is_file():
            found.append(path)
    return found
