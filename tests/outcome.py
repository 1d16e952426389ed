# SPDX-License-Identifier: Apache-2.0
"""What a command leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
UPSTREAM = TESTS / "fixtures/upstream-a"


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status and both outputs."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, parsed."""
        return json.loads(self.out)

    def failed(self, status: int = 1) -> str:
        """Its one line of error."""
        assert self.status == status, (self.out, self.err)
        assert self.out == ""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


Nomul = Callable[..., Outcome]
