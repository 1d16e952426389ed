# SPDX-License-Identifier: Apache-2.0
"""The source files that a piece of hardware is made of, and a hash of them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["hash_sources", "sources"]

_ROOTS = ("nomul.hw.", "nomul.model.")
_TOOLS = "nomul.hw.build."  # how Verilog is made, not what it says


@cache
def _path(module: str) -> tuple[Path, bool] | None:
    """File of a module, and whether it is a package; ``None`` if there is none."""
    if not module.startswith(_ROOTS):
        return None
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin), spec.submodule_search_locations is not None


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of ours that a module names in import statements, wherever they stand in it."""
    found = _path(module)
    assert found is not None
    path, package = found
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")[: len(module.split(".")) - node.level + package]
                base = ".".join([*above, base] if base else above)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if _path(name) is not None)


def _closure(modules: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module in seen or module.startswith(_TOOLS):
            continue
        seen.add(module)
        waiting += _imports(module)
        parent = module.rpartition(".")[0]
        if _path(parent) is not None:
            waiting.append(parent)  # a package is imported before what is in it
    return iter(sorted(seen))


def sources(*modules: str) -> dict[str, Path]:
    """Files of modules and of all modules of ``hw`` and ``model`` that they import, by module.

    The build flow (``nomul.hw.build``) is not followed: what it does to a design is not the design.

    Parameters
    ----------
    *modules : str
        Full names, as ``nomul.hw.core``.
    """
    found = {}
    for module in _closure(modules):
        place = _path(module)
        assert place is not None
        found[module] = place[0]
    return found


def hash_sources(*modules: str, salt: str = "") -> bytes:
    """SHA-256 of the text of :func:`sources`, and of ``salt``."""
    digest = hashlib.sha256(salt.encode())
    for module, path in sources(*modules).items():
        digest.update(f"\0{module}\0".encode())
        digest.update(path.read_bytes())
    return digest.digest()
