# SPDX-License-Identifier: Apache-2.0
"""The controller's registers on the link's bus."""

from __future__ import annotations

from nomul.hw.dram.control import ControlBridge
from nomul.sim.harness import run


def test_bridge():
    run(ControlBridge(), "control_tb")
