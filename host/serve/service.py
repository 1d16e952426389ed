# SPDX-License-Identifier: Apache-2.0
"""What the routes share: a model on a board, and what may be asked of it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import ClientDisconnect, Request

from nomul.host.sampling import Sampler
from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer
from nomul.model.tokenizer import ByteTokenizer, check_ids

from .api import (
    MAX_TEXTS,
    ApiError,
    GenerationRequest,
    parsed,
)
from .engine import Ask, Engine, Failed, Full, Ticket
from .metrics import Metrics, Power
from .text import Growing

__all__ = ["BUSY_S", "Limits", "Service", "unavailable"]

BUSY_S = 1  #: When a client that was turned away may come again.


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a client may ask for.

    Parameters
    ----------
    body : int
        Bytes of a request.
    prompt, tokens : int
        Tokens of a prompt, and most to generate.
    head_s, body_s : float
        Seconds for a request's head, from the connection or the last response on, and for a body to arrive.
    reader_s : float
        Seconds for which a reader may take nothing.
    grace_s : float
        Seconds for which requests may go on when the server is to end.
    connections : int
        Open at a time, below the 1024 files that a process may usually have.
    """

    body: int = 1 << 20
    prompt: int = 4096
    tokens: int = 1024
    head_s: float = 30.0
    body_s: float = 30.0
    reader_s: float = 60.0
    grace_s: float = 10.0
    connections: int = 512


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
    power : Power, optional
        A meter.
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
        power: Power | None = None,
    ):
        self.engine = engine
        self.coder = coder
        self.name = name
        self.board = board
        self.design = design.hex()
        self.limits = limits or Limits()
        self.token = token
        self.hosts = hosts
        self.power = power
        self.metrics = Metrics(engine, power)
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
                headers={"Retry-After": str(BUSY_S)},
            ) from None  # fmt: skip
        except Failed as error:
            raise unavailable(error) from None

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
        engine, power = self.engine, self.power
        low, high = (power.bounds_w if power else None) or (None, None)
        return {
            "time": time.monotonic(), "tokens": engine.tokens, "steps": engine.steps,
            "lane_tokens": engine.lane_tokens, "occupants": engine.occupants, "texts": engine.texts,
            "waiting": engine.waiting, "capacity": engine.capacity,
            "metered": power is not None, "watts": power.watts() if power else None, "low": low, "high": high,
            "power": f"{power.label}, {power.meter}: {power.includes}" if power else "",
            "fault": engine.fault, "model": self.name, "board": self.board,
        }  # fmt: skip


def _small(ids: list[int]) -> list[int]:
    """Token ids that NumPy can take; those it cannot are no tokens anyway."""
    return [token if -1 <= token <= 1 << 62 else -1 if token < 0 else 1 << 62 for token in ids]


def unavailable(error: Failed) -> ApiError:
    """What a client is told of it."""
    return ApiError(503, str(error), code="unavailable", kind="server_error")
