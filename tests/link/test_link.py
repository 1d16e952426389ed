# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The link in simulation, in front of a stand-in core; its parts against their definitions."""

from __future__ import annotations

import re

import pytest
from standin import StandInCore, standin_identity

from nomul.hw.link import Link
from nomul.hw.link.rows import RowChecker
from nomul.hw.link.runner import JobRunner
from nomul.hw.top import Top
from nomul.sim.harness import run


@pytest.mark.parametrize("bench", ["link_tb", "jobs_tb"])
@pytest.mark.parametrize(("lanes", "slots"), [(1, 1), (2, 1), (3, 4)])
def test_link(lanes: int, slots: int, bench: str):
    core = StandInCore(cycles=40, lanes=lanes, slots=slots)
    link = Link(identity=standin_identity(lanes, slots))
    run(
        Top(core=core, link=link),
        bench,
        parameters={"cycles": core.cycles, "lanes": lanes, "slots": slots},
        inside=bench == "jobs_tb",
    )


@pytest.mark.parametrize("kind", [JobRunner, RowChecker])
@pytest.mark.parametrize(
    ("lanes", "slots", "message"),
    [
        (0, 1, "lanes is 0; it must be 1 to 128"),
        (129, 1, "lanes is 129; it must be 1 to 128"),
        (1, 0, "slots is 0; it must be 1 to 256"),
        (1, 257, "slots is 257; it must be 1 to 256"),
    ],
)
def test_refuses_sizes(kind: type, lanes: int, slots: int, message: str):
    with pytest.raises(ValueError, match=f"^{kind.__name__}: {message}$"):
        kind(lanes=lanes, slots=slots)


def test_refuses_what_is_no_identity():
    with pytest.raises(TypeError, match=re.escape("Link tells an Identity, not b'x'")):
        Link(identity=b"x")
