# SPDX-License-Identifier: Apache-2.0
"""Bench supplies and meters that speak SCPI (extra ``meters``)."""

from __future__ import annotations

import contextlib
import math

from nomul.model.errors import NomulError

from .meter import Reading, Unreadable, plain_number

__all__ = ["ScpiMeter"]

_LIMIT_MS = 1000
_RATE_HZ = 5.0
_OVERLOAD = 9.9e36  # SCPI's 9.9E37 for infinity, 9.91E37 for no number


class ScpiMeter(Reading):
    """Asks ``MEAS:POW?``; of an instrument that does not know it ``MEAS:VOLT?`` and ``MEAS:CURR?``.

    Parameters
    ----------
    resource : str
        VISA's name, for example ``TCPIP::192.168.1.5::INSTR`` or ``ASRL/dev/ttyACM0::INSTR``.
    library : str
        VISA library; ``@py`` needs no vendor's.
    includes : str
        What hangs on the output.

    Raises
    ------
    NomulError
        If it does not open, or answers neither.
    ModuleNotFoundError
        Without pyvisa.
    """

    def __init__(
        self, resource: str, *, library: str = "@py", includes: str = "what hangs on the instrument's output"
    ):
        import pyvisa

        self._errors = (pyvisa.Error, OSError, ValueError)
        self._resource = resource
        try:
            self._manager = pyvisa.ResourceManager(library)
        except self._errors as error:
            raise NomulError(f"scpi: VISA library {library}: {error}") from None
        try:
            self._device = self._manager.open_resource(
                resource, open_timeout=_LIMIT_MS, timeout=_LIMIT_MS, read_termination="\n", write_termination="\n"
            )
        except Exception as error:  # what a backend makes of a wrong name is any exception
            self._manager.close()
            reason = str(error).partition("\n")[0]
            raise NomulError(
                f"scpi:{resource}: does not open ({reason}); is it on, and is that its VISA name?"
            ) from None
        try:
            maker = self._ask("*IDN?").split(",")
            self._queries: tuple[str, ...] = ("MEAS:POW?",)
            try:
                self._number("MEAS:POW?")
            except Unreadable:
                self._settle()
                self._queries = ("MEAS:VOLT?", "MEAS:CURR?")
                self.read()
        except Unreadable as error:
            self.close()
            raise NomulError(f"{error}; it must know MEAS:POW?, or MEAS:VOLT? and MEAS:CURR?") from None
        super().__init__(
            name=f"scpi {' '.join(part.strip() for part in maker[:2])}", rate_hz=_RATE_HZ,
            range_w=(0.0, math.inf), includes=includes,
        )  # fmt: skip

    def read(self) -> float:
        """See :meth:`~nomul.host.power.meter.Meter.read`."""
        return math.prod(self._number(query) for query in self._queries)

    def close(self) -> None:
        """See :meth:`~nomul.host.power.meter.Meter.close`."""
        with contextlib.suppress(Exception):
            self._device.close()
        with contextlib.suppress(Exception):
            self._manager.close()

    def _ask(self, query: str) -> str:
        try:
            self._device.write(query)
            raw: bytes = self._device.read_raw()
            text = raw.decode("ascii").strip()
        except self._errors as error:
            reason = str(error).partition("\n")[0]
            raise Unreadable(f"scpi:{self._resource}: no answer to {query} ({reason})") from None
        if not text:
            raise Unreadable(f"scpi:{self._resource}: an empty answer to {query}")
        return text

    def _number(self, query: str) -> float:
        text = self._ask(query)
        bare = text.removesuffix("W").removesuffix("V").removesuffix("A")
        value = math.inf if bare.strip("+-").lower() in ("inf", "infinity") else plain_number(bare)
        if math.isnan(value):
            raise Unreadable(f"scpi:{self._resource}: {text[:40]!r} in answer to {query}")
        if not math.isfinite(value) or abs(value) >= _OVERLOAD:
            raise Unreadable(f"scpi:{self._resource}: {query} overflows ({text[:40]})")
        return value

    def _settle(self) -> None:
        """Drops what a refused query may have left behind."""
        with contextlib.suppress(Exception):
            self._device.clear()
        with contextlib.suppress(Exception):
            self._device.write("*CLS")
