# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""Refresh in groups, precharged for once: rows are closed already between the refreshes of a group.

Takes the place of LiteDRAM's ``Refresher``. Imported by :mod:`nomul.hw.dram.litex` alone.
"""

from litedram.common import cmd_request_rw_layout
from litedram.core.refresher import RefreshTimer
from litex.soc.interconnect import stream
from migen import FSM, If, Module, NextState, NextValue, Signal

__all__ = ["GroupRefresher"]


class GroupRefresher(Module):
    """Every ``postponing`` times tREFI: precharge all banks, then ``postponing`` refreshes.

    A part allows eight refreshes to be late, so the first of the group may wait for seven more. Between
    groups, once in ``1 / zqcs_freq`` seconds, the part calibrates its drivers if it has a time for it.

    Attributes
    ----------
    cmd : Endpoint
        ``valid`` asks for the pins; while they are granted by ``ready``, commands are on it; ``last`` with the
        end of the work.
    """

    def __init__(self, settings, clk_freq, zqcs_freq=1.0, postponing=1):
        timing = settings.timing
        self.cmd = cmd = stream.Endpoint(
            cmd_request_rw_layout(a=settings.geom.addressbits, ba=settings.geom.bankbits)
        )

        # A group is due. Waiting for the pins takes far less than a group's period.
        self.submodules.timer = timer = RefreshTimer(postponing * timing.tREFI)
        self.comb += timer.wait.eq(~timer.done)
        calibrate = Signal()
        if timing.tZQCS is not None:
            self.submodules.zqcs_timer = zqcs_timer = RefreshTimer(int(clk_freq / zqcs_freq))
            self.comb += zqcs_timer.wait.eq(~zqcs_timer.done)
            self.sync += If(zqcs_timer.done, calibrate.eq(1))

        # Commands are strobes of a cycle; states below last until the next one may follow.
        left = Signal(max=postponing + 1)
        wait = Signal(max=max(timing.tRP, timing.tRFC, timing.tZQCS or 0) + 1)
        self.sync += If(wait != 0, wait.eq(wait - 1))
        self.submodules.fsm = fsm = FSM()
        fsm.act(
            "IDLE",
            NextValue(left, postponing),
            If(timer.done & int(settings.with_refresh), NextState("ASK")),
        )
        fsm.act(
            "ASK",
            cmd.valid.eq(1),
            If(
                cmd.ready,
                cmd.ras.eq(1),
                cmd.we.eq(1),
                cmd.a.eq(1 << 10),  # all banks
                NextValue(wait, timing.tRP - 1),
                NextState("REFRESH"),
            ),
        )
        fsm.act(
            "REFRESH",
            cmd.valid.eq(1),
            If(
                (wait == 0) & (left != 0),
                cmd.ras.eq(1),
                cmd.cas.eq(1),
                NextValue(left, left - 1),
                NextValue(wait, timing.tRFC - 1),
            ).Elif(
                (wait == 0) & calibrate,
                cmd.we.eq(1),
                NextValue(calibrate, 0),
                NextValue(wait, (timing.tZQCS or 1) - 1),
            ).Elif(
                # A bank machine takes two cycles from here to its next command.
                (left == 0) & (wait <= 2) & ~calibrate,
                cmd.valid.eq(0),
                cmd.last.eq(1),
                NextState("IDLE"),
            ),
        )
