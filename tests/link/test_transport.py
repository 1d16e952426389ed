# SPDX-License-Identifier: Apache-2.0
"""TCP: names, what goes wrong, and a simulated board behind it."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from golden_board import GoldenBoard, Wire, on_chip
from standin import IDENTITY, StandInCore, standin_tokens

from nomul.host.bridge import Bridge
from nomul.host.driver import Board
from nomul.host.transport import (
    LostError,
    SerialTransport,
    TcpTransport,
    Transport,
    open_transport,
    tcp_address,
)
from nomul.hw.build.verilog import convert
from nomul.hw.link import Link
from nomul.hw.top import Top
from nomul.model.errors import NomulError
from nomul.sim.board import BoardProcess, build_board


@pytest.fixture(scope="module")
def process() -> Iterator[BoardProcess]:
    text = convert(Top(core=StandInCore(cycles=50), link=Link(identity=IDENTITY)), "top")
    with BoardProcess(build_board(text), limit_s=120.0) as process:
        yield process


def test_a_simulated_board_over_tcp(process: BoardProcess):
    said: list[str] = []
    with Bridge(lambda: SerialTransport(process.port), "localhost:0", say=said.append) as bridge:
        for _ in range(3):  # one after the other
            with Board.open(bridge.name) as board:
                assert board.identity == IDENTITY
                assert list(board.generate([1, 2], 200)) == standin_tokens([1, 2], steps=201)[1:]
                assert board.retries == 0
                with pytest.raises(LostError, match=r"closed at the other end; is another host using it"):
                    Board.open(bridge.name)
            end = time.monotonic() + 5.0
            while said[-1] != "the host has left":
                assert time.monotonic() < end
                time.sleep(0.01)
    assert said == ["a host has come", "the host has left"] * 3
    with pytest.raises(LostError, match=r"^tcp://localhost:\d+: does not open \(connection refused\)"):
        Board.open(bridge.name)


def test_a_port_with_its_rate(process: BoardProcess, monkeypatch: pytest.MonkeyPatch):
    with Board.open(f"{process.port}@6000000") as board:
        assert board.identity == IDENTITY
    opened: list[tuple[str, int]] = []
    monkeypatch.setattr(
        "nomul.host.transport.SerialTransport", lambda port, *, baud: opened.append((port, baud))
    )
    for name in ("/dev/ttyUSB1@6000000", "/dev/ttyUSB1", "/dev/a@b", "@12", "/dev/serial/by-id/usb@1-if00"):
        open_transport(name)
    assert opened == [
        ("/dev/ttyUSB1", 6_000_000), ("/dev/ttyUSB1", 3_000_000), ("/dev/a@b", 3_000_000), ("@12", 3_000_000),
        ("/dev/serial/by-id/usb@1-if00", 3_000_000),
    ]  # fmt: skip


def test_a_board_that_does_not_open_behind_a_bridge():
    said: list[str] = []
    with Bridge(lambda: SerialTransport("/dev/nothing"), "127.0.0.1:0", say=said.append) as bridge:
        with pytest.raises(LostError, match=r"the board is gone"):
            Board.open(bridge.name)
        assert re.match(r"/dev/nothing: does not open", said[0])


def test_a_board_that_goes_behind_a_bridge():
    image, deployment = on_chip()
    wires: list[Wire] = []

    def connect() -> Transport:
        wires.append(Wire(GoldenBoard(image, deployment)))
        return wires[-1]

    with Bridge(connect, "127.0.0.1:0") as bridge, Board.open(bridge.name) as board:
        wires[-1].close()
        begin = time.monotonic()
        with pytest.raises(LostError, match=r"^tcp://127\.0\.0\.1:\d+: the board is gone"):
            board.statistics()
        assert time.monotonic() - begin < 5.0


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tcp://127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("board.local:1", ("board.local", 1)),
        ("tcp://[::1]:65535", ("::1", 65535)),
    ],
)
def test_addresses(name: str, address: tuple[str, int]):
    assert tcp_address(name) == address


@pytest.mark.parametrize(
    "name",
    ["tcp://", "tcp://host", "tcp://host:", "tcp://host:x", "tcp://host:65536", "tcp://:5", "tcp://a:5/x",
     "tcp://[::1:5", "tcp://me@a:5", "tcp://a:-5", "tcp://a:5?x"],
)  # fmt: skip
def test_addresses_that_are_none(name: str):
    with pytest.raises(NomulError, match=rf"^{re.escape(name)}: is no address; write tcp://HOST:PORT"):
        open_transport(name)


def test_nothing_answers():
    with pytest.raises(LostError, match=r"^tcp://127\.0\.0\.1:1: does not open \(connection refused\)"):
        open_transport("tcp://127.0.0.1:1")
    with pytest.raises(LostError, match=r"^tcp://nothing\.invalid:1: does not open \("):
        open_transport("tcp://nothing.invalid:1")


def test_names_that_take_too_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: time.sleep(3) or [])
    begin = time.monotonic()
    with pytest.raises(LostError, match=r"the name was not resolved within 1 s"):
        TcpTransport("slow.example", 1)
    assert time.monotonic() - begin < 2.0


def test_a_host_that_does_not_take_what_is_written():
    """Writing is bounded in time; so is reading."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport = TcpTransport("127.0.0.1", server.getsockname()[1])
        begin = time.monotonic()
        transport.write(bytes(1 << 24))
        assert time.monotonic() - begin < 4.0
        begin = time.monotonic()
        assert transport.read(0.1) == b""
        assert 0.09 < time.monotonic() - begin < 2.0
        transport.close()
        transport.close()
        with pytest.raises(LostError, match=r"the board is gone"):
            transport.read(0.1)
        with pytest.raises(LostError, match=r"the board is gone"):
            transport.write(b"x")


def test_a_bridge_that_can_not_listen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NomulError, match=rf"^{taken}: can not be listened at \(.*in use.*\); choose"):
            Bridge(lambda: SerialTransport("x"), taken)
    with pytest.raises(NomulError, match=r"^here: is no address"):
        Bridge(lambda: SerialTransport("x"), "here")


def test_a_file_is_no_port(tmp_path: Path):
    with pytest.raises(LostError, match=r"does not open"):
        open_transport(str(tmp_path / "none"))
