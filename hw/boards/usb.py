# SPDX-License-Identifier: Apache-2.0
"""The byte stream of boards whose USB ends at the chip: a full-speed serial device (CDC-ACM), from LUNA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from amaranth.hdl import Elaboratable, Fragment, Instance, IOPort, Module, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.model.errors import NomulError
from nomul.model.protocol import SLIP_END
from nomul.model.usb import USB_IDS

from .board import Board, Pins, UsbLink

__all__ = ["FrameEnds", "LunaDevice", "UsbStream", "across"]

_VENDOR, _PRODUCT = (int(part, 16) for part in USB_IDS.split(":"))
_PACKET = 64  # of bulk endpoints at full speed
_DEPTH = 16  # of the FIFOs between the clocks


class FrameEnds(wiring.Component):
    """Marks the bytes after which a USB packet must not wait for more: the END of each SLIP frame.

    The END before a frame is not marked, so a frame is sent in full packets and one that is short.

    Members
    -------
    byte : ``In(8)``
    taken : ``In(1)``
        ``byte`` goes out in this cycle.
    last : ``Out(1)``
        ``byte`` ends a frame.
    """

    def __init__(self) -> None:
        super().__init__({"byte": In(8), "taken": In(1), "last": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        inside, end = Signal(), Signal()
        m.d.comb += [end.eq(self.byte == SLIP_END), self.last.eq(end & inside)]
        with m.If(self.taken):
            m.d.sync += inside.eq(~end)
        return m


class UsbStream(wiring.Component):
    """A USB device that a host takes for a serial port; rates mean nothing to it.

    It wants domains ``usb_io`` (48 MHz) and ``usb`` (12 MHz, of the same PLL) beside ``sync``.

    Parameters
    ----------
    board : Board
        Its link is a :class:`~.board.UsbLink`.
    clock_hz : int
        Of domain ``sync``; any.

    Attributes
    ----------
    domains : dict
        Clocks beside ``sync``, Hz.
    pads : dict
        Ports that go both ways, with their places.
    baud : int
        0: there is none.

    Members
    -------
    usb_pullup : ``Out(1)``
        Tells the host that there is a device.
    rx, tx
        The bytes, as of :class:`~nomul.hw.top.Top`, from the other side.
    """

    def __init__(self, *, board: Board, clock_hz: int):
        assert isinstance(board.link, UsbLink)
        self.domains = {"usb_io": 48_000_000, "usb": 12_000_000}
        self.baud = 0
        self.board = board
        self.pads = {f"usb_{name}": board.pins(board.link.resource, name) for name in ("d_p", "d_n")}
        super().__init__({
            "usb_pullup": Out(1),
            "rx": Out(stream.Signature(8)),
            "tx": In(stream.Signature(8)),
        })

    def pins(self) -> dict[str, Pins]:
        """Where the wires are that go one way."""
        assert isinstance(self.board.link, UsbLink)
        return {"usb_pullup": self.board.pins(self.board.link.resource, "pullup")}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bus = SimpleNamespace(pullup=SimpleNamespace(o=self.usb_pullup))
        for name, pins in self.pads.items():
            wire = SimpleNamespace(i=Signal(), o=Signal(), oe=Signal())
            setattr(bus, name.removeprefix("usb_"), wire)
            pad = IOPort(1, name=name)
            m.submodules[name] = Instance("BB", i_T=~wire.oe, i_I=wire.o, o_O=wire.i, io_B=pad)
            assert len(pins.sites) == 1
        m.submodules.device = luna = LunaDevice(bus, packet=_PACKET)
        across(m, self, luna.device)
        return m


def across(m: Module, link: Any, device: Any) -> None:
    """Joins LUNA's serial device, in domain ``usb``, to the bytes of a link in domain ``sync``, in whose module this
    stands."""
    m.submodules.to_core = to_core = fifo.AsyncFIFO(width=8, depth=_DEPTH, w_domain="usb", r_domain="sync")
    m.submodules.to_host = to_host = fifo.AsyncFIFO(width=9, depth=_DEPTH, w_domain="sync", r_domain="usb")
    m.submodules.ends = ends = FrameEnds()
    m.d.comb += [
        device.connect.eq(1),
        to_core.w_data.eq(device.rx.payload),
        to_core.w_en.eq(device.rx.valid),
        device.rx.ready.eq(to_core.w_rdy),
        link.rx.payload.eq(to_core.r_data),
        link.rx.valid.eq(to_core.r_rdy),
        to_core.r_en.eq(link.rx.ready),
        ends.byte.eq(link.tx.payload),
        ends.taken.eq(link.tx.valid & link.tx.ready),
        to_host.w_data[:8].eq(link.tx.payload),
        to_host.w_data[8].eq(ends.last),
        to_host.w_en.eq(link.tx.valid),
        link.tx.ready.eq(to_host.w_rdy),
        device.tx.payload.eq(to_host.r_data[:8]),
        device.tx.last.eq(to_host.r_data[8]),
        device.tx.valid.eq(to_host.r_rdy),
        to_host.r_en.eq(device.tx.ready),
    ]


class LunaDevice(Elaboratable):
    """LUNA's device. What it is written with is deprecated in Amaranth 0.5, which we know.

    Parameters
    ----------
    bus : SimpleNamespace
        The wires, as LUNA wants them.
    packet : int
        Bytes of a bulk endpoint's packet.
    """

    def __init__(self, bus: SimpleNamespace, *, packet: int):
        with _quietly():
            try:
                from luna.gateware.usb.devices.acm import USBSerialDevice
            except ModuleNotFoundError:
                raise NomulError("luna-usb is not installed: run pip install 'nomul[usb]'") from None
            self.device = USBSerialDevice(
                bus=bus, idVendor=_VENDOR, idProduct=_PRODUCT, manufacturer_string="nomul",
                product_string="nomul link", max_packet_size=packet,
            )  # fmt: skip

    def elaborate(self, platform: object) -> Fragment:
        with _quietly():
            return Fragment.get(self.device, platform)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
