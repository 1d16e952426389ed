# SPDX-License-Identifier: Apache-2.0
"""A server in this process, over eight lanes of the golden model with a small random model."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import httpx
import numpy as np

from nomul.host.lanes import LanesBoard
from nomul.host.sampling import Sampler
from nomul.host.serve.engine import Engine
from nomul.host.serve.metrics import Power
from nomul.host.serve.server import Server, listen
from nomul.host.serve.service import Limits, Service
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.program import Image, compile_model
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.tokenizer import BEGIN, ByteTokenizer
from nomul.sim.golden import Golden
from nomul.sim.golden_board import GoldenBoard

__all__ = ["NAME", "Served", "alone", "image", "lines", "power", "said", "until"]

NAME = "small"
CODER = ByteTokenizer()


@cache
def image() -> Image:
    """A model of bytes."""
    geometry = Geometry(hidden=24, intermediate=20, layers=1, vocab=256)
    return compile_model(fold(random_checkpoint(geometry, 9)), bytes_per_beat=8, tile_outputs=64)


@cache
def _golden() -> Golden:
    return Golden(image())


def alone(
    prompt: str | list[int], count: int, *, temperature: float = 0.0, top_p: float = 1.0,
    seed: int | list[int] = 0,
) -> list[int]:  # fmt: skip
    """Tokens of one text by the golden model of one lane, up to the end token."""
    ids = [BEGIN, *prompt.encode()] if isinstance(prompt, str) else prompt
    golden, sampler = _golden(), Sampler(temperature=temperature, top_p=top_p)
    rng, out = np.random.default_rng(seed), list[int]()
    golden.reset()
    for token in ids:
        golden.step(token)
    while True:
        out.append(sampler.choose(golden.logits[0] * golden.logit_scale[0], rng))
        if len(out) == count or out[-1] == BEGIN:
            return out
        golden.step(out[-1])


def said(tokens: list[int]) -> str:
    """Their text."""
    return CODER.decode([token for token in tokens if token != BEGIN])


def until(text: str, *stops: str) -> str:
    """The text before the first stop string."""
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def power(
    watts: float | Callable[[], float | None], *, label: str = "measured", bounds: tuple[float, float] | None = None
) -> Power:
    """A meter that shows this."""
    read = watts if callable(watts) else lambda: watts
    return Power(watts=read, label=label, meter="told", includes="all of it", bounds_w=bounds)


class Served:
    """The server, from the beginning to the end of a ``with`` block.

    Attributes
    ----------
    url : str
    port : int
    http : httpx.Client
    """

    def __init__(
        self, board: LanesBoard | None = None, *, logits: Callable[[int], np.ndarray] | None = None,
        recover: Callable[[NomulError], None] | None = None, queue: int = 64, limits: Limits | None = None,
        send_buffer: int | None = None, **settings: Any,
    ):  # fmt: skip
        golden = GoldenBoard(image(), lanes=8)
        self.engine = Engine(
            board or golden, logits=logits or golden.logits, end=BEGIN, queue=queue, recover=recover
        )
        self.service = Service(
            self.engine, CODER, name=NAME, board="golden model", design=b"golden  ", limits=limits, **settings
        )
        self.socket = listen("127.0.0.1", 0, reader_s=self.service.limits.reader_s)
        if send_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.port = self.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self.server = Server(self.service)
        self._thread = threading.Thread(target=lambda: self.server.run(sockets=[self.socket]))

    def __enter__(self) -> Served:
        self.engine.start()
        self._thread.start()
        self.wait(lambda: self.server.started)
        return self

    def __exit__(self, *ignored: object) -> None:
        self.end()
        self._thread.join(60)
        assert not self._thread.is_alive()
        self.engine.close(10)
        self.socket.close()
        self.http.close()

    def end(self) -> None:
        """As a signal does."""
        self.server.should_exit = True

    def wait(self, what: Callable[[], Any], seconds: float = 30.0) -> None:
        """Until something holds."""
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "it did not come to hold"
            time.sleep(0.01)

    def idle(self) -> None:
        """Until nobody is there any more."""
        self.wait(lambda: not self.engine.texts and not any(self.engine.occupants))

    def send(self, path: str, body: bytes, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection on which a request was sent."""
        found = socket.socket()
        if receive_buffer is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        found.settimeout(30)
        found.connect(("127.0.0.1", self.port))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        found.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return found


def lines(connection: socket.socket) -> Iterator[str]:
    """What comes on a connection, until it ends."""
    with connection.makefile("rb") as file:
        for line in file:
            yield line.decode().rstrip()
