# SPDX-License-Identifier: Apache-2.0
"""The power of NVIDIA's GPUs (extra ``gpu``)."""

from __future__ import annotations

import contextlib
from importlib import import_module
from types import ModuleType
from typing import Any

from nomul.model.errors import NomulError

from .meter import Reading, Unreadable

__all__ = ["NvmlMeter"]

_RATE_HZ = 10.0  # an H100's energy counter moves every 0.1 s


class NvmlMeter(Reading):
    """One GPU: its energy counter, or its power where it has none (before Volta).

    Parameters
    ----------
    index : int
        As ``nvidia-smi`` counts.
    library : module, optional
        In place of ``pynvml``.

    Raises
    ------
    NomulError
        If there is no driver or no such GPU.
    ModuleNotFoundError
        Without nvidia-ml-py.
    """

    def __init__(self, index: int = 0, *, library: ModuleType | Any = None):
        if library is None:
            library = import_module("pynvml")
        self._nvml = library
        try:
            library.nvmlInit()
        except library.NVMLError as error:
            raise NomulError(f"nvml: no driver ({error}); is there an NVIDIA GPU?") from None
        try:
            count = library.nvmlDeviceGetCount()
            if not 0 <= index < count:
                raise NomulError(f"nvml: no GPU {index}; there are {count}, counted from 0")
            self._device = library.nvmlDeviceGetHandleByIndex(index)
            name = library.nvmlDeviceGetName(self._device)
            most = library.nvmlDeviceGetPowerManagementLimitConstraints(self._device)[1] * 1e-3
        except library.NVMLError as error:
            library.nvmlShutdown()
            raise NomulError(f"nvml: GPU {index}: {error}") from None
        except NomulError:
            library.nvmlShutdown()
            raise
        self._begin: float | None = None
        with contextlib.suppress(library.NVMLError):  # an old GPU: power it is
            self._begin = library.nvmlDeviceGetTotalEnergyConsumption(self._device) * 1e-3
        self._open = True
        super().__init__(
            name=f"nvml {name}", rate_hz=_RATE_HZ, range_w=(0.0, 2 * most),
            quantity="watts" if self._begin is None else "joules",
            includes="the GPU's board; not the computer around it",
        )  # fmt: skip

    def read(self) -> float:
        """Joules since the meter was opened; watts of an old GPU."""
        try:
            if self._begin is None:
                return float(self._nvml.nvmlDeviceGetPowerUsage(self._device)) * 1e-3
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) * 1e-3 - self._begin
        except self._nvml.NVMLError as error:
            raise Unreadable(f"{self.name}: {error}") from None

    def close(self) -> None:
        """See :meth:`~nomul.host.power.meter.Meter.close`."""
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()
