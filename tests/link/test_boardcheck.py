# SPDX-License-Identifier: Apache-2.0
"""What ``nomul doctor --board`` finds: a board that is as it should be, and each thing that may be wrong with it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from golden_board import GoldenBoard, Wire

from nomul.host.cli import boardcheck
from nomul.host.cli.building import chip_for
from nomul.host.cli.common import compile_for
from nomul.host.deployment import Deployment
from nomul.host.loader import Cable
from nomul.host.transport import LostError
from nomul.hw.build.bitstream import board_sources
from nomul.model.checkpoint import write_checkpoint
from nomul.model.core_config import CoreConfig
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.manifest import Manifest
from nomul.model.random_checkpoint import random_checkpoint

CLOCK = 90_000_000
DATA = b"bitstream"


class Bench:
    """A board on a desk, its bitstream, and what is plugged in."""

    def __init__(self, folder: Path, model: Path, *, core: CoreConfig | None):
        self.model = model
        checkpoint = random_checkpoint(Geometry(hidden=24, intermediate=20, layers=1, vocab=256), 9)
        write_checkpoint(model, checkpoint.config, checkpoint._tensors)
        image, config = compile_for(fold(checkpoint), engine="select", bytes_per_beat=36)
        self.board = GoldenBoard(image, Deployment.of(image, config))
        chip = chip_for("ulx3s-85f", "onchip")
        design, sources = chip.design, board_sources(chip, {})
        self.board.identity = replace(self.board.identity, design=design, clock_hz=CLOCK)
        self.board.clock_hz = CLOCK
        self.manifest = Manifest(
            board="ulx3s-85f", configuration="onchip", file="a.bit", size=len(DATA),
            sha256=hashlib.sha256(DATA).hexdigest(), device="LFE5U-85F", package="CABGA381", speed=6,
            design=design.hex(), sources=sources, clock_hz=CLOCK, pll={}, link={"kind": "uart", "baud": 3_000_000},
            loader=["--board", "ulx3s"], cables=["0403:6015"], memory=None, core=None if core is None else asdict(core),
            geometry=None, timing={"fmax_mhz": 100.0}, area={}, seed=1, tools={}, command="nomul build …",
        )  # fmt: skip
        (folder / "a.bit").write_bytes(DATA)
        self.path = folder / "a.json"
        self.cables = [Cable("0403:6015", "ULX3S", True)]
        self.ports = [SimpleNamespace(device="/dev/ttyUSB3", vid=0x403, pid=0x6015),
                      SimpleNamespace(device="/dev/ttyS0", vid=None, pid=None)]  # fmt: skip
        self.opened: list[str] = []

    def open(self, name: str) -> Wire:
        self.opened.append(name)
        return Wire(self.board)

    def check(self, port: str | None = None) -> dict[str, str | NomulError]:
        """Findings by name; those that are wrong with a cross in front."""
        found = boardcheck.check_board("ulx3s-85f", "onchip", port, str(self.model))
        return {one["name"]: ("" if one["ok"] else "✗ ") + one["found"] for one in found}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    (tmp_path / "model").mkdir()
    made = Bench(tmp_path, tmp_path / "model", core=CoreConfig())
    monkeypatch.setattr(boardcheck, "find_bitstream", lambda name, configuration: (made.path, made.manifest))
    monkeypatch.setattr(boardcheck, "attached", lambda ids: made.cables)
    monkeypatch.setattr(boardcheck.list_ports, "comports", lambda: made.ports)
    monkeypatch.setattr(boardcheck, "open_transport", made.open)
    monkeypatch.setattr(boardcheck, "Loader", lambda *arguments: SimpleNamespace(version=lambda: "v1.1.1"))
    monkeypatch.setattr(boardcheck, "_CLOCK_S", 0.3)
    return made


def test_a_board_that_is_as_it_should_be(bench: Bench):
    found = bench.check()
    assert not [line for line in found.values() if line.startswith("✗")], found
    assert [*found] == [
        "bitstream", "openFPGALoader", "cable", "port", "link", "identity", "fabric clock", "known prompt",
    ]  # fmt: skip
    assert found["port"] == found["link"] == "/dev/ttyUSB3@3000000"
    assert bench.opened == ["/dev/ttyUSB3@3000000"]
    assert found["fabric clock"].endswith("90 MHz wanted")
    assert found["known prompt"] == "32 tokens after 'for line in f' equal golden's"
    assert bench.check("/dev/x")["link"] == "/dev/x@3000000"
    assert bench.check("tcp://h:1")["link"] == "tcp://h:1"


def test_a_chip_that_is_a_usb_device_itself(bench: Bench):
    """There is no bridge: no rate, its own ids, and no cable of which the bench would have to know."""
    bench.manifest = replace(bench.manifest, link={"kind": "usb"}, cables=["1209:5af0"])
    bench.ports = [SimpleNamespace(device="/dev/ttyACM0", vid=0x1209, pid=0x0001)]
    bench.cables = []
    found = bench.check()
    assert found["port"] == found["link"] == "/dev/ttyACM0"
    assert "cable" not in found
    assert found["known prompt"] == "32 tokens after 'for line in f' equal golden's"
    bench.ports = []
    assert bench.check()["port"] == (
        "✗ no serial port 1209:0001; plug the board in, or name its port with --port"
    )


def test_another_clock(bench: Bench):
    bench.board.clock_hz = CLOCK * 0.98
    line = bench.check()["fabric clock"]
    assert line.startswith("✗ 88.")
    assert line.endswith("90 MHz wanted: another oscillator, or a PLL that is not locked")


def test_another_design(bench: Bench):
    bench.board.identity = replace(bench.board.identity, design=b"otherone")
    found = bench.check()
    assert found["identity"].startswith("✗ it runs design 6f746865726f6e65, not ")
    assert found["identity"].endswith(": load the bitstream with nomul flash")
    assert "fabric clock" not in found
    bench.board.identity = replace(
        bench.board.identity, design=bytes.fromhex(bench.manifest.design), clock_hz=1
    )
    assert bench.check()["identity"] == "✗ it says its clock is 1 Hz, not 90,000,000 Hz"


def test_a_core_that_is_wrong(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench.board, "holds_the_image", lambda: False)  # then its tokens are wrong
    assert bench.check()["known prompt"].startswith("✗ token 1 after 'for line in f' is ")


def test_memory_is_tested_where_there_is_some(bench: Bench):
    bench.board.identity = replace(bench.board.identity, memory_bytes=1 << 16)
    bench.board.memory = bytearray(1 << 16)
    found = bench.check()
    assert found["memory"].endswith(" bytes in patterns over 0 MB right")
    act = bench.board.act

    def stuck(command, arguments):
        status, results = act(command, arguments)
        return status, results.replace(b"\x01", b"\x00") if len(results) == 512 else results

    bench.board.act = stuck
    assert bench.check()["memory"].startswith("✗ memory: address 0x00000000 holds 0x00, 0x01 was written; ")


@pytest.mark.parametrize(
    ("cables", "message"),
    [
        ([], "✗ none: no USB device 0403:6015; plug the board in"),
        ([Cable("0403:6015", "", False)], "✗ 0403:6015 may not be opened; udev rule: ATTRS{idVendor}"),
        (None, "not looked for: this system does not list its USB"),
    ],
)
def test_cables(bench: Bench, cables: list[Cable] | None, message: str):
    bench.cables = cables
    assert bench.check()["cable"].startswith(message)


def test_ports(bench: Bench):
    first = bench.ports[0]
    bench.ports.append(SimpleNamespace(device="/dev/ttyUSB4", vid=0x403, pid=0x6015))
    found = bench.check()
    assert found["port"] == "✗ 2 serial ports: /dev/ttyUSB3, /dev/ttyUSB4; name the board's with --port"
    assert "link" not in found
    bench.ports.clear()
    assert bench.check()["port"].startswith("✗ no serial port 0403:6015; ")
    bench.ports.append(first)
    assert "link" in bench.check()


def test_a_board_that_does_not_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    def fails(name: str) -> Wire:
        raise LostError(f"{name}: does not open (no such file or directory)")

    monkeypatch.setattr(boardcheck, "open_transport", fails)
    found = bench.check()
    assert found["link"].startswith("✗ /dev/ttyUSB3@3000000: does not open")
    assert "identity" not in found


def test_a_bitstream_that_is_not_there_or_stale(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    bench.manifest = replace(bench.manifest, design="0011223344556677")
    assert "a.bit is out of date" in bench.check()["bitstream"]
    (bench.path.parent / "a.bit").write_bytes(b"other")
    found = bench.check()
    assert [*found] == ["bitstream"]
    assert "is not the bitstream that a.json is about" in found["bitstream"]


def test_a_link_without_a_core(tmp_path: Path, bench: Bench):
    chip = chip_for("ulx3s-85f", "link")
    design = chip.design
    bench.manifest = replace(
        bench.manifest, configuration="link", core=None, design=design.hex(), sources=board_sources(chip, {})
    )
    bench.board.identity = replace(bench.board.identity, design=design)
    assert "known prompt" not in bench.check()
