# SPDX-License-Identifier: Apache-2.0
"""Clients that go away or do not read, boards that fail, and the end."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
from served import NAME, Served, alone, image, lines, said

from nomul.host.serve.service import Limits
from nomul.host.transport import LostError
from nomul.model.errors import NomulError
from nomul.model.protocol import LaneToken
from nomul.sim.golden_board import GoldenBoard

LONG = Limits(tokens=1_000_000)
PATH = "/v1/completions"


def body(count: int, **more: Any) -> bytes:
    return json.dumps({"model": NAME, "prompt": "a", "max_tokens": count, "temperature": 0, **more}).encode()


def ask(served: Served, count: int = 20) -> None:
    """Someone else gets what it should."""
    response = served.http.post(
        PATH, content=body(count), headers={"Content-Type": "application/json"}
    )
    assert response.json()["choices"][0]["text"] == said(alone("a", count))


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_leaves_its_lanes(stream: bool):
    with Served(limits=LONG) as served:
        gone = served.send(PATH, body(1_000_000, n=8, stream=stream))
        served.wait(lambda: served.engine.tokens > 20)
        assert served.engine.texts == 8
        gone.close()
        served.idle()
        ask(served)
        outcomes = served.http.get("/metrics").text
        assert 'nomul_requests_total{endpoint="completions",outcome="cancelled"} 1.0' in outcomes


def test_who_waits_may_go_away_too():
    with Served(limits=LONG) as served:
        busy = served.send(PATH, body(1_000_000, n=8))
        served.wait(lambda: served.engine.tokens > 0)
        waiting = served.send(PATH, body(10, n=5))
        served.wait(lambda: served.engine.waiting == 5)
        waiting.close()
        served.wait(lambda: served.engine.texts == 8 and served.engine.waiting == 0)
        busy.close()
        served.idle()


def test_who_does_not_read_holds_up_nobody_and_is_cut_off():
    with Served(limits=Limits(tokens=1_000_000, reader_s=1.0), send_buffer=4096) as served:
        slow = served.send(PATH, body(1_000_000, n=4, stream=True), receive_buffer=4096)
        served.wait(lambda: served.engine.tokens > 100)
        for _ in range(3):
            ask(served)
        served.wait(lambda: not served.engine.texts)  # cut off
        served.idle()
        found = []
        with contextlib.suppress(ConnectionResetError):
            found += lines(slow)
        slow.close()
        assert "data: [DONE]" not in found
        ask(served)


def test_who_reads_slowly_gets_all_of_it():
    with Served(send_buffer=4096) as served:
        slow = served.send(PATH, body(300, n=8, stream=True), receive_buffer=4096)
        served.wait(lambda: not served.engine.waiting and served.engine.tokens == 8 * 300)
        assert served.engine.texts == 8  # made, and not all of it read
        texts = [""] * 8
        for line in lines(slow):
            if line.startswith("data: {"):
                (choice,) = json.loads(line[6:])["choices"]
                texts[choice["index"]] += choice["text"]
            if line == "data: [DONE]":
                break
        slow.close()
        assert texts == [said(alone("a", 300))] * 8


class Failing(GoldenBoard):
    """Fails whenever it is told to."""

    def __init__(self) -> None:
        super().__init__(image(), lanes=8)
        self.failures: list[Exception] = []

    def run(
        self, rows: Sequence[Sequence[LaneToken | None]], steps: int | None = None
    ) -> Iterator[list[int | None]]:
        for found in super().run(rows, steps):
            if self.failures:
                raise self.failures.pop()
            yield found


def test_a_board_that_fails_now_and_then():
    board = Failing()
    with Served(board, logits=board.logits) as served:
        for failures in (1, 2):
            board.failures = [NomulError("board: step 2 failed")] * failures
            ask(served, 40)
            assert not board.failures
            assert served.http.get("/health").status_code == 200


def test_a_board_that_is_lost_is_brought_back():
    """It fails until it is brought back; those who wait notice nothing."""
    board = Failing()
    lost = LostError("board: it was reset")
    seen = []

    def recover(error: NomulError) -> None:
        seen.append(error)
        board.failures = []

    with Served(board, logits=board.logits, recover=recover) as served:
        board.failures = [lost] * 100
        ask(served, 40)
        assert seen == [lost]
        assert served.http.get("/health").status_code == 200


def complete(client: openai.OpenAI, stream: bool) -> None:
    found = client.completions.create(
        model=NAME, prompt="a", max_tokens=40, temperature=0, stream=stream
    )  # type: ignore[call-overload]
    for _ in found if stream else []:
        pass


@pytest.mark.parametrize("stream", [False, True])
def test_a_board_that_is_gone(stream: bool, caplog: pytest.LogCaptureFixture):
    board = Failing()
    with Served(board, logits=board.logits) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=0)
        for failure, message in (
            (NomulError("board: no answer to POLL"), "board: no answer to POLL"),
            (ZeroDivisionError("a mistake"), "the server made a mistake; its log tells more"),
        ):
            board.failures = [failure] * 3
            with pytest.raises(openai.APIError, match=message) as caught:
                complete(client, stream)
            if not stream:
                assert isinstance(caught.value, openai.InternalServerError)
                assert caught.value.status_code == 503
            health = served.http.get("/health")
            assert (health.status_code, health.json()["error"]["message"]) == (503, message)
            assert "nomul_board_up 0.0" in served.http.get("/metrics").text
            board.failures = []
            ask(served)  # it is back
            assert served.http.get("/health").status_code == 200
        client.close()
    assert "ZeroDivisionError" in caplog.text


def collected(served: Served, raw: bytes) -> tuple[threading.Thread, list[str]]:
    """Reads a response in the background."""
    found: list[str] = []
    connection = served.send(PATH, raw)

    def read() -> None:
        found.extend(lines(connection))
        connection.close()

    thread = threading.Thread(target=read)
    thread.start()
    return thread, found


def test_the_end_lets_requests_finish():
    with Served() as served:
        readers = [collected(served, body(200, stream=stream)) for stream in (True, False)]
        idle = served.send("/v1/models", b"")  # answers 405 and stays open
        served.wait(lambda: served.engine.texts == 2 and served.engine.tokens > 4)
        served.end()
        served.wait(served.service.ending.is_set)
        for thread, _ in readers:
            thread.join(30)
        idle.close()
    streamed, whole = (found for _, found in readers)
    assert "data: [DONE]" in streamed
    assert json.loads(whole[-1])["choices"][0]["text"] == said(alone("a", 200))


def test_the_end_cancels_what_takes_too_long():
    with Served(limits=Limits(tokens=1_000_000, grace_s=0.5)) as served:
        readers = [collected(served, body(1_000_000, stream=stream)) for stream in (True, False)]
        with served.http.stream("GET", "/live") as live:
            served.wait(lambda: served.engine.texts == 2)
            begin = time.monotonic()
            served.end()
            assert [*live.iter_lines()]  # ends at once
        for thread, _ in readers:
            thread.join(30)
    assert time.monotonic() - begin < 10
    streamed, whole = (found for _, found in readers)
    (told,) = [json.loads(line[6:]) for line in streamed if line.startswith('data: {"error"')]
    assert whole[0].startswith("HTTP/1.1 503")
    for error in (told, json.loads(whole[-1])):
        assert error["error"]["message"] == "the server is shutting down"


def test_nobody_is_let_in_at_the_end():
    with Served(limits=Limits(tokens=1_000_000, grace_s=2.0)) as served:
        thread, _ = collected(served, body(1_000_000))
        late = served.send("/v1/models", b"")  # a connection from before
        served.wait(lambda: served.engine.texts == 1)
        served.service.engine.stop("the server is shutting down")
        response = served.http.post(PATH, content=body(1), headers={"Content-Type": "application/json"})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "unavailable"
        late.close()
        served.end()
        thread.join(30)


def test_the_number_of_watchers_is_limited(served: Served):
    responses = []
    with httpx.Client() as client:
        for _ in range(32):
            responses.append(client.send(client.build_request("GET", served.url + "/live"), stream=True))
        assert {response.status_code for response in responses} == {200}
        assert client.get(served.url + "/live").status_code == 429
        for response in responses:
            response.close()
    served.wait(lambda: served.service.watchers == 0)
