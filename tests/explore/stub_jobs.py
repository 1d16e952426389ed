# SPDX-License-Identifier: Apache-2.0
"""What jobs of the tests call: real functions in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from nomul.model.errors import NomulError


def square(number: int) -> int:
    """A result, at once."""
    return number * number


def counted(number: int, folder: str) -> int:
    """The same, and a file more in a folder for each time that it was called."""
    (Path(folder) / f"{number}-{time.monotonic_ns()}").touch()
    return number * number


def slow(number: int, folder: str, seconds: float) -> int:
    """The same, after leaving the process's number in a file and some time."""
    (Path(folder) / f"{number}-{os.getpid()}-{os.getppid()}").touch()
    time.sleep(seconds)
    return number * number


def hangs(folder: str) -> None:
    """Never comes back, and has begun a process that does not either."""
    child = subprocess.Popen(["sleep", "600"])
    (Path(folder) / "children").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def refuses(reason: str) -> None:
    """What a user can mend."""
    raise NomulError(reason)


def breaks() -> None:
    """A bug."""
    raise ZeroDivisionError("of nothing")


def dies() -> None:
    """The process is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def run_tests_elsewhere(**arguments: Any) -> dict[str, Any]:
    """Real tests of the checkout that ``STUB_CHECKOUT`` names."""
    from nomul.host.explore import regressions  # other jobs need no Dask

    folder = Path(os.environ["STUB_CHECKOUT"]) / "tests"
    regressions.tests_folder = lambda: folder
    return regressions.run_tests(**arguments)
