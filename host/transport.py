# SPDX-License-Identifier: Apache-2.0
"""Byte streams to a board."""

from __future__ import annotations

import contextlib
import os
from typing import Protocol

import serial

from nomul.model.errors import NomulError

__all__ = ["SerialTransport", "Transport"]


class Transport(Protocol):
    """What the driver needs of a byte stream.

    Every call is bounded in time; a stream that has ended raises NomulError.
    """

    def write(self, data: bytes) -> None:
        """Sends bytes, all of them."""

    def read(self, timeout_s: float) -> bytes:
        """Bytes that have come: at least one unless ``timeout_s`` passes first."""

    def flush(self) -> None:
        """Throws away bytes that have come."""

    def close(self) -> None:
        """Ends the stream; harmless when it has ended."""


class SerialTransport:
    """A serial port, or the pseudo-terminal of a simulated board.

    Parameters
    ----------
    port : str
        Device, for example ``/dev/ttyUSB0``.
    baud : int
        Bits a second; a pseudo-terminal ignores it.

    Raises
    ------
    NomulError
        If the port does not open.
    """

    def __init__(self, port: str, *, baud: int = 3_000_000):
        self.port = port
        try:
            self._serial = serial.Serial(port, baud, timeout=0, write_timeout=2.0, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise NomulError(
                f"{port}: does not open ({_reason(error)}); is a board attached, "
                f"and is nobody else using it?"
            ) from error

    def write(self, data: bytes) -> None:
        """See :class:`Transport`."""
        try:
            self._serial.write(data)
        except serial.SerialTimeoutException:
            pass  # a board that takes nothing answers nothing either: the driver notices
        except (serial.SerialException, OSError) as error:
            raise self._ended(error) from error

    def read(self, timeout_s: float) -> bytes:
        """See :class:`Transport`."""
        try:
            self._serial.timeout = timeout_s
            first: bytes = self._serial.read(1)
            if not first:
                return b""
            return first + bytes(self._serial.read(self._serial.in_waiting))
        except (
            serial.SerialException,
            OSError,
            TypeError,
        ) as error:  # TypeError: pyserial's, when closed meanwhile
            raise self._ended(error) from error

    def flush(self) -> None:
        """See :class:`Transport`."""
        try:
            self._serial.reset_input_buffer()
        except (serial.SerialException, OSError) as error:
            raise self._ended(error) from error

    def close(self) -> None:
        """See :class:`Transport`."""
        with contextlib.suppress(serial.SerialException, OSError):
            self._serial.close()

    def _ended(self, error: Exception) -> NomulError:
        return NomulError(
            f"{self.port}: the board is gone ({_reason(error)}); attach or start it again"
        )


def _reason(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    return (os.strerror(code) if code else str(error)).lower()
