# SPDX-License-Identifier: Apache-2.0
"""From Verilog and a C++ main to a program, with Verilator."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from nomul.hw.build.tools import build_folder, verilator_environment, versions
from nomul.model.errors import NomulError

__all__ = ["VCD_HEADER", "verilate"]

#: For programs that write VCD files.
VCD_HEADER = Path(__file__).with_name("vcd.h")

_OPTIONS = [
    "--cc",
    "--exe",
    "--build",
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "--no-timing",
    "--Mdir",
    ".",
    "-Wno-fatal",
    "-Wno-lint",
    "--output-split",
    "20000",  # files that two compilers can share, and that stay small in memory
    "-CFLAGS",
    "-std=c++17",
]
_TRACE = ["--trace", "--trace-underscore"]  # memories' read registers begin with an underscore
_OPTIMISE = "OPT_FAST=-O2 OPT_SLOW=-O1 OPT_GLOBAL=-O2"
_LIMIT_S = 900


def verilate(
    name: str,
    files: Mapping[str, str],
    *,
    what: str,
    traced: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Compiles a program; a second time it is there at once.

    Parameters
    ----------
    name : str
        Of the top module, of the program, and with a ``V`` in front of the class that Verilator makes.
    files : mapping
        Text by file name: Verilog, Verilator's settings (``.vlt``), C++ and its headers.
    what : str
        What is made, for messages.
    traced : bool
        Able to write a VCD file; ``VM_TRACE`` is 1 in C++. Slower, also while it writes none.
    progress : callable
        Called with a line when work begins.

    Returns
    -------
    Path
        The program.

    Raises
    ------
    NomulError
        If a compiler is missing, or fails; with the first error and where the log lies.
    """
    # Every input of the program, so that an old one is never taken for a new one.
    options = [*_OPTIONS, *(_TRACE if traced else [])]
    parts = [name, *(part for file in files.items() for part in file), *options, _OPTIMISE]
    text = "\0".join([*parts, str(versions().get("verilator"))])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = build_folder(name, key)
    program = folder / name
    with open(folder / "lock", "w") as lock:  # two processes may want the same program
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "built").is_file() and program.is_file():
            return program
        environment = os.environ | verilator_environment()
        size = sum(len(text) for file, text in files.items() if file.endswith(".v"))
        progress(f"compiling the {what} ({size // 1024} KB of Verilog)")
        for file, text in files.items():
            (folder / file).write_text(text)
        # Options of make in MAKEFLAGS reach the make that Verilator calls.
        environment["MAKEFLAGS"] += f" {_OPTIMISE}"
        log = folder / "build.log"
        jobs = str(min(os.cpu_count() or 1, 8))
        command = ["verilator", *options, "--top-module", name, "--prefix", f"V{name}", "-o", name]
        with open(log, "w") as output:
            try:
                status = subprocess.run(
                    [*command, "-j", jobs, *(f for f in files if not f.endswith(".h"))],
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=_LIMIT_S,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise NomulError(f"{what}: not compiled within {_LIMIT_S} s; see {log}") from None
        if status:
            found = re.search(
                r"^.*(?:[Ee]rror|killed|Killed).*$", log.read_text(errors="replace"), re.M
            )
            raise NomulError(
                f"{what}: the compiler failed: {found[0].strip() if found else status}; see {log}"
            )
        (folder / "built").touch()
    return program
