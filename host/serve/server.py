# SPDX-License-Identifier: Apache-2.0
"""The server around the application: where it listens, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from nomul.model.errors import NomulError

from .app import application
from .protocol import connection
from .service import Service

__all__ = ["Server", "is_loopback", "listen"]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int, *, reader_s: float) -> socket.socket:
    """A listening socket whose connections end when a reader takes nothing for so long.

    Raises
    ------
    NomulError
        If the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        number = error.errno or 0  # names that are none have negative ones
        why = os.strerror(number) if number > 0 else error.strerror
        raise NomulError(f"--host {host} --port {port}: {why}; choose another address or port") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: inherited by connections
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(reader_s * 1000))
    return found


class Server(uvicorn.Server):
    """Runs the application until a signal, or ``should_exit``, then lets requests finish or cancels them."""

    def __init__(self, service: Service):
        self._service = service
        limits = service.limits

        def crowded() -> bool:
            return len(self.server_state.connections) > limits.connections

        super().__init__(
            uvicorn.Config(
                application(service, crowded), http=connection(limits.head_s), ws="none", loop="asyncio",
                lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
                timeout_keep_alive=30, timeout_graceful_shutdown=int(limits.grace_s) + 5,
            )
        )  # fmt: skip

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Requests have the grace to finish; what is left is told so."""
        service = self._service
        service.ending.set()
        service.engine.stop("the server is shutting down")

        async def end() -> None:
            await asyncio.sleep(service.limits.grace_s)
            service.engine.cancel("the server is shutting down")

        ending = asyncio.ensure_future(end())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but does not raise the signal once more at the end: boards must be closed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)
