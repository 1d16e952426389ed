# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends, it is told in the API's words, and the server goes on."""

from __future__ import annotations

import json
import random
import socket
import struct
import time
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import NAME, Served, alone, lines, said

from nomul.host.serve.service import Limits
from nomul.sim.harness import seed

PATHS = ("/v1/completions", "/v1/chat/completions")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def error(response: httpx.Response) -> dict[str, Any]:
    """The error, whose form is checked."""
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    body = response.json()
    assert [*body] == ["error"]
    assert {*body["error"]} == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert isinstance(message, str)
    assert 0 < len(message) < 400
    assert "\n" not in message
    assert isinstance(body["error"]["type"], str)
    return dict(body["error"])


def post(served: Served, path: str, body: Any, **options: Any) -> httpx.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    return served.http.post(path, content=raw, headers=headers, **options)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1), ("temperature", "1"), ("temperature", 3),
        ("temperature", True), ("temperature", 1e300), ("temperature", []),
        ("top_p", 1.5), ("top_p", -0.1), ("top_p", {}),
        ("n", 0), ("n", 17), ("n", 1.0), ("n", "1"), ("n", 10**30),
        ("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 1025),
        ("max_tokens", 2.5), ("max_tokens", 10**400), ("max_tokens", "many"),
        ("seed", 1 << 63), ("seed", -(1 << 63) - 1), ("seed", 0.5),
        ("stop", ""), ("stop", ["a"] * 5), ("stop", [1]), ("stop", "x" * 257),
        ("stop", 7),
        ("stream", "yes"), ("stream", 1),
        ("stream_options", {"include_usage": True}), ("stream_options", []),
        ("model", "other"), ("model", 5), ("model", None), ("model", "\ud800"),
        ("user", 5), ("best_of", 2), ("suffix", "x"), ("logprobs", 5), ("logprobs", True),
        ("logit_bias", {"50": 1}), ("frequency_penalty", 0.5), ("presence_penalty", -2),
        ("tools", [{}]), ("response_format", {"type": "json_object"}), ("unheard_of", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_value_is_named(served: Served, path: str, field: str, value: Any):
    body = {"model": NAME, **(CHAT if "chat" in path else {"prompt": "a"}), field: value}
    response = post(served, path, body)
    found = error(response)
    assert response.status_code == (404 if value in ("other", "\ud800") else 400)
    assert found["type"] == "invalid_request_error"
    assert found["param"] == field
    assert field in found["message"]


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"), ({}, "prompt"), (5, "prompt"), ([[]], "prompt"), (["a", 5], "prompt"), ([1.5], "prompt"),
        ([True], "prompt"), ([256], "prompt"), ([-1], "prompt"), ([10**40], "prompt"), ([-(10**40)], "prompt"),
        (["a", [1, 999]], "prompt[1]"), (["a"] * 17, "prompt"), ("a" * 4096, "prompt"), ([7] * 4097, "prompt"),
        ("\udc80", "prompt"), ([None], "prompt"),
    ],
)  # fmt: skip
def test_wrong_prompts(served: Served, prompt: Any, param: str):
    response = post(served, PATHS[0], {"model": NAME, "prompt": prompt})
    assert (response.status_code, error(response)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"), ("hi", "messages"), ([5], "messages[0]"), ([{}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"), ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "x"}]}], "messages[1].content"),
        ([{"role": "user", "content": "a", "x": 1}], "messages[0].x"),
        ([{"role": "assistant", "content": "a", "tool_calls": [{}]}], "messages[0].tool_calls"),
        ([{"role": "user", "content": "a" * 5000}], "messages"),
        ([{"role": "user", "content": "a"}] * 1025, "messages"),
        ([{"role": "user", "content": "\udc80"}], "messages"),
    ],
)  # fmt: skip
def test_wrong_messages(served: Served, messages: Any, param: str):
    response = post(served, PATHS[1], {"model": NAME, "messages": messages})
    assert response.status_code == 400
    assert error(response)["param"].startswith(param)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"null", b"[]", b"5", b'"a"', b"{'a': 1}", b"\xff\xfe", b"\x00" * 9, b"[" * 100_000,
        b'{"model": NaN}', b'{"model": "small", "temperature": Infinity}', b'{"n": ' + b"9" * 5000 + b"}",
        b'{"model": "small", "prompt": "a"} x', '{"model": "small'.encode("utf-16"), b"{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_json(served: Served, path: str, raw: bytes):
    response = post(served, path, raw)
    assert response.status_code == 400
    assert error(response)["code"] in ("invalid_json", "missing_required_parameter")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5) | st.sampled_from([NAME, "user", 10**30, -(10**30), "\ud800", "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)  # fmt: skip
names = st.sampled_from(
    ["prompt", "messages", "max_tokens", "n", "stop", "seed", "stream", "temperature", "top_p", "echo", "user",
     "stream_options", "logit_bias", "tools", "best_of", "max_completion_tokens", "x"]
)  # fmt: skip


@settings(max_examples=100)
@given(st.sampled_from(PATHS), st.dictionaries(names, values, max_size=4), st.booleans())
def test_no_body_breaks_it(served: Served, path: str, body: dict[str, Any], sound: bool):
    body = {"model": NAME, **(CHAT if "chat" in path else {}), "max_tokens": 2, **body} if sound else body
    response = post(served, path, body)
    assert response.status_code in (200, 400)
    if response.status_code == 400:
        error(response)


def test_other_media_types(served: Served):
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = post(served, PATHS[0], {"model": NAME}, headers={"Content-Type": kind})
        assert (response.status_code, error(response)["code"]) == (415, "unsupported_media_type")
    response = post(
        served, PATHS[0], {"model": NAME, "max_tokens": 1}, headers={"Content-Type": "Application/JSON; charset=utf-8"}
    )
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/completions/", "/v2", "/" + "x" * 3000, "/%ff%00"])
def test_other_paths(served: Served, path: str):
    response = served.http.get(path)
    assert (response.status_code, error(response)["code"]) == (404, "unknown_url")


def test_other_methods(served: Served):
    for method, path in (("GET", PATHS[0]), ("DELETE", PATHS[1]), ("POST", "/v1/models"), ("PUT", "/")):
        response = served.http.request(method, path)
        assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")
        assert response.headers["allow"]


def test_a_body_that_is_too_long():
    with Served(limits=Limits(body=2000)) as served:
        whole = json.dumps({"model": NAME, "prompt": "a" * 1900, "max_tokens": 1}).encode()
        assert len(whole) < 2000
        assert post(served, PATHS[0], whole).status_code == 200
        for raw in (whole + b" " * 100, b" " * 100_000):
            response = post(served, PATHS[0], raw)
            assert (response.status_code, error(response)["code"]) == (413, "request_too_large")
        response = served.http.post(  # without a length
            PATHS[0], content=(b" " * 100 for _ in range(30)), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 413


def test_a_body_that_does_not_come():
    with Served(limits=Limits(body_s=0.3)) as served:
        connection = served.send(PATHS[0], b"")
        connection.close()
        slow = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 50\r\n\r\n{"
        )
        found = [*lines(slow)]  # to the end: the server closes the connection
        slow.close()
        assert found[0].startswith("HTTP/1.1 408")
        assert json.loads(found[-1])["error"]["code"] == "timeout"


def test_a_body_that_is_broken_off(served: Served, caplog: pytest.LogCaptureFixture):
    name = 'nomul_requests_total{endpoint="completions",outcome="refused"}'

    def refused() -> float:
        rows = [line.rsplit(" ", 1) for line in served.http.get("/metrics").text.splitlines()]
        return sum(float(value) for key, value in rows if key == name)

    before = refused()
    for reset in (False, True):
        connection = socket.create_connection(("127.0.0.1", served.port), timeout=20)
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 50\r\n\r\n{"
        )
        time.sleep(0.1)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    served.wait(lambda: refused() == before + 2)
    assert "Traceback" not in caplog.text


def test_noise_instead_of_http(served: Served):
    rng = random.Random(seed())
    long = b"GET /" + b"x" * 200_000
    for raw in (b"\x16\x03\x01" + rng.randbytes(200), b"GET / HTTP/9.9\r\n\r\n", long, b"\r\n" * 50, b""):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert served.http.get("/health").status_code == 200


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """Status and error of what comes on a connection, to its end."""
    found = [*lines(connection)]
    assert "content-type: application/json" in [line.lower() for line in found]
    body = json.loads(found[-1])
    assert {*body["error"]} == {"message", "type", "param", "code"}
    return int(found[0].split()[1]), body["error"]


def healthy(connection: socket.socket) -> bool:
    """Asks and is answered, on a connection that stays."""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    found = b""
    while not found.endswith(b"}"):
        found += connection.recv(4096)
    return found.startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_told_in_the_same_form(served: Served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(b"HELO there\r\n\r\n")
        status, told = answer(connection)
    assert (status, told["code"], told["type"]) == (400, "invalid_http", "invalid_request_error")


def test_a_head_that_does_not_come():
    with Served(limits=Limits(head_s=0.5)) as served:
        address = ("127.0.0.1", served.port)
        with socket.create_connection(address, timeout=20) as silent:
            begin = time.monotonic()
            assert silent.recv(1) == b""
            assert 0.4 < time.monotonic() - begin < 10
        with socket.create_connection(address, timeout=20) as slow:  # each byte alone is no progress
            for byte in b"GET /hea":
                slow.sendall(bytes([byte]))
                time.sleep(0.02)
            status, told = answer(slow)
        assert (status, told["code"]) == (408, "timeout")
        with socket.create_connection(address, timeout=20) as again:  # behind a response too
            assert healthy(again)
            again.sendall(b"GET")
            assert answer(again)[0] == 408
        with socket.create_connection(address, timeout=20) as good:  # heads and bodies that come are not cut
            for _ in range(4):
                time.sleep(0.25)
                assert healthy(good)
        long = {"model": NAME, "prompt": "a", "max_tokens": 600, "temperature": 0, "stream": True}
        assert post(served, PATHS[0], long).text.endswith("data: [DONE]\n\n")


def test_more_connections_than_may_be():
    """Those that ask nothing stand in the way, until their time is up."""
    with Served(limits=Limits(connections=20, head_s=2.0)) as served:
        address = ("127.0.0.1", served.port)
        silent = [socket.create_connection(address, timeout=20) for _ in range(20)]
        served.wait(lambda: len(served.server.server_state.connections) == 20)
        response = httpx.get(f"{served.url}/health")
        assert (response.status_code, error(response)["code"]) == (503, "unavailable")
        assert error(response) == {
            "message": "20 connections are open; try again later", "type": "server_error", "param": None,
            "code": "unavailable",
        }  # fmt: skip
        assert response.headers["connection"] == "close"
        assert response.headers["retry-after"] == "1"
        served.wait(lambda: httpx.get(f"{served.url}/health").status_code == 200, 20)
        assert all(connection.recv(1) == b"" for connection in silent)
        for connection in silent:
            connection.close()


def test_without_room_one_is_told_to_come_again():
    with Served(queue=0, limits=Limits(tokens=100_000)) as served:
        body = {"model": NAME, "prompt": "a", "max_tokens": 100_000, "n": 8, "temperature": 0, "stream": True}
        busy = served.send(PATHS[0], json.dumps(body).encode())
        served.wait(lambda: served.engine.texts == 8)
        response = post(served, PATHS[0], {"model": NAME, "prompt": "a"})
        assert (response.status_code, error(response)["code"]) == (429, "rate_limit_exceeded")
        assert response.headers["retry-after"] == "1"
        too_many = post(served, PATHS[0], {"model": NAME, "prompt": "a", "n": 9})  # never could
        assert (too_many.status_code, error(too_many)["param"]) == (400, "n")
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="x", max_retries=5)
        with client:
            begin = time.monotonic()
            busy.close()  # the client comes again, and gets in
            found = client.completions.create(model=NAME, prompt="a", temperature=0, max_tokens=5)
            assert found.choices[0].text == said(alone("a", 5))
            assert time.monotonic() - begin < 60


def test_the_token():
    with Served(token="s3cret") as served:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"},
                        {"Authorization": "s3cret"}, {"Authorization": "Bearer s3cret2"},
                        {"Authorization": b"Bearer \xff"}):  # fmt: skip
            for path in ("/v1/models", "/metrics", "/live", "/nothing"):
                response = served.http.get(path, headers=headers)
                assert (response.status_code, error(response)["code"]) == (401, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
        assert served.http.get("/").status_code == 200
        assert served.http.get("/health").status_code == 200
        good = {"Authorization": "bearer s3cret", "Host": "any.example"}
        assert served.http.get("/v1/models", headers=good).status_code == 200
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="s3cret") as client:
            assert client.completions.create(model=NAME, prompt="a", max_tokens=1).usage
        with (
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="other", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_other_names_of_the_server():
    """A page whose name was made to point here gets nothing."""
    with Served(hosts={"127.0.0.1", "localhost", "[::1]"}) as served:
        for host in ("127.0.0.1", "LOCALHOST:99", "[::1]:8000", "localhost"):
            assert served.http.get("/v1/models", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example:8000", "localhost.", ""):
            response = served.http.get("/v1/models", headers={"Host": host})
            assert (response.status_code, error(response)["code"]) == (403, "wrong_host")


def test_the_page_runs_only_its_own_script(served: Served):
    response = served.http.get("/")
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in response.text.replace("http-equiv", "")  # nothing from elsewhere
