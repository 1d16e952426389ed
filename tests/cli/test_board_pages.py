# SPDX-License-Identifier: Apache-2.0
"""The commands on the boards' pages exist, take their options, and are those that work for the board."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from test_readme import ROOT, commands, parse, words

from nomul.hw.boards.board import UartLink
from nomul.hw.boards.registry import BOARDS

PAGES = sorted((ROOT / "docs/boards").glob("*.md"))
SHOWN = [(page.stem, line) for page in PAGES for line in commands(page.read_text())]
OWNERS = [page for page in PAGES if page.stem != "README"]
CHIP_DFU = {"orangecrab-r0.2-85f": "1209:5af0", "butterstick": "1209:5af1"}


def option(arguments: list[str], name: str, default: str = "") -> str:
    return next((value for key, value in pairwise(arguments) if key == name), default)


def built_for(page: str) -> dict[str, set[str]]:
    """Configurations by board, as the table of boards has them."""
    table = (ROOT / "docs/boards/README.md").read_text()
    (row,) = re.findall(rf"^\| \[[^]]*\]\({re.escape(page)}\.md\)(.*)$", table, re.M)
    cells = row.split("|")
    stem = re.findall(r"`([\w.-]+)`", cells[0])
    names = [name if name in BOARDS else f"{stem[0][:-4]}{name}" for name in stem]
    found = {name: {*re.findall(r"`(\w+)`", cells[-2])} for name in names}
    if page == "bare":
        found = {name: {"link", "onchip"} if name == "lfe5u-85f" else {"link"} for name in found}
    return found


def owners(page: str) -> list[list[str]]:
    """Words of the commands from the page's own heading on."""
    text = (ROOT / f"docs/boards/{page}.md").read_text()
    assert text.count("## The first owner's commands\n") == 1
    return [words(line) for line in commands(text.partition("## The first owner's commands\n")[2])]


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_command(page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pins.lpf").touch()
    program, *arguments = words(line)
    assert program == "nomul"
    parse(arguments)


@pytest.mark.parametrize("page", [page.stem for page in OWNERS])
def test_a_page_has_what_its_first_owner_needs(page: str):
    text = (ROOT / f"docs/boards/{page}.md").read_text()
    assert "**Nothing has been measured on " in text
    assert re.search(r"^- \*\*Buy\*\* .*?\]\(https://", text, re.M | re.S)
    for word in ("- **Connect** ", "| fits", "| expected", "*simulated*"):
        assert word in text
    for ids in [CHIP_DFU[page]] if page in CHIP_DFU else []:
        assert f"\ndfu-util --device {ids} " in text
    ran = owners(page)
    configurations = {option(line, "--config") for line in ran if line[1] == "flash"}
    assert "link" in configurations
    for configuration in configurations:
        for command in ("build", "flash", "doctor"):
            assert any(line[1] == command and option(line, "--config") == configuration for line in ran)
    if page != "bare":
        assert sum(line[1] in ("run", "bench") for line in ran) == 2 * len(configurations - {"link"})


@pytest.mark.parametrize("page", [page.stem for page in OWNERS])
def test_an_owners_commands_are_those_of_the_board(page: str):
    known = built_for(page)
    name = configuration = ""
    for line in owners(page):
        command = line[1]
        if command in ("build", "flash") or (command == "doctor" and "--board" in line):
            name = option(line, "--board") or line[2]
            configuration = option(line, "--config")
            assert configuration in known[name], line  # never the default: not every board has it
        if command not in ("flash", "doctor", "run", "bench") or not name:
            continue
        board = BOARDS[name]
        uart = board.link if isinstance(board.link, UartLink) else None
        two = uart is not None and uart.chip == "FT2232H"  # JTAG is the first channel, the link the second
        at = option(line, "--port" if command == "doctor" else "--board")
        if command == "flash":
            assert ("--cable" in line) == (uart is None or not board.loader), line
        elif command == "doctor":
            assert bool(at) == (two or (uart is not None and not board.cables)), line
        else:
            place = "ttyACM0" if uart is None else "ttyUSB1" if two else "ttyUSB0"
            rate = "@6000000" if two and configuration in ("onchip", "link") else ""
            assert at == f"/dev/{place}{rate}", line
        if command in ("run", "bench"):
            assert "--port" not in line  # what the board has, its manifest says
            assert "--lanes" not in line
