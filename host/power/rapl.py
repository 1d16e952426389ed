# SPDX-License-Identifier: Apache-2.0
"""The energy counters of Intel's and AMD's processors, below ``/sys/class/powercap``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nomul.model.errors import NomulError

from .meter import Counter, Reading, attribute, number

__all__ = ["RaplMeter"]

_RATE_HZ = 20.0  # the counters themselves move about every millisecond
_MOST_W = 1000.0  # of a package, where the kernel does not say


class RaplMeter(Reading):
    """All packages, and DRAM where it is counted apart.

    Parameters
    ----------
    root : Path
        Where the kernel shows zones.
    clock : callable
        Seconds that never jump.

    Raises
    ------
    NomulError
        If there are no zones, or they may not be read.
    """

    def __init__(
        self,
        *,
        root: Path = Path("/sys/class/powercap"),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._zones: dict[Path, Counter] = {}
        names = []
        highest = 0.0
        for path in sorted(root.glob("intel-rapl:*")):
            name = attribute(path / "name", what="zone's name")
            if not (name.startswith("package") or name == "dram"):
                continue  # cores are in the package; psys has the package in it
            most = _MOST_W
            if (path / "constraint_0_max_power_uw").is_file():
                told = number(path / "constraint_0_max_power_uw", what="limit") * 1e-6
                most = max(most, 4 * told)  # bursts go beyond it
            wraps = number(path / "max_energy_range_uj", what="counter's range") * 1e-6
            if wraps <= 0:
                raise NomulError(f"{path}/max_energy_range_uj: {wraps:g} J; it must be above 0")
            self._zones[path] = Counter(name=f"rapl {name}", wraps=wraps, most_w=most, clock=clock)
            names.append(name)
            highest += most
        if not self._zones:
            raise NomulError(f"{root}: no RAPL zones; is this an Intel or AMD processor, and no virtual machine?")
        super().__init__(
            name="rapl", rate_hz=_RATE_HZ, range_w=(0.0, highest), quantity="joules",
            includes=f"processor: {', '.join(names)}; not the board, disks and power supply",
        )  # fmt: skip
        self.read()  # counting begins here, and what may not be read is told now

    def read(self) -> float:
        """Joules since the meter was opened."""
        return sum(
            counter.update(number(path / "energy_uj", what="counter") * 1e-6)
            for path, counter in self._zones.items()
        )
