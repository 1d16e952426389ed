# SPDX-License-Identifier: Apache-2.0
"""HTTP on a connection: a request's head must come in time, and what is no HTTP is told so as the API has it."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .api import ApiError
from .sending import error_response

__all__ = ["Connection", "connection"]


class Connection(H11Protocol):
    """As uvicorn's, which has a limit for idle connections only after a response, and lifts it with the next byte.

    Attributes
    ----------
    head_s : float
        Seconds from the connection's beginning, or from the end of a response, for a whole head to arrive.
    """

    head_s = 30.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a head."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._rest()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Waits on, if that is not the end of a head."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begins to wait for the next head."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(ApiError(400, "this is no HTTP request", code="invalid_http"))

    def _watch(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.transport.is_closing():
            self._rest()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.head_s, self._late)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.conn.trailing_data[0]:
            self._refuse(ApiError(408, f"the head did not arrive within {self.head_s:g} s", code="timeout"))
        else:  # nobody asked anything
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Answers, if no response has begun, and closes."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = error_response(error)
            headers = [*response.raw_headers, (b"x-content-type-options", b"nosniff"), (b"connection", b"close")]
            events: list[Any] = [
                h11.Response(status_code=error.status, headers=headers), h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ]  # fmt: skip
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def connection(head_s: float) -> type[Connection]:
    """Connections with that limit."""
    return type("Connection", (Connection,), {"head_s": head_s})
