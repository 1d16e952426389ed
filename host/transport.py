# SPDX-License-Identifier: Apache-2.0
"""Byte streams to a board: serial ports, pseudo-terminals, TCP."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

import serial

from nomul.model.errors import NomulError

__all__ = [
    "LostError", "SerialTransport", "TcpTransport", "Transport", "open_transport", "tcp_address",
]  # fmt: skip

_TCP = "tcp://"
_CONNECT_S = 1.0  # for the name, and again for the connection
_WRITE_S = 2.0


class LostError(NomulError):
    """The board, or the state in it, is lost; opening it again may bring it back."""


class Transport(Protocol):
    """What the driver needs of a byte stream.

    Every call is bounded in time; a stream that has ended raises :class:`LostError`.
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
    LostError
        If the port does not open.
    """

    def __init__(self, port: str, *, baud: int = 3_000_000):
        self.port = port
        try:
            self._serial = serial.Serial(port, baud, timeout=0, write_timeout=_WRITE_S, exclusive=True)
        except (serial.SerialException, OSError, ValueError) as error:
            raise LostError(
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

    def _ended(self, error: Exception) -> LostError:
        return LostError(
            f"{self.port}: the board is gone ({_reason(error)}); attach or start it again"
        )


class TcpTransport:
    """A board behind TCP, as ``nomul board --listen`` offers one.

    Parameters
    ----------
    host : str
        Name or address.
    port : int

    Raises
    ------
    LostError
        If nothing answers there, or not in time.
    """

    def __init__(self, host: str, port: int):
        self.name = f"{_TCP}[{host}]:{port}" if ":" in host else f"{_TCP}{host}:{port}"
        try:
            self._socket = _connected(_resolved(host, port))
        except OSError as error:
            raise LostError(
                f"{self.name}: does not open ({_reason(error)}); is a board offered there?"
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)

    def write(self, data: bytes) -> None:
        """See :class:`Transport`."""
        end = time.monotonic() + _WRITE_S
        view = memoryview(data)
        try:
            while view and (left := end - time.monotonic()) > 0:
                if select.select([], [self._socket], [], left)[1]:
                    view = view[self._socket.send(view) :]
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            raise self._ended(error) from error

    def read(self, timeout_s: float) -> bytes:
        """See :class:`Transport`."""
        try:
            if not select.select([self._socket], [], [], max(0.0, timeout_s))[0]:
                return b""
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return b""
        except (OSError, ValueError) as error:
            raise self._ended(error) from error
        if not data:
            raise self._ended(ConnectionResetError())
        return data

    def flush(self) -> None:
        """See :class:`Transport`."""
        while self.read(0.0):
            pass

    def close(self) -> None:
        """See :class:`Transport`."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _ended(self, error: Exception) -> LostError:
        reason = _reason(error)
        if isinstance(error, ConnectionError):
            reason = "closed at the other end; is another host using it?"
        return LostError(f"{self.name}: the board is gone ({reason}); attach or start it again")


def _resolved(host: str, port: int) -> list[tuple[Any, ...]]:
    """Addresses of a name; a resolver may take its time, so a thread waits for it."""
    found: list[list[tuple[Any, ...]]] = []
    failed: list[OSError] = []

    def resolve() -> None:
        try:
            found.append(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            failed.append(OSError(str(error).rpartition("] ")[2]))

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    if failed:
        raise failed[0]
    if not found:
        raise OSError(f"the name was not resolved within {_CONNECT_S:g} s")
    return found[0]


def _connected(addresses: list[tuple[Any, ...]]) -> socket.socket:
    """A connection to the first address that takes one."""
    end, last = time.monotonic() + _CONNECT_S, OSError("it has no address")
    for family, kind, protocol, _, address in addresses:
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(max(0.01, end - time.monotonic()))
            made.connect(address)
            return made
        except OSError as error:
            made.close()
            last = error
    raise last


def tcp_address(name: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT`` or ``tcp://HOST:PORT``; an IPv6 address stands in brackets.

    Raises
    ------
    NomulError
        If it is none.
    """
    try:
        parts = urlsplit(_TCP + name.removeprefix(_TCP))
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None or parts.netloc != name.removeprefix(_TCP) or parts.username is not None:
        raise NomulError(f"{name}: is no address; write {_TCP}HOST:PORT, as in {_TCP}127.0.0.1:5000")
    return host, port


def open_transport(name: str, *, baud: int = 3_000_000) -> Transport:
    """The byte stream to a board.

    Parameters
    ----------
    name : str
        A serial port or pseudo-terminal, as ``/dev/ttyUSB0``, or with its rate ``/dev/ttyUSB0@6000000``; or
        ``tcp://HOST:PORT``.
    baud : int
        Of a serial port whose name says nothing else.

    Raises
    ------
    LostError
        If it does not open.
    NomulError
        If the name is no address.
    """
    if name.startswith(_TCP):
        return TcpTransport(*tcp_address(name))
    port, _, rate = name.rpartition("@")
    if port and rate.isdecimal():
        return SerialTransport(port, baud=int(rate))
    return SerialTransport(name, baud=baud)


def _reason(error: Exception) -> str:
    code = error.errno if isinstance(error, OSError) else None
    return (os.strerror(code) if code else str(error)).lower()
