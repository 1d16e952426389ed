# SPDX-License-Identifier: Apache-2.0
"""Responses: JSON, errors, streams of events, and clients that go away meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .api import ApiError

__all__ = ["Stream", "error_response", "json_response", "sent", "while_connected"]


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: whatever a client named, lone surrogates too, can be sent back."""
    return Response(json.dumps(value), status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """As the API has it."""
    return json_response(error.body, error.status, error.headers)


def sent(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def while_connected(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of work that stops when the client goes away; then None."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    main, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({main, watch}, return_when=asyncio.FIRST_COMPLETED)
        return main.result() if main.done() else None
    finally:
        for task in (main, watch):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


class Stream(Response):
    """Server-sent events; ends when the client goes away, or takes nothing for too long.

    Parameters
    ----------
    events : async generator of bytes
        Closed at the end.
    reader_s : float
    done : callable
        Called at the end with how it went: ``"done"``, ``"cancelled"`` or ``"stalled"``.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], *, reader_s: float, done: Callable[[str], None]):
        super().__init__(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._events = events
        self._reader_s = reader_s
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = "cancelled"
        try:
            outcome = await while_connected(receive, self._send(send)) or outcome
        finally:
            self._done(outcome)

    async def _send(self, send: Send) -> str:
        async def put(message: dict[str, Any]) -> None:
            async with asyncio.timeout(self._reader_s):
                await send(message)

        try:
            async with aclosing(self._events) as events:
                await put({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for event in events:
                    await put({"type": "http.response.body", "body": event, "more_body": True})
                await put({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return "stalled"  # an unfinished response has the server close the connection
        return "done"
