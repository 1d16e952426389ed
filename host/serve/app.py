# SPDX-License-Identifier: Apache-2.0
"""The application: routes, streams, who may come in; and the server around it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from importlib import resources
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nomul.host.sampling import Sampler
from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer
from nomul.model.tokenizer import ByteTokenizer, check_ids

from .api import (
    MAX_TEXTS,
    ApiError,
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    checked,
    parsed,
    rendered,
)
from .engine import Ask, Engine, Failed, Full, Ticket
from .metrics import Metrics
from .text import Growing

__all__ = ["Limits", "Server", "Service", "application", "is_loopback", "listen"]

_COMPLETION_TOKENS = 16  # where a completion does not say: as the API has it
_WATCHERS = 32  # pages that may watch at a time
_WATCH_S = 0.5
_CONNECTIONS = 512  # below the 1024 files that a process may usually open
_BUSY_S = 1  # when a client that was turned away may come again

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for.

    Parameters
    ----------
    body : int
        Bytes of a request.
    prompt, tokens : int
        Tokens of a prompt, and most to generate.
    body_s : float
        Seconds for a body to arrive.
    reader_s : float
        Seconds for which a reader may take nothing.
    grace_s : float
        Seconds for which requests may go on when the server is to end.
    """

    body: int = 1 << 20
    prompt: int = 4096
    tokens: int = 1024
    body_s: float = 30.0
    reader_s: float = 60.0
    grace_s: float = 10.0


class Service:
    """What the routes share.

    Parameters
    ----------
    engine : Engine
        Its end token is the tokenizer's.
    coder : ByteTokenizer or FileTokenizer
    name : str
        Of the model, as clients give it.
    board : str
        What the page says of the board.
    design : bytes
        Hash of the design, the API's fingerprint.
    limits : Limits
    token : str, optional
        What clients must present.
    hosts : set of str, optional
        Names by which the server may be called; by default any.
    watts : callable
        Gives the power, or None without a meter.
    """

    def __init__(
        self,
        engine: Engine,
        coder: ByteTokenizer | FileTokenizer,
        *,
        name: str,
        board: str,
        design: bytes,
        limits: Limits | None = None,
        token: str | None = None,
        hosts: set[str] | None = None,
        watts: Callable[[], float | None] = lambda: None,
    ):
        self.engine = engine
        self.coder = coder
        self.name = name
        self.board = board
        self.design = design.hex()
        self.limits = limits or Limits()
        self.token = token
        self.hosts = hosts
        self.watts = watts
        self.metrics = Metrics(engine, watts)
        self.created = int(time.time())
        self.ending = asyncio.Event()
        self.watchers = 0

    async def body(self, request: Request) -> dict[str, Any]:
        """The request's JSON, if it comes in time and is not too long."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, "Content-Type must be application/json", code="unsupported_media_type")
        most, raw = self.limits.body, b""
        length = request.headers.get("content-length", "0")
        long = ApiError(413, f"the body is longer than {most} bytes", code="request_too_large")
        if length.isdecimal() and int(length) > most:
            raise long
        try:
            async with asyncio.timeout(self.limits.body_s):
                async for part in request.stream():
                    raw += part
                    if len(raw) > most:
                        raise long
        except ClientDisconnect:
            raise ApiError(400, "the body ended early", code="invalid_json") from None
        except TimeoutError:
            raise ApiError(
                408, f"the body did not arrive within {self.limits.body_s:g} s", code="timeout",
                headers={"Connection": "close"},
            ) from None  # fmt: skip
        return parsed(raw)

    async def ids(self, prompt: str | list[int], param: str) -> list[int]:
        """Token ids of a prompt; a text's after the begin token."""
        try:
            if not isinstance(prompt, str):
                return [int(token) for token in check_ids(_small(prompt), self.coder.vocab)]
            prompt.encode()  # the tokenizer of bytes would take what stands for bytes that are no text
            found = await asyncio.to_thread(self.coder.encode, prompt) if prompt else ()
        except UnicodeEncodeError as error:
            raise ApiError(
                400, f"{param}: a lone surrogate at position {error.start}; give valid Unicode",
                param=param, code="invalid_value",
            ) from None  # fmt: skip
        except NomulError as error:
            raise ApiError(400, f"{param}: {error}", param=param, code="invalid_value") from None
        self._check_length(len(found) + 1, param)
        return [self.coder.begin, *(int(token) for token in found)]

    def _check_length(self, length: int, param: str) -> None:
        if length > self.limits.prompt:
            raise ApiError(
                400, f"{param}: {length} tokens; at most {self.limits.prompt} are taken", param=param,
                code="context_length_exceeded",
            )  # fmt: skip

    async def asked(
        self, request: GenerationRequest, prompts: list[str | list[int]], param: str, count: int | None,
        count_param: str, default: int,
    ) -> list[Ask]:  # fmt: skip
        """The texts that a request wants, those of a prompt after one another."""
        if request.model != self.name:
            raise ApiError(
                404, f"there is no model {request.model[:64]!r}; this server has {self.name!r}",
                param="model", code="model_not_found",
            )  # fmt: skip
        if count is not None and count > self.limits.tokens:
            raise ApiError(
                400, f"{count_param}: at most {self.limits.tokens} tokens are generated",
                param=count_param, code="invalid_value",
            )  # fmt: skip
        copies = request.n or 1
        if len(prompts) * copies > min(MAX_TEXTS, self.engine.capacity):
            most = min(MAX_TEXTS, self.engine.capacity)
            raise ApiError(400, f"n: prompts times n must be at most {most}", param="n", code="invalid_value")
        sampler = Sampler(
            temperature=1.0 if request.temperature is None else request.temperature,
            top_p=max(1e-9, 1.0 if request.top_p is None else request.top_p),
        )
        seed = secrets.randbits(63) if request.seed is None else request.seed % (1 << 64)
        asks = []
        for number, prompt in enumerate(prompts):
            where = param if len(prompts) == 1 else f"{param}[{number}]"
            ids = await self.ids(prompt, where)
            self._check_length(len(ids), where)
            asks += [
                Ask(
                    prompt=ids, count=count or min(default, self.limits.tokens), sampler=sampler,
                    seed=[seed, copy] if copy else seed,
                )
                for copy in range(copies)
            ]  # fmt: skip
        return asks

    def open(self, asks: list[Ask]) -> Ticket:
        """Lets texts in; an error of the API if that is not possible."""
        try:
            return self.engine.open(asks)
        except Full as error:
            raise ApiError(
                429, str(error), code="rate_limit_exceeded", kind="rate_limit_error",
                headers={"Retry-After": str(_BUSY_S)},
            ) from None  # fmt: skip
        except Failed as error:
            raise _failed(error) from None

    async def grown(
        self, ticket: Ticket, texts: list[Growing], first: Callable[[], None]
    ) -> AsyncGenerator[tuple[int, str], None]:
        """Yields numbers of texts and what was added, until all are done; tokens that came together in one piece."""
        while any(text.finish_reason is None for text in texts):
            added: dict[int, str] = {}
            for number, token in await ticket.tokens():
                first()
                text = texts[number]
                if text.finish_reason is None:
                    added[number] = added.get(number, "") + text.feed(token)
                    if text.finish_reason is not None:
                        ticket.drop(number)
            for number, piece in added.items():
                if piece or texts[number].finish_reason is not None:
                    yield number, piece

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        engine = self.engine
        return {
            "time": time.monotonic(), "tokens": engine.tokens, "steps": engine.steps,
            "lane_tokens": engine.lane_tokens, "occupants": engine.occupants, "texts": engine.texts,
            "waiting": engine.waiting, "capacity": engine.capacity, "watts": self.watts(),
            "fault": engine.fault, "model": self.name, "board": self.board,
        }  # fmt: skip


def _small(ids: list[int]) -> list[int]:
    """Token ids that NumPy can take; those it cannot are no tokens anyway."""
    return [token if -1 <= token <= 1 << 62 else -1 if token < 0 else 1 << 62 for token in ids]


def _failed(error: Failed) -> ApiError:
    return ApiError(503, str(error), code="unavailable", kind="server_error")


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII: whatever a client named, lone surrogates too, can be sent back."""
    return Response(json.dumps(value), status, headers, media_type="application/json")


def _error(error: ApiError) -> Response:
    return _json(error.body, error.status, error.headers)


class _Answer:
    """The forms of a request's results: of a completion or a chat, whole or in pieces."""

    def __init__(self, service: Service, *, chat: bool, asks: list[Ask]):
        self._chat = chat
        self._asks = asks
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}", "object": kind,
            "created": int(time.time()), "model": service.name, "system_fingerprint": service.design,
        }  # fmt: skip

    def usage(self, texts: list[Growing], prompts: int) -> dict[str, int]:
        """Token counts; a prompt counts once, however many texts continue it."""
        copies = len(self._asks) // prompts
        given = sum(len(ask.prompt) for ask in self._asks[::copies])
        made = sum(text.tokens for text in texts)
        return {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}

    def whole(self, texts: list[str], reasons: list[str | None], usage: dict[str, int]) -> dict[str, Any]:
        """All of it."""
        choices = []
        for number, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            said: dict[str, Any] = {"text": text}
            if self._chat:
                said = {"message": {"role": "assistant", "content": text, "refusal": None}}
            choices.append({"index": number, **said, "logprobs": None, "finish_reason": reason})
        return {**self._head, "choices": choices, "usage": usage}

    def piece(self, number: int, said: str, reason: str | None, *, first: bool = False) -> dict[str, Any]:
        """Part of a text."""
        body: dict[str, Any] = {"text": said}
        if self._chat:
            body = {"delta": {"role": "assistant", "content": ""} if first else {"content": said}}
            if reason is not None and not said:
                body = {"delta": {}}
        choice = {"index": number, **body, "logprobs": None, "finish_reason": reason}
        return self._event([choice])

    def end(self, usage: dict[str, int]) -> dict[str, Any]:
        """Usage, after all pieces."""
        return {**self._event([]), "usage": usage}

    def _event(self, choices: list[Any]) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices}


def _sent(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
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


class _Stream(Response):
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
            outcome = await _while_connected(receive, self._send(send)) or outcome
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


async def _generate(
    request: Request, *, chat: bool, asks: list[Ask], stops: list[str], heads: list[str], prompts: int,
    wanted: GenerationRequest,
) -> Response:  # fmt: skip
    """Runs a request, in one piece or as a stream; ``heads`` is what each text begins with."""
    service: Service = request.app.state.service
    metrics, began = service.metrics, time.monotonic()
    endpoint = "chat" if chat else "completions"
    answer = _Answer(service, chat=chat, asks=asks)
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
        return _json(answer.whole(said, reasons, answer.usage(texts, prompts)))

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal failed
        with_usage = wanted.stream_options is not None and wanted.stream_options.include_usage
        extra = {"usage": None} if with_usage else {}
        try:
            for number, head in enumerate(heads):
                if chat or head:
                    yield _sent({**answer.piece(number, head, None, first=True), **extra})
            async with aclosing(service.grown(ticket, texts, first)) as grown:
                async for number, piece in grown:
                    reason = texts[number].finish_reason
                    if chat and reason is not None and piece:  # the last one says nothing
                        yield _sent({**answer.piece(number, piece, None), **extra})
                        piece = ""
                    yield _sent({**answer.piece(number, piece, reason), **extra})
        except Failed as error:
            failed = True
            yield _sent(_failed(error).body)
            return
        if with_usage:
            yield _sent(answer.end(answer.usage(texts, prompts)))
        yield b"data: [DONE]\n\n"

    ticket = service.open(asks)
    metrics.prompt_tokens.inc(sum(len(ask.prompt) for ask in asks))
    if wanted.stream:
        return _Stream(events(), reader_s=service.limits.reader_s, done=done)
    outcome = "cancelled"
    try:
        response = await _while_connected(request.receive, whole())
        outcome = "cancelled" if response is None else "done"
        return response or Response(status_code=499)  # nobody reads it
    except Failed as error:
        failed = True
        raise _failed(error) from None
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
    return _json({"object": "list", "data": [_described(request.app.state.service)]})


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["name"]
    if name != service.name:
        raise ApiError(
            404, f"there is no model {name[:64]!r}; this server has {service.name!r}", param="model",
            code="model_not_found",
        )  # fmt: skip
    return _json(_described(service))


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.ending.is_set():
        raise _failed(Failed("the server is shutting down"))
    if service.engine.fault is not None:
        raise _failed(Failed(service.engine.fault))
    return _json({"status": "ok", "model": service.name, "lanes": service.engine.lanes})


async def _metrics(request: Request) -> Response:
    text = request.app.state.service.metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


async def _live(request: Request) -> Response:
    service: Service = request.app.state.service
    if service.watchers == _WATCHERS:
        raise ApiError(
            429, f"{_WATCHERS} pages are watching; close one", code="rate_limit_exceeded",
            kind="rate_limit_error", headers={"Retry-After": str(_BUSY_S)},
        )  # fmt: skip

    async def events() -> AsyncGenerator[bytes, None]:
        while not service.ending.is_set():
            yield _sent(service.state())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.ending.wait(), _WATCH_S)

    def done(outcome: str) -> None:
        service.watchers -= 1

    service.watchers += 1
    return _Stream(events(), reader_s=service.limits.reader_s, done=done)


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
    """Lets in who may come: by the token, or without one by the name that the server is called."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        async def put(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        refused = self._refused(scope["path"], dict(scope["headers"]))
        app = self._app if refused is None else _error(refused)
        await app(scope, receive, put)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> ApiError | None:
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
    return _error(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.url.path[:64], request.method[:16]
    if error.status_code == 405:
        made = ApiError(405, f"{path} does not take {method}", code="method_not_allowed", headers=error.headers)
    elif error.status_code == 404:
        made = ApiError(404, f"there is no {path}", code="unknown_url")
    else:
        made = ApiError(error.status_code, error.detail, headers=error.headers)
    return _error(made)


async def _mistake(request: Request, error: Exception) -> Response:
    return _error(
        ApiError(500, "the server made a mistake; its log tells more", kind="server_error", code="internal_error")
    )


def application(service: Service) -> ASGIApp:
    """The ASGI application."""
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
    return _Guard(app, service)


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
        grace = service.limits.grace_s
        super().__init__(
            uvicorn.Config(
                application(service), http="h11", ws="none", loop="asyncio", lifespan="off", log_config=None,
                access_log=False, server_header=False, proxy_headers=False,
                limit_concurrency=_CONNECTIONS, timeout_keep_alive=30,
                timeout_graceful_shutdown=int(grace) + 5,
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
