# SPDX-License-Identifier: Apache-2.0
"""Pins and clocks as nextpnr reads them (LPF)."""

from __future__ import annotations

from collections.abc import Mapping

from .board import Pins

__all__ = ["lpf"]


def lpf(ports: Mapping[str, Pins], clocks: Mapping[str, int]) -> str:
    """Constraints of a top.

    Parameters
    ----------
    ports : mapping
        Pins of each port; those without sites are left to nextpnr.
    clocks : mapping
        Frequency of ports, Hz.
    """
    lines = []
    for port, pins in ports.items():
        attributes = " ".join(f"{key}={value}" for key, value in pins.attributes.items())
        for k, site in enumerate(pins.sites):
            name = f"{port}[{k}]" if len(pins.sites) > 1 else port
            lines.append(f'LOCATE COMP "{name}" SITE "{site}";')
            if attributes:
                lines.append(f'IOBUF PORT "{name}" {attributes};')
    lines += [f'FREQUENCY PORT "{name}" {hz / 1e6:.6f} MHZ;' for name, hz in clocks.items()]
    return "\n".join(lines) + "\n"
