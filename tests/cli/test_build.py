# SPDX-License-Identifier: Apache-2.0
"""``nomul build``: what is asked for, and what is refused before anything is made."""

from __future__ import annotations

import gc
import io
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from outcome import Nomul
from rich.console import Console

from nomul.host.cli import building
from nomul.host.cli.building import placer_of
from nomul.host.cli.released import released
from nomul.hw.boards.registry import BOARDS
from nomul.hw.build.bitstream import Chip
from nomul.hw.build.toolset import YOWASP
from nomul.model.errors import NomulError
from nomul.model.manifest import read_manifest


@pytest.fixture(autouse=True)
def collected():
    """Tops that were not made into hardware go here, not after the last test, where that would be an error."""
    yield
    gc.collect()


class Asked(Exception):
    """What would have been built."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Nothing is built; what was asked for is kept."""
    seen: dict[str, object] = {}

    def build(chip: Chip, **options: object) -> None:
        seen.update(chip=chip, **options)
        raise NomulError("not now")

    monkeypatch.setattr(building, "build", build)
    return seen


def test_lists_boards_and_configurations(nomul: Nomul):
    shown = nomul("build", "--list")
    assert shown.status == 0
    assert all(f"\n{name} " in f"\n{shown.out}" for name in [*BOARDS, "onchip", "lanes8", "link"])
    listed = nomul("build", "--list", "--json").json
    assert listed["boards"]["ulx3s-85f"]["part"] == "LFE5U-85F-6CABGA381"


def test_the_shipped_model_on_the_chip(nomul: Nomul, asked: dict[str, object]):
    assert "not now" in nomul("build", "ulx3s-85f").failed()
    chip = asked["chip"]
    assert isinstance(chip, Chip)
    assert chip.name == "ulx3s-85f-onchip"
    assert chip.core is not None
    assert chip.core["weight_beats"] == 8192
    assert chip.top.clock_hz == chip.top.top.link.identity.clock_hz == 90_000_000
    assert chip.top.top.link.identity.design == chip.design
    assert [*asked["seeds"]] == [*range(1, 9)]
    assert chip.command == "nomul build ulx3s-85f --config onchip"


def test_the_released_seed_comes_first(nomul: Nomul, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    """It met timing once; the others keep their order."""
    nomul("build", "ecpix5-85f", "--config", "link", "--seeds", 3)
    assert asked["seeds"] == [1, 2, 3]
    first = replace(read_manifest(next(path for path in released() if path.stem == "ecpix5-85f-link")), seed=5)
    monkeypatch.setattr(building, "read_manifest", lambda path: first)
    nomul("build", "ecpix5-85f", "--config", "link", "--seeds", 3)
    assert asked["seeds"] == [5, 1, 2]
    nomul("build", "lfe5u-25f", "--config", "link", "--seeds", 3)  # none is released
    assert asked["seeds"] == [1, 2, 3]


def test_seeds_at_once(nomul: Nomul, asked: dict[str, object], monkeypatch: pytest.MonkeyPatch):
    """One for each core; one where the first is known to meet timing, because the same was built before."""
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    found = read_manifest(next(path for path in released() if path.stem == "ecpix5-85f-link"))
    other, placed = replace(found, sources="0" * 64), found.command + " --placer static"
    for manifest, more, jobs in (
        (found, [], 1), (found, ["--jobs", 3], 3), (found, ["--placer", "static"], 5), (other, [], 5),
        (replace(found, command=placed), ["--placer", "static"], 1),
    ):  # fmt: skip
        monkeypatch.setattr(building, "board_sources", lambda chip, tools: found.sources)
        monkeypatch.setattr(building, "read_manifest", lambda path, manifest=manifest: manifest)
        nomul("build", "ecpix5-85f", "--config", "link", *more)
        assert asked["jobs"] == jobs
    nomul("build", "lfe5u-25f", "--config", "link")
    assert asked["jobs"] == 5


def test_the_placer(nomul: Nomul, asked: dict[str, object]):
    """Of a configuration, or as asked for; a bitstream is made again with its own, those of before with HeAP."""
    placers = []
    for arguments in (["link"], ["lanes1"], ["lanes8"], ["lanes8", "--placer", "heap"], ["link", "--placer", "static"]):
        nomul("build", "ecpix5-85f", "--config", *arguments)
        placers.append(asked["placer"])
    assert placers == ["heap", "static", "static", "heap", "static"]
    manifest = read_manifest(released()[0])
    command = "nomul build ecpix5-85f --config lanes8 --seed 2"
    found = [placer_of(replace(manifest, command=command + more)) for more in (" --placer static --tools yowasp", "")]
    assert found == ["static", "heap"]


def test_sigterm_ends_a_build(nomul: Nomul, monkeypatch: pytest.MonkeyPatch):
    """As Ctrl-C does, through what ends the tools."""
    ended = []

    def build(chip: Chip, **options: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        finally:
            ended.append(chip)

    monkeypatch.setattr(building, "build", build)
    before = signal.getsignal(signal.SIGTERM)
    assert nomul("build", "ecpix5-85f", "--config", "link").status == 128 + signal.SIGTERM
    assert ended
    assert signal.getsignal(signal.SIGTERM) == before


def test_progress_without_a_terminal(capfd: pytest.CaptureFixture[str]):
    """A line when a stage begins, and one with its outcome; not those of the tools."""
    with building.shown_progress("chip", quiet=False) as seen:
        for stage, line in (
            ("synthesising", ""), ("synthesising", None), ("seed 1", ""), ("seed 2", ""), ("seed 1", "Info: a"),
            ("seed 2", "Info: b"), ("seed 1", "missed: 67.3 MHz"), ("seed 1", None), ("seed 2", "met"),
        ):  # fmt: skip
            seen(stage, line)
    assert capfd.readouterr().err.splitlines() == [
        "chip: synthesising", "chip: seed 1", "chip: seed 2", "chip: seed 1: missed: 67.3 MHz",
    ]  # fmt: skip
    with building.shown_progress("chip", quiet=True) as seen:
        seen("seed 1", "")
    assert capfd.readouterr().err == ""


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """A row for each seed that runs."""
    shown = Console(file=io.StringIO(), force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr(building, "Console", lambda **options: shown)
    with building.shown_progress("chip", quiet=False) as seen:
        seen("placing and routing, seed 1 (1 of 2)", "Info: Routing 10 arcs.")
        seen("placing and routing, seed 2 (2 of 2)", "Info: [1/2] HeAP")
    rows = shown.file.getvalue().splitlines()
    assert any("seed 1 (1 of 2)" in row and "Routing 10 arcs." in row for row in rows)
    assert any("seed 2 (2 of 2)" in row and "[1/2] HeAP" in row for row in rows)


def test_one_seed_and_another_model(nomul: Nomul, tiny: Path, asked: dict[str, object]):
    nomul("build", "ulx3s-85f", "--seed", 7, "--tools", "yowasp", "--model", tiny)
    assert asked["seeds"] == [7]
    assert asked["tools"] == YOWASP
    assert asked["chip"].command == f"nomul build ulx3s-85f --config onchip --model {tiny}"


def test_a_core_that_streams(nomul: Nomul, asked: dict[str, object]):
    nomul("build", "ecpix5-85f", "--config", "lanes8")
    chip = asked["chip"]
    assert (chip.core["lanes"], chip.core["hidden"], chip.core["memory_bytes"]) == (8, 1024, 1 << 29)
    assert chip.geometry["layers"] == 24
    assert chip.top.clock_hz == 75_000_000
    assert "ddram_dq[15]" in chip.top.constraints()


def test_pins_of_ones_own(nomul: Nomul, tmp_path: Path, asked: dict[str, object]):
    pins = tmp_path / "pins.lpf"
    pins.write_text('LOCATE COMP "clk" SITE "G2";\n')
    nomul("build", "lfe5u-25f", "--config", "link", "--lpf", pins)
    assert asked["constraints"] == pins.read_text()
    shown = nomul("build", "ulx3s-85f", "--config", "link", "--lpf", pins)
    assert shown.status == 2
    assert "the pins of ulx3s-85f are known" in shown.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["ulx3s"], "no board is called 'ulx3s'; did you mean ulx3s-85f or ulx3s-85f-32m?"),
        (["ulx3s-85f", "--config", "lanes4"], "no configuration is called 'lanes4'; did you mean lanes8 or lanes1?"),
        (["lfe5u-85f", "--config", "lanes8"], "lanes8 wants external memory for which there is a controller"),
        (["ulx3s-85f", "--model", "nothing"], "nothing: no such file or folder"),
    ],
)
def test_what_can_not_be_built(nomul: Nomul, arguments: list[str], part: str):
    assert part in nomul("build", *arguments).failed()


def test_without_a_board(nomul: Nomul):
    shown = nomul("build")
    assert shown.status == 2
    assert "name a board: one of ulx3s-85f" in shown.err
