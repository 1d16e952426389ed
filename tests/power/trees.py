# SPDX-License-Identifier: Apache-2.0
"""What the meters' tests share: a clock that tests turn, files as the kernel lays them out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nomul.host.power.meter import Reading, Unreadable


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


class Script(Reading):
    """A meter that says what it is told to; ``None`` is a reading that fails."""

    def __init__(self, values: Iterable[float | None], **more: object):
        settings = {"name": "script", "rate_hz": 10.0, "range_w": (0.0, 100.0), "includes": "all"} | more
        super().__init__(**settings)  # type: ignore[arg-type]
        self._values = iter(values)

    def read(self) -> float:
        value = next(self._values)
        if value is None:
            raise Unreadable("script: no answer")
        return value


def tree(root: Path, files: dict[str, object]) -> Path:
    """Files below a folder, by path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root
