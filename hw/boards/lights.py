# SPDX-License-Identifier: Apache-2.0
"""What a board's LEDs say."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["LightMatrix", "Lights"]

from .board import LedMatrix

_BEAT_HZ = 1
_SLOT_BITS = 16  # cycles for which the matrix shows a colour: 0.7 ms at 90 MHz


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


class LightMatrix(wiring.Component):
    """Three of the LEDs of a matrix, one colour after the other.

    Parameters
    ----------
    matrix : LedMatrix
    leds : int
        That there are.

    Members
    -------
    heartbeat, ready, error : ``In(1)``
    leds : ``Out(leds)``
        Anodes.
    led_r, led_g, led_b : ``Out(1)``
        Cathodes; one is high, or, for a cycle after each colour, none.
    """

    def __init__(self, *, matrix: LedMatrix, leds: int):
        self.matrix = matrix
        super().__init__({
            "heartbeat": In(1),
            "ready": In(1),
            "error": In(1),
            "leds": Out(leds),
            "led_r": Out(1),
            "led_g": Out(1),
            "led_b": Out(1),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count, colour, dark = Signal(_SLOT_BITS), Signal(3, init=1), Signal()
        m.d.sync += [count.eq(count + 1), dark.eq(count == (1 << _SLOT_BITS) - 1)]
        with m.If(dark):
            m.d.sync += colour.eq(colour.rotate_left(1))
        matrix = self.matrix
        shown = (self.error, matrix.error), (self.ready, matrix.ready), (self.heartbeat, matrix.heartbeat)
        m.d.sync += Cat(self.led_r, self.led_g, self.led_b).eq(colour & ~dark.replicate(3))
        m.d.sync += self.leds.eq(0)
        for bit, (level, led) in zip(colour, shown, strict=True):
            with m.If(bit & ~dark):
                m.d.sync += self.leds[led].eq(level)
        return m
