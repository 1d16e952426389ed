# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""The link in simulation, in front of a stand-in core; its parts against their definitions."""

from __future__ import annotations

import re

import pytest
from standin import IDENTITY, StandInCore

from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.sim.harness import run


def test_link():
    core = StandInCore(cycles=40)
    run(Top(core=core, link=Link(identity=IDENTITY)), "link_tb", parameters={"cycles": core.cycles})


def test_refuses_what_is_no_identity():
    with pytest.raises(TypeError, match=re.escape("Link tells an Identity, not b'x'")):
        Link(identity=b"x")
