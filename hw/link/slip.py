# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
"""SLIP (RFC 1055): frames in a byte stream."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.protocol import SLIP_END, SLIP_ESC, SLIP_ESC_END, SLIP_ESC_ESC

__all__ = ["FrameByte", "SlipDecoder", "SlipEncoder", "SlipItem"]


class SlipItem(data.Struct):
    """What a decoder gives: a byte of a frame or, when ``end``, its end (``bad``: drop it)."""

    data: 8
    end: 1
    bad: 1


class FrameByte(data.Struct):
    """A byte of a frame; ``last`` closes it."""

    data: 8
    last: 1


class SlipDecoder(wiring.Component):
    """Takes escapes out of a byte stream and finds the ends of frames.

    One byte a cycle; an item is offered the cycle after its byte was taken. Any input is legal: an
    escape that is none marks its frame ``bad``, and the next END begins afresh.

    Members
    -------
    i : ``In(stream.Signature(8))``
        Bytes from the line.
    o : ``Out(stream.Signature(SlipItem))``
        Frames. Two ENDs in a row give an empty frame: ignore it.
    """

    i: In(stream.Signature(8))
    o: Out(stream.Signature(SlipItem))

    def __init__(self) -> None:
        super().__init__()
        # Known by name to the proof in tests/link.
        self.escaped, self.bad = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        escaped, bad = self.escaped, self.bad
        i, o = self.i, self.o
        is_end, is_escape = i.payload == SLIP_END, i.payload == SLIP_ESC

        m.d.comb += i.ready.eq(~o.valid | o.ready)
        with m.If(i.ready):
            m.d.sync += o.valid.eq(i.valid & (is_end | ~is_escape & ~bad))
        with m.If(i.ready & i.valid):
            m.d.sync += [
                o.payload.data.eq(i.payload),
                o.payload.end.eq(is_end),
                o.payload.bad.eq(bad | escaped),
                escaped.eq(is_escape & ~escaped),
            ]
            with m.If(is_end):
                m.d.sync += bad.eq(0)
            with m.Elif(escaped), m.Switch(i.payload):
                with m.Case(SLIP_ESC_END):
                    m.d.sync += o.payload.data.eq(SLIP_END)
                with m.Case(SLIP_ESC_ESC):
                    m.d.sync += o.payload.data.eq(SLIP_ESC)
                with m.Default():
                    m.d.sync += [bad.eq(1), o.valid.eq(0)]
        return m


class SlipEncoder(wiring.Component):
    """Makes frames of bytes: END, the bytes with END and ESC escaped, END.

    The leading END ends whatever noise the line had. Without waits, a frame of n bytes with e
    escaped ones takes n + e + 2 cycles; its first END is offered in the cycle of its first byte.

    Members
    -------
    i : ``In(stream.Signature(FrameByte))``
        Frames of at least one byte.
    o : ``Out(stream.Signature(8))``
        Bytes for the line.
    """

    i: In(stream.Signature(FrameByte))
    o: Out(stream.Signature(8))

    def __init__(self) -> None:
        super().__init__()
        # Known by name to the proof in tests/link.
        self.between, self.escaping, self.closing = Signal(), Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        i, o = self.i, self.o
        is_end = i.payload.data == SLIP_END
        special = is_end | (i.payload.data == SLIP_ESC)

        with m.FSM() as fsm:
            m.d.comb += [
                self.between.eq(fsm.ongoing("START")), self.escaping.eq(fsm.ongoing("ESCAPED")),
                self.closing.eq(fsm.ongoing("END")),
            ]
            with m.State("START"):
                m.d.comb += [o.valid.eq(i.valid), o.payload.eq(SLIP_END)]
                with m.If(o.valid & o.ready):
                    m.next = "BODY"
            with m.State("BODY"):
                m.d.comb += [
                    o.valid.eq(i.valid),
                    o.payload.eq(i.payload.data),
                    i.ready.eq(o.ready & ~special),
                ]
                with m.If(special):
                    m.d.comb += o.payload.eq(SLIP_ESC)
                with m.If(o.valid & o.ready):
                    with m.If(special):
                        m.next = "ESCAPED"
                    with m.Elif(i.payload.last):
                        m.next = "END"
            with m.State("ESCAPED"):
                m.d.comb += [o.valid.eq(1), i.ready.eq(o.ready), o.payload.eq(SLIP_ESC_ESC)]
                with m.If(is_end):
                    m.d.comb += o.payload.eq(SLIP_ESC_END)
                with m.If(o.ready):
                    m.next = "BODY"
                    with m.If(i.payload.last):
                        m.next = "END"
            with m.State("END"):
                m.d.comb += [o.valid.eq(1), o.payload.eq(SLIP_END)]
                with m.If(o.ready):
                    m.next = "START"
        return m
