# SPDX-License-Identifier: Apache-2.0
"""Jobs without work, for :mod:`.bench`; a process that does one imports nothing for it."""

from __future__ import annotations

import time

__all__ = ["nothing", "waits"]


def nothing(number: int) -> int:
    """A job that costs what a job costs."""
    return number


def waits(number: int, seconds: float) -> int:
    """A job that takes its time and no processor."""
    time.sleep(seconds)
    return number
