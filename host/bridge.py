# SPDX-License-Identifier: Apache-2.0
"""Offers a board over TCP: its bytes, as they are."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from nomul.model.errors import NomulError

from .transport import Transport, tcp_address

__all__ = ["Bridge"]

_TICK_S = 0.05  # how long a closed bridge, or one whose client has left, may take to notice
_WAIT_S = 0.5  # that another client waits for the one that is there to leave
_DEAD_S = 4  # a client that is silent at TCP's own questions for so long has gone


class Bridge:
    """Joins a board's byte stream to one TCP client at a time. Use it as a context manager.

    The board is opened when a client comes and closed when it leaves, so a board may be unplugged
    meanwhile. While one client is there, others are turned away after half a second. There is no
    password, and nothing is encrypted: listen where only those who may use the board can connect.

    Parameters
    ----------
    connect : callable
        Opens the board's byte stream.
    listen : str
        ``HOST:PORT``; port 0 takes one that is free.
    say : callable
        Called with a line when a client comes or leaves, and when the board does not open.

    Attributes
    ----------
    name : str
        ``tcp://HOST:PORT``, for :func:`~nomul.host.transport.open_transport`.

    Raises
    ------
    NomulError
        If it can not listen there.
    """

    def __init__(
        self,
        connect: Callable[[], Transport],
        listen: str,
        *,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._connect, self._say = connect, say
        host, port = tcp_address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NomulError(
                f"{listen}: can not be listened at ({reason.lower()}); choose another address or port"
            ) from error
        port = self._listener.getsockname()[1]
        self.name = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="nomul-bridge", daemon=True)
        self._thread.start()

    def __enter__(self) -> Bridge:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends; a client that is there is cut off."""
        self._ending.set()
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        client: socket.socket | None = None
        while not self._ending.is_set():
            client = client or self._next()
            if client is not None:
                with client:
                    client = self._serve(client)
        if client is not None:
            client.close()

    def _next(self, timeout_s: float = _TICK_S) -> socket.socket | None:
        """A client, if one comes."""
        if not select.select([self._listener], [], [], timeout_s)[0]:
            return None
        try:
            client, _ = self._listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", _DEAD_S - 1)):
                if hasattr(socket, name):  # not everywhere
                    client.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            client.settimeout(_DEAD_S)
        except OSError:
            return None  # it has left already
        return client

    def _serve(self, client: socket.socket) -> socket.socket | None:
        """Moves bytes until the client or the board is gone; a client that waits by then."""
        try:
            board = self._connect()
        except NomulError as error:
            self._say(str(error))
            return None
        self._say("a host has come")
        over = threading.Event()
        writer = threading.Thread(target=self._write, args=(client, board, over), daemon=True)
        writer.start()
        other, came = None, 0.0
        try:
            while not (over.is_set() or self._ending.is_set()):
                data = board.read(_TICK_S)
                if data:
                    client.sendall(data)
                if other is None:
                    other, came = self._next(0.0), time.monotonic()
                elif time.monotonic() > came + _WAIT_S:
                    other.close()
                    other = None
        except NomulError as error:
            self._say(str(error))
        except OSError:
            pass  # the client has left
        finally:
            over.set()
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            writer.join()
            board.close()
            self._say("the host has left")
        return other

    def _write(self, client: socket.socket, board: Transport, over: threading.Event) -> None:
        try:
            while not over.is_set():
                if select.select([client], [], [], _TICK_S)[0]:
                    data = client.recv(1 << 16)
                    if not data:
                        break
                    board.write(data)
        except (OSError, ValueError, NomulError):
            pass  # the other direction says so
        finally:
            over.set()
