# SPDX-License-Identifier: Apache-2.0
"""``nomul flash``: which bitstream, and what is refused before the board is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from fake_loader import Fake
from outcome import Nomul

from nomul.host import loader as loading
from nomul.host.cli import flashing
from nomul.host.cli.building import chip_for
from nomul.hw.build.bitstream import board_sources
from nomul.model.manifest import Manifest

CODES = {"LFE5U-85F": 0x41113043, "LFE5U-25F": 0x41111043}


CHIP = chip_for("ulx3s-85f", "link")
SOURCES = board_sources(CHIP, {})


def manifest(data: bytes, **changes: object) -> Manifest:
    made = Manifest(
        board="ulx3s-85f", configuration="link", file="ulx3s-85f-link.bit",
        sha256=hashlib.sha256(data).hexdigest(), size=len(data), device="LFE5U-85F", package="CABGA381",
        speed=6, design=CHIP.design.hex(), sources=SOURCES, clock_hz=90_000_000, pll={},
        link={"kind": "uart", "baud": 3_000_000}, loader=["--board", "ulx3s"], cables=["0403:6015"],
        memory=None, core=None, geometry=None, area={}, seed=1, tools={},
        timing={"how": "routed", "clocks": [], "fmax_mhz": 110.4, "worst_slack_ns": 2.05},
        command="nomul build ulx3s-85f --config link --seed 1 --tools yowasp",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


BITSTREAM = b"\xff\x00Part: LFE5U-85F-6CABGA381\x00\xff" + bytes(range(256)) * 8


class StandInLoader:
    """A loader with a chip behind it."""

    chip = "LFE5U-85F"
    calls: list[tuple[str, bool]]

    def __init__(self, board, cables):
        self.board, self.cables = board, cables
        StandInLoader.last = self
        self.calls = []

    def version(self) -> str:
        return "v1.1.1"

    def detect(self) -> int:
        return CODES[self.chip]

    def write(self, path: Path, *, persist: bool, progress) -> None:
        self.calls.append((path.name, persist))
        progress("Loading", 100)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bitstreams on a shelf, and a loader that stands in."""
    monkeypatch.setattr(flashing, "Loader", StandInLoader)
    monkeypatch.setattr(StandInLoader, "chip", "LFE5U-85F")
    return _shelf(tmp_path, monkeypatch)


def _shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a bitstream and its manifest where the command finds them."""
    monkeypatch.setattr(flashing, "build_folder", lambda *parts: tmp_path)
    monkeypatch.setattr(flashing, "_released", lambda: tmp_path / "released")
    folder = tmp_path / "ulx3s-85f-link"
    folder.mkdir()

    def put(data: bytes = BITSTREAM, **changes: object) -> Path:
        found = manifest(data, **changes)
        found.write(folder / "ulx3s-85f-link.json")
        (folder / "ulx3s-85f-link.bit").write_bytes(data)
        (folder / "report.json").write_text("{}")
        return folder

    return put


def test_to_the_chip_and_to_its_flash(nomul: Nomul, bench):
    bench()
    shown = nomul("flash", "ulx3s-85f", "--config", "link")
    assert shown.status == 0, shown.err
    assert "ulx3s-85f-link.bit is running, until it is switched off" in shown.out
    assert StandInLoader.last.calls == [("ulx3s-85f-link.bit", False)]
    assert (StandInLoader.last.board, StandInLoader.last.cables) == (["--board", "ulx3s"], ["0403:6015"])
    shown = nomul("flash", "ulx3s-85f", "--config", "link", "--persist", "--json")
    assert shown.json["persist"] is True
    assert shown.json["idcode"] == "0x41113043"
    assert StandInLoader.last.calls == [("ulx3s-85f-link.bit", True)]
    nomul("flash", "ulx3s-85f", "--config", "link", "--cable", "ft232")
    assert (StandInLoader.last.board, StandInLoader.last.cables) == (("--cable", "ft232"), ())


@pytest.mark.parametrize(
    ("board", "ids"),
    [("orangecrab-r0.2-85f", "1209:5af0"), ("butterstick", "1209:5af1"), ("butterstick-8g", "1209:5af1")],
)
def test_a_boot_loader_is_not_written_over(nomul: Nomul, board: str, ids: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(flashing, "Loader", StandInLoader)
    StandInLoader.last = None
    line = nomul("flash", board, "--config", "link", "--persist", "--cable", "ft232").failed()
    assert line.startswith(f"nomul: {board}: --persist would write over the boot loader")
    assert re.search(rf"dfu-util --device {ids} --alt 0 --download \S*{board}-link\.bit --reset$", line)
    assert StandInLoader.last is None


def test_a_bitstream_for_another_part(nomul: Nomul, bench, monkeypatch: pytest.MonkeyPatch):
    bench()
    monkeypatch.setattr(StandInLoader, "chip", "LFE5U-25F")
    assert nomul("flash", "ulx3s-85f", "--config", "link").failed() == (
        "nomul: ulx3s-85f-link.bit is for LFE5U-85F (0x41113043), the board has LFE5U-25F (0x41111043); name the "
        "board that is attached"
    )
    assert StandInLoader.last.calls == []


def test_an_edited_bitstream(nomul: Nomul, bench):
    folder = bench()
    (folder / "ulx3s-85f-link.bit").write_bytes(BITSTREAM[:-1] + b"\x00")
    line = nomul("flash", "ulx3s-85f", "--config", "link").failed()
    assert "is not the bitstream that ulx3s-85f-link.json is about" in line
    assert line.endswith("build it again: nomul build ulx3s-85f --config link --seed 1 --tools yowasp")


def test_a_bitstream_that_says_another_part(nomul: Nomul, bench):
    bench(BITSTREAM.replace(b"85F", b"25F"))
    assert "is not for LFE5U-85F-6CABGA381" in nomul("flash", "ulx3s-85f", "--config", "link").failed()


def test_a_bitstream_of_other_sources(nomul: Nomul, bench):
    """The link's design says nothing of PLL, pins and build flow."""
    bench(sources="00" * 32)
    line = nomul("flash", "ulx3s-85f", "--config", "link").failed()
    assert "ulx3s-85f-link.bit is out of date: it was made of another state of the board's top or the build" in line


def test_a_released_one_in_place_of_a_stale_one(nomul: Nomul, bench, tmp_path: Path):
    bench(sources="00" * 32)
    folder = tmp_path / "released"
    folder.mkdir()
    manifest(BITSTREAM).write(folder / "ulx3s-85f-link.json")
    (folder / "ulx3s-85f-link.bit").write_bytes(BITSTREAM)
    assert nomul("flash", "ulx3s-85f", "--config", "link", "--json").json["file"] == str(folder / "ulx3s-85f-link.bit")


def test_a_stale_bitstream(nomul: Nomul, bench):
    bench(design="0123456789abcdef")
    line = nomul("flash", "ulx3s-85f", "--config", "link").failed()
    assert "ulx3s-85f-link.bit is out of date: its design is 0123456789abcdef, that of this nomul " in line


def test_no_bitstream(nomul: Nomul, bench):
    bench()
    assert nomul("flash", "ulx3s-85f", "--config", "likn").failed() == (
        "nomul: ulx3s-85f: no configuration is called 'likn'; did you mean link?"
    )
    assert nomul("flash", "ulx").failed() == "nomul: no board is called 'ulx'; did you mean ulx3s-85f?"
    assert nomul("flash", "ulx3s-85f", "--config", "lanes8").failed() == (
        "nomul: ulx3s-85f-lanes8: no bitstream is here; build it: nomul build ulx3s-85f --config lanes8, or take "
        "--config link"
    )
    (bench() / "ulx3s-85f-link.bit").unlink()
    assert "ulx3s-85f-link.bit: no such file or directory; build it: nomul build" in nomul(
        "flash", "ulx3s-85f", "--config", "link"
    ).failed()


def test_a_board_without_a_cable(nomul: Nomul, bench):
    bench(loader=[], cables=[])
    assert nomul("flash", "ulx3s-85f", "--config", "link").failed() == (
        "nomul: ulx3s-85f: has no cable of its own; name yours with --cable, as in --cable ft232"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format is 2, expected 1: it is of another version of nomul"),
        ({"seed": None}, "field seed is missing"),
        ({"seed": "1"}, 'seed is "1"; it must be a whole number'),
        ({"colour": "red"}, "field colour is unknown"),
        ({"device": "XC7A35T"}, "device is 'XC7A35T'; one of LFE5U-25F"),
        ({"file": "../../etc/passwd"}, "file is '../../etc/passwd'; it must be a name without folders"),
    ],
)
def test_a_manifest_that_is_none(nomul: Nomul, bench, change: dict[str, object], message: str):
    folder = bench()
    path = folder / "ulx3s-85f-link.json"
    found = json.loads(path.read_text()) | change
    kept = {key: value for key, value in found.items() if value is not None or key in ("memory", "core", "geometry")}
    path.write_text(json.dumps(kept))
    assert message in nomul("flash", "ulx3s-85f", "--config", "link").failed()
    path.write_text("{")
    assert "is not valid JSON" in nomul("flash", "ulx3s-85f", "--config", "link").failed()


# The same with an executable behind it: command line, loader, process, its words.


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """A bitstream on the shelf, and an executable that says what openFPGALoader said."""
    (tmp_path / "program").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'program'}:{os.environ['PATH']}")
    monkeypatch.setattr(loading, "_USB", tmp_path / "no-usb")
    _shelf(tmp_path, monkeypatch)()
    return Fake(tmp_path / "program")


def test_a_whole_run(nomul: Nomul, fake: Fake, tmp_path: Path):
    file = str(tmp_path / "ulx3s-85f-link/ulx3s-85f-link.bit")
    shown = nomul("flash", "ulx3s-85f", "--config", "link")
    assert (shown.status, shown.err) == (0, "")
    assert "ulx3s-85f-link.bit is running, until it is switched off" in shown.out
    shown = nomul("flash", "ulx3s-85f", "--config", "link", "--persist", "--cable", "ft232")
    assert shown.status == 0, shown.err
    assert "ulx3s-85f-link.bit is in its flash, read back and equal" in shown.out
    assert fake.calls == [
        ["--Version"],
        ["--board", "ulx3s", "--detect"],
        ["--board", "ulx3s", "--write-sram", file],
        ["--Version"],
        ["--cable", "ft232", "--detect"],
        ["--cable", "ft232", "--write-flash", "--verify", file],
    ]


@pytest.mark.parametrize(
    ("options", "said", "message"),
    [
        ((), {"write_sram": ("sram-fail", 1)},
         "openFPGALoader failed: Error: Failed to program FPGA: std::exception; the chip is not configured: do it "
         "again"),
        ((), {"detect": ("no-cable", 1)},
         "no cable (0403:6015): plug the board in, with a cable that carries data"),
        ((), {"Version": ("no-usb-library", 127)},
         "openFPGALoader: libusb-1.0.so.0 is missing: apt-get install libusb-1.0-0"),
        ((), {"detect": ("detect-25f", 0)},
         "ulx3s-85f-link.bit is for LFE5U-85F (0x41113043), the board has LFE5U-25F (0x41111043); name the board that "
         "is attached"),
        (("--persist",), {"write_flash": ("flash-verify-fail", 1)},
         "the flash is not what was written: it differs at byte 70,144; the flash may be half written: do it again "
         "before the board is switched off"),
        (("--persist",), {"write_flash": ("flash-unverified", 0)},
         "openFPGALoader does not say that it has read the flash back, but 'Refresh: DONE'; the flash may be half "
         "written: do it again before the board is switched off"),
    ],
)  # fmt: skip
def test_a_whole_run_that_fails(
    nomul: Nomul, fake: Fake, options: tuple[str, ...], said: dict[str, tuple[str, int]], message: str
):
    fake.says(**said)
    assert nomul("flash", "ulx3s-85f", "--config", "link", *options).failed() == f"nomul: {message}"
    written = [word for call in fake.calls for word in call if word.startswith("--write")]
    assert bool(written) == any(name.startswith("write") for name in said)  # else the chip is left as it was
