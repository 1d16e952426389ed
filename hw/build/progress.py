# SPDX-License-Identifier: Apache-2.0
"""What a build is at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Seen", "stage", "unseen"]

#: Told a stage and a line of its tool, or ``None`` when the stage is over. Stages may run at once, in threads.
Seen = Callable[[str, str | None], None]


def unseen(stage: str, line: str | None) -> None:
    """No progress."""


@contextmanager
def stage(seen: Seen, name: str) -> Iterator[None]:
    """From its begin to its end."""
    seen(name, "")
    try:
        yield
    finally:
        seen(name, None)
