# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Resets as synthesis leaves them: they wait for the PLL's lock, come back without it, and wait for supplies."""

from __future__ import annotations

from held import Held

from nomul.hw.boards.bare import BARE
from nomul.hw.boards.configurations import board_top
from nomul.hw.boards.top import BoardTop
from nomul.sim.harness import run


def test_a_board_is_in_reset_without_lock():
    """All of a bare board's link, synthesised: its ready light is on a cycle after reset, and then it answers."""
    top = board_top(BARE[0], None)
    assert isinstance(top, BoardTop)
    identity = top.top.link.identity
    run(top, "reset_tb", synthesis=True,
        parameters={"bit": top.clock_hz // top.stream.baud, "design": identity.design.hex()})  # fmt: skip


def test_a_transceiver_is_in_reset_until_its_bank_is_supplied():
    held = Held()
    run(held, "reset_tb", synthesis=True,
        parameters={"held": True, "settling": held.supplies.settling, "starting": held.supplies.starting})  # fmt: skip
