# SPDX-License-Identifier: Apache-2.0
"""What a board's LEDs say."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Lights"]

_BEAT_HZ = 1


class Lights(wiring.Component):
    """Three LEDs.

    Parameters
    ----------
    clock_hz : int

    Members
    -------
    memory_ready, failed : ``In(1)``
        Of the core's memory; the last job failed.
    heartbeat : ``Out(1)``
        The clock runs and reset is over: on and off within a second.
    ready : ``Out(1)``
        Memory can be used.
    error : ``Out(1)``
        The last job failed.
    """

    def __init__(self, *, clock_hz: int):
        if clock_hz < 2 * _BEAT_HZ:
            raise ValueError(f"Lights: clock_hz is {clock_hz}; at least {2 * _BEAT_HZ}")
        self.half = clock_hz // (2 * _BEAT_HZ)
        super().__init__({
            "memory_ready": In(1),
            "failed": In(1),
            "heartbeat": Out(1),
            "ready": Out(1),
            "error": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = Signal(range(self.half))
        m.d.sync += [count.eq(count + 1), self.ready.eq(self.memory_ready), self.error.eq(self.failed)]
        with m.If(count == self.half - 1):
            m.d.sync += [count.eq(0), self.heartbeat.eq(~self.heartbeat)]
        return m
