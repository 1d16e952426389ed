# SPDX-License-Identifier: Apache-2.0
"""The server that most tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from served import Served


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as found:
        yield found
