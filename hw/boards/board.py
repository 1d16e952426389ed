# SPDX-License-Identifier: Apache-2.0
"""What a board is: facts of its amaranth-boards platform, and what we add to them.

What stands here needs no Amaranth; what is derived from the platform class (part, pins, clock) loads it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nomul.hw.dram.boards import DramBoard

__all__ = [
    "NEXTPNR_DEVICES", "BankSupplies", "Bare", "Board", "Led", "LedMatrix", "Pins", "UartLink", "UlpiLink", "UsbLink",
]  # fmt: skip

#: By which nextpnr knows a device.
NEXTPNR_DEVICES = {
    f"{family}-{size}F": f"--{prefix}{size}k"
    for family, prefix in (("LFE5U", ""), ("LFE5UM", "um-"), ("LFE5UM5G", "um5g-"))
    for size in (25, 45, 85)
}
#: Packages by the names that amaranth-boards and nextpnr have for them.
_PACKAGES = {
    "BG256": "CABGA256", "MG285": "CSFBGA285", "BG381": "CABGA381", "BG554": "CABGA554",
    "BG756": "CABGA756",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pins:
    """Where a port of the top is on the chip.

    Attributes
    ----------
    sites : tuple of str
        One for each bit; of differential pairs the positive ones. None: wherever nextpnr likes.
    invert : bool
        The board's level is the inverse.
    attributes : mapping
        Of the pads, as in an LPF file.
    """

    sites: tuple[str, ...]
    invert: bool = False
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Led:
    """An LED by its resource, number and, of one with colours, subsignal."""

    resource: str
    number: int = 0
    part: str | None = None


@dataclass(frozen=True, kw_only=True)
class LedMatrix:
    """LEDs of three colours whose anodes are driven each, and whose cathodes are driven by colour.

    Attributes
    ----------
    resource : str
        With subsignals ``leds``, ``r``, ``g`` and ``b``, all active when high.
    heartbeat, ready, error : int
        Which LED is that, in blue, green and red.
    """

    resource: str
    heartbeat: int = 0
    ready: int = 1
    error: int = 2


@dataclass(frozen=True, kw_only=True)
class BankSupplies:
    """Supplies of I/O banks that the chip has to set before it uses them: :class:`~.supplies.Supplies`.

    Attributes
    ----------
    resource : str
        With subsignals ``pdm`` and ``en``.
    volts : tuple of float
        For each pin of ``pdm``.
    """

    resource: str
    volts: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class UartLink:
    """A USB bridge with a serial port.

    Attributes
    ----------
    chip : str
    base_hz : int
        What it divides for its rates.
    """

    chip: str
    base_hz: int


@dataclass(frozen=True, kw_only=True)
class UsbLink:
    """Full-speed USB right on pins of the chip."""

    resource: str = "usb"


@dataclass(frozen=True, kw_only=True)
class UlpiLink:
    """High-speed USB through a ULPI transceiver.

    Attributes
    ----------
    resource : str
    attributes : mapping
        Of its pads, over those of the platform class.
    """

    resource: str = "usb"
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bare:
    """A chip without a board: what a platform class would say.

    Attributes
    ----------
    device, package, speed : str
    input_hz : int
        An oscillator that many boards have.
    """

    device: str
    package: str = "BG381"
    speed: str = "6"
    input_hz: int = 25_000_000


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board.

    Attributes
    ----------
    name, title : str
        For the command line; for people.
    platform : str or Bare
        The platform class, as ``module:class``; or a chip without a board.
    options : mapping
        For the platform class.
    link : UartLink, UsbLink or UlpiLink
    clock_hz : int
        Of a core whose model is on the chip.
    heartbeat, ready, error : Led, optional
    matrix : LedMatrix, optional
        In place of those LEDs.
    supplies : BankSupplies, optional
        Of the link.
    memory : DramBoard, optional
        External memory, if there is a controller for it.
    memory_pins : mapping of Pins
        Pins of the memory by the controller's names, where the platform class has others or none.
    tied : mapping of (Pins, int)
        Outputs that a top with a memory holds at 0 or 1.
    loader : tuple of str
        By which openFPGALoader knows board or cable.
    cables : tuple of str
        USB ids ``vendor:product`` under which its cable may appear, in hexadecimal.
    packing : tuple of str
        Options for ecppack.
    """

    name: str
    title: str
    platform: str | Bare
    link: UartLink | UsbLink | UlpiLink
    clock_hz: int
    options: Mapping[str, str] = field(default_factory=dict)
    heartbeat: Led | None = None
    ready: Led | None = None
    error: Led | None = None
    matrix: LedMatrix | None = None
    supplies: BankSupplies | None = None
    memory: DramBoard | None = None
    memory_pins: Mapping[str, Pins] = field(default_factory=dict)
    tied: Mapping[str, tuple[Pins, int]] = field(default_factory=dict)
    loader: tuple[str, ...] = ()
    cables: tuple[str, ...] = ()
    packing: tuple[str, ...] = ("--compress",)

    @cached_property
    def _platform(self) -> Any:
        if isinstance(self.platform, Bare):
            return self.platform
        module, name = self.platform.split(":")
        return getattr(importlib.import_module(module), name)(**self.options)

    @property
    def device(self) -> str:
        """The chip, ``LFE5U-85F``."""
        return str(self._platform.device)

    @property
    def speed(self) -> int:
        """Its speed grade."""
        return int(self._platform.speed)

    @property
    def package(self) -> str:
        """Its package, ``CABGA381``."""
        return _PACKAGES[self._platform.package]

    @property
    def part(self) -> str:
        """All three: ``LFE5U-85F-6CABGA381``."""
        return f"{self.device}-{self.speed}{self.package}"

    @property
    def nextpnr(self) -> tuple[str, ...]:
        """By which nextpnr knows the part."""
        return NEXTPNR_DEVICES[self.device], "--package", self.package, "--speed", str(self.speed)

    @property
    def input_hz(self) -> int:
        """The oscillator."""
        if isinstance(self.platform, Bare):
            return self.platform.input_hz
        return int(self._platform.default_clk_frequency)

    @property
    def clock(self) -> Pins:
        """Where the oscillator comes in."""
        if isinstance(self.platform, Bare):
            return Pins(sites=())
        return self.pins(self._platform.default_clk)

    @property
    def reset(self) -> Pins | None:
        """A reset button, if the board has one."""
        name = getattr(self._platform, "default_rst", None)
        return None if name is None else self.pins(name)

    def pins(self, resource: str, part: str | None = None, *, number: int = 0) -> Pins:
        """Where a resource of the platform is, or a part of it."""
        if isinstance(self.platform, Bare):
            return Pins(sites=())
        found = self._platform.resources[resource, number]
        attributes = dict(found.attrs)
        ios = found.ios[0]
        if part is not None:
            (signal,) = (one for one in found.ios if one.name == part)
            attributes |= signal.attrs
            ios = signal.ios[0]
        sides = getattr(ios, "p", ios)  # of a differential pair
        made = {
            key: str(value(self._platform) if callable(value) else value)
            for key, value in attributes.items()
        }
        return Pins(sites=tuple(sides.names), invert=bool(ios.invert), attributes=made)

    def has(self, resource: str, part: str) -> bool:
        """Whether the board has a part of a resource."""
        if isinstance(self.platform, Bare):
            return False
        return any(one.name == part for one in self._platform.resources[resource, 0].ios)

    def led(self, led: Led | None) -> Pins | None:
        """Where an LED is; with none, on a bare chip, wherever nextpnr likes."""
        if led is None:
            return Pins(sites=()) if isinstance(self.platform, Bare) else None
        return self.pins(led.resource, led.part, number=led.number)
