# SPDX-License-Identifier: Apache-2.0
"""The application: routes, and who may come in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from .answer import Answer
from .api import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    checked,
    rendered,
)
from .engine import Ask, Failed
from .sending import Stream, error_response, json_response, sent, while_connected
from .service import BUSY_S, Service, unavailable
from .text import Growing

__all__ = ["application"]

_COMPLETION_TOKENS = 16  # where a completion does not say: as the API has it
_WATCHERS = 32  # pages that may watch at a time
_WATCH_S = 0.5


async def _generate(
    request: Request, *, chat: bool, asks: list[Ask], stops: list[str], heads: list[str], prompts: int,
    wanted: GenerationRequest,
) -> Response:  # fmt: skip
    """Runs a request, in one piece or as a stream; ``heads`` is what each text begins with."""
    service: Service = request.app.state.service
    metrics, began = service.metrics, time.monotonic()
    endpoint = "chat" if chat else "completions"
    answer = Answer(service, chat=chat, asks=asks)
    texts = [
        Growing(service.coder.decoder(), count=ask.count, end=service.coder.end, stops=stops)
        for ask in asks
    ]
    seen = failed = False

    def first() -> None:
        nonlocal seen
        if not seen:
            seen = True
            metrics.first_token.labels(endpoint).observe(time.monotonic() - began)

    def done(outcome: str) -> None:
        ticket.close()
        metrics.requests.labels(endpoint, "failed" if failed else outcome).inc()
        metrics.seconds.labels(endpoint).observe(time.monotonic() - began)

    async def whole() -> Response:
        said = list(heads)
        async with aclosing(service.grown(ticket, texts, first)) as grown:
            async for number, piece in grown:
                said[number] += piece
        reasons = [text.finish_reason for text in texts]
        return json_response(answer.whole(said, reasons, answer.usage(texts, prompts)))

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal failed
        with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        extra = {"usage": None} if with_usage else {}
        try:
            for number, head in enumerate(heads):
                if chat or head:
                    yield sent({**answer.piece(number, head, None, first=True), **extra})
            async with aclosing(service.grown(ticket, texts, first)) as grown:
                async for number, piece in grown:
                    reason = texts[number].finish_reason
                    if chat and reason is not None and piece:  # the last one says nothing
                        yield sent({**answer.piece(number, piece, None), **extra})
                        piece = ""
                    yield sent({**answer.piece(number, piece, reason), **extra})
        except Failed as error:
            failed = True
            yield sent(unavailable(error).body)
            return
        if with_usage:
            yield sent(answer.end(answer.usage(texts, prompts)))
        yield b"data: [DONE]\n\n"

    ticket = service.open(asks)
    metrics.prompt_tokens.inc(sum(len(ask.prompt) for ask in asks))
    if wanted.stream:
        return Stream(events(), reader_s=service.limits.reader_s, done=done)
    outcome = "cancelled"
    try:
        response = await while_connected(request.receive, whole())
        outcome = "cancelled" if response is None else "done"
        return response or Response(status_code=499)  # nobody reads it
    except Failed as error:
        failed = True
        raise unavailable(error) from None
    finally:
        done(outcome)


async def _completions(request: Request) -> Response:
    service: Service = request.app.state.service
    wanted = checked(await service.body(request), CompletionRequest)
    asks = await service.asked(
        wanted, wanted.prompt, "prompt", wanted.max_tokens, "max_tokens", _COMPLETION_TOKENS
    )
    heads = [""] * len(asks)
    if wanted.echo:
        copies = len(asks) // len(wanted.prompt)
        given = [p if isinstance(p, str) else service.coder.decode(p) for p in wanted.prompt]
        heads = [given[number // copies] for number in range(len(asks))]
    return await _generate(
        request, chat=False, asks=asks, stops=wanted.stop or [], heads=heads,
        prompts=len(wanted.prompt), wanted=wanted,
    )  # fmt: skip


async def _chat(request: Request) -> Response:
    service: Service = request.app.state.service
    wanted = checked(await service.body(request), ChatRequest)
    text, ends = rendered(wanted.messages)
    name = "max_tokens" if wanted.max_completion_tokens is None else "max_completion_tokens"
    asks = await service.asked(
        wanted, [text], "messages", getattr(wanted, name), name, service.limits.tokens
    )
    return await _generate(
        request, chat=True, asks=asks, stops=[ends, *(wanted.stop or [])], heads=[""] * len(asks),
        prompts=1, wanted=wanted,
    )  # fmt: skip


def _described(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "nomul"}


async def _models(request: Request) -> Response:
    return json_response({"object": "list", "data": [_described(request.app.state.service)]})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name != service.name:
        raise ApiError(
            404, f"there is no model {name[:64]!r}; this server has {service.name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip
    return json_response(_described(service))


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.ending.is_set():
        raise unavailable(Failed("the server is shutting down"))
    if service.engine.fault is not None:
        raise unavailable(Failed(service.engine.fault))
    return json_response({"status": "ok", "model": service.name, "lanes": service.engine.lanes})


async def _metrics(request: Request) -> Response:
    text = request.app.state.service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _live(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.watchers == _WATCHERS:
        raise ApiError(
            429, f"{_WATCHERS} pages are watching; close one", code="rate_limit_exceeded",
            kind="rate_limit_error", headers={"Retry-After": str(BUSY_S)},
        )  # fmt: skip

    async def events() -> AsyncGenerator[bytes, None]:
        while not service.ending.is_set():
            yield sent(service.state())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.ending.wait(), _WATCH_S)

    def done(outcome: str) -> None:
        service.watchers -= 1

    service.watchers += 1
    return Stream(events(), reader_s=service.limits.reader_s, done=done)


def _page() -> Response:
    """The page, and a policy under which only its own script runs."""
    text = resources.files(__package__).joinpath("page.html").read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Response(text, media_type="text/html", headers={"Content-Security-Policy": policy})


class _Guard:
    """Lets in who may come: by the token, or without one by the name that the server is called; not too many."""

    def __init__(self, app: ASGIApp, service: Service, crowded: Callable[[], bool]):
        self._app = app
        self._service = service
        self._crowded = crowded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        async def put(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        refused = self._refused(scope["path"], dict(scope["headers"]))
        app = self._app if refused is None else error_response(refused)
        await app(scope, receive, put)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
        if self._crowded():
            return ApiError(
                503, f"{self._service.limits.connections} connections are open; try again later", code="unavailable",
                kind="server_error", headers={"Retry-After": str(BUSY_S), "Connection": "close"},
            )  # fmt: skip
        hosts, token = self._service.hosts, self._service.token
        if hosts is not None:
            # Else a web page could have its own name point here, and read what comes.
            name = headers.get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d*$", "", name) not in hosts:
                return ApiError(403, f"this server is not called {name[:64]!r}", code="wrong_host")
        if token is not None and path not in ("/", "/health"):
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            digests = [hashlib.sha256(text).digest() for text in (given.strip(), token.encode())]
            if not hmac.compare_digest(*digests) or scheme.lower() != b"bearer":
                return ApiError(
                    401, "the bearer token is missing or wrong", code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        return None


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if request.url.path in ("/v1/completions", "/v1/chat/completions"):
        endpoint = "chat" if "chat" in request.url.path else "completions"
        outcome = {429: "turned away", 503: "failed"}.get(error.status, "refused")
        if error.status != 503:
            request.app.state.service.metrics.requests.labels(endpoint, outcome).inc()
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:64], request.method[:16]
    if error.status_code == 405:
        made = ApiError(405, f"{path} does not take {method}", code="method_not_allowed", headers=error.headers)
    elif error.status_code == 404:
        made = ApiError(404, f"there is no {path}", code="unknown_url")
    else:
        made = ApiError(error.status_code, error.detail, headers=error.headers)
    return error_response(made)


async def _mistake(request: Request, error: Exception) -> Response:
    return error_response(
        ApiError(500, "the server made a mistake; its log tells more", kind="server_error", code="internal_error")
    )


def application(service: Service, crowded: Callable[[], bool]) -> ASGIApp:
    """The ASGI application; ``crowded``: whether there are more connections than may be."""
    page = _page()

    async def root(request: Request) -> Response:
        return page

    app = Starlette(
        routes=[
            Route("/", root),
            Route("/health", _health),
            Route("/live", _live),
            Route("/metrics", _metrics),
            Route("/v1/models", _models),
            Route("/v1/models/{name:path}", _model),
            Route("/v1/completions", _completions, methods=["POST"]),
            Route("/v1/chat/completions", _chat, methods=["POST"]),
        ],
        exception_handlers={
            ApiError: _api_error, HTTPException: _http_error, Exception: _mistake
        },
    )  # fmt: skip
    app.router.redirect_slashes = False
    app.state.service = service
    return _Guard(app, service, crowded)
