# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""From a board to a bitstream: the same bytes wherever, its manifest, and what is said when it can't be made."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import ClockDomain, Module

from nomul.hw.boards.bare import BARE
from nomul.hw.boards.configurations import board_top
from nomul.hw.boards.lights import Lights
from nomul.hw.boards.pll import Clocks
from nomul.hw.boards.top import BoardTop
from nomul.hw.build import bitstream, synth, toolset
from nomul.hw.build.bitstream import Chip, board_sources, build, check_fit
from nomul.hw.build.timing import read_report
from nomul.hw.build.tools import build_folder
from nomul.hw.build.toolset import YOWASP, Toolset
from nomul.model.errors import NomulError
from nomul.model.manifest import read_manifest

BOARD = next(board for board in BARE if board.device == "LFE5U-25F")


class Blinky(BoardTop):
    """A board's clocks and lights."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains.sync = ClockDomain()
        m.submodules.clocks = clocks = Clocks(pll=self.pll, domains=["sync"])
        m.submodules.lights = lights = Lights(clock_hz=self.clock_hz)
        m.d.comb += [
            clocks.clk.eq(self.clk), self.heartbeat.eq(lights.heartbeat), lights.memory_ready.eq(1),
            self.ready.eq(lights.ready), self.tx_pin.eq(self.rx_pin),
        ]  # fmt: skip
        return m


def blinky(clock_hz: int = 90_000_000) -> Chip:
    whole = board_top(replace(BOARD, clock_hz=clock_hz), None)
    top = Blinky(board=whole.board, top=whole.top, clock_hz=clock_hz)
    return Chip(top=top, configuration="blinky", design=bytes(range(8)), core=None, geometry=None,
                command="nomul build lfe5u-25f --config blinky")  # fmt: skip


@pytest.fixture(autouse=True)
def collected():
    """Tops that were not made into hardware go here, not after the last test, where that would be an error."""
    yield
    gc.collect()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch):
    """Builds below folders of one's choice; the tools do not see /tmp."""
    made = []

    def enter(name: str) -> Path:
        root = build_folder("test-bitstream", f"{os.getpid()}-{name}")
        made.append(root)

        def folder(*parts: str) -> Path:
            path = root.joinpath(*parts)
            path.mkdir(parents=True, exist_ok=True)
            return path

        for module in (bitstream, synth):
            monkeypatch.setattr(module, "build_folder", folder)
        return root

    yield enter
    for root in made:
        shutil.rmtree(root, ignore_errors=True)


def test_two_folders_give_the_same_bytes_and_a_manifest_that_says_how(elsewhere):
    found = []
    for name in ("one", "another-and-longer"):
        root, stages = elsewhere(name), []
        built = build(blinky(), seeds=[3], seen=lambda stage, line, stages=stages: stages.append(stage))
        assert built.folder == root / "boards" / "lfe5u-25f-blinky"
        manifest = read_manifest(built.folder / "lfe5u-25f-blinky.json")
        assert manifest == built.manifest
        data = manifest.bitstream(built.folder / "lfe5u-25f-blinky.json")
        found.append((data, manifest, (built.folder / "report.json").read_bytes()))
        assert {"yosys.log", "nextpnr.log", "ecppack.log", "pins.lpf", "board.v"} <= set(os.listdir(built.folder))
        assert stages[0] == "generating Verilog"
        assert "placing and routing, seed 3" in stages
        assert stages[-1] == "packing"
    assert found[0] == found[1]
    data, manifest, _ = found[0]
    assert b"LFE5U-25F-6CABGA381" in data[:200]
    assert manifest.part == "LFE5U-25F-6CABGA381"
    assert manifest.sha256 == hashlib.sha256(data).hexdigest()
    assert manifest.clock_hz == 90_000_000
    assert manifest.command == "nomul build lfe5u-25f --config blinky --seed 3 --placer heap --tools yowasp"
    assert manifest.timing["worst_slack_ns"] > 0
    assert manifest.timing["fmax_mhz"] > 90
    (clock,) = manifest.timing["clocks"]
    assert abs(clock["wanted_mhz"] - 90) < 0.01
    assert manifest.area["EHXPLLL"]["used"] == 1
    assert set(manifest.units) <= {"link", "between"}  # it has no core
    assert manifest.units["between"]["ff"] == manifest.area["TRELLIS_FF"]["used"]
    assert manifest.sources == board_sources(blinky(), manifest.tools)
    assert manifest.sources != board_sources(blinky(), {**manifest.tools, "yosys": "another"})

    # The other placer: another placement, which its command says.
    placed = build(blinky(), seeds=[3], placer="static").manifest
    assert placed.sha256 != manifest.sha256
    assert placed.command == "nomul build lfe5u-25f --config blinky --seed 3 --placer static --tools yowasp"
    assert placed.timing["worst_slack_ns"] > 0

    # Too fast a clock: what is in the way, in words, after every seed.
    with pytest.raises(NomulError) as refused:
        build(blinky(400_000_000), seeds=[1, 2], jobs=2)
    text = str(refused.value)
    assert text.startswith("lfe5u-25f-blinky: timing is not met: ")
    assert " MHz of 400.0 MHz wanted, " in text
    assert " ns too slow, with the best of 2 seed(s), " in text
    assert "; the longest path goes from lights (count" in text
    assert " levels and routing " in text
    assert text.endswith(f"; try other seeds; logs are in {root / 'boards' / 'lfe5u-25f-blinky'}")
    assert "400.00" in (root / "boards" / "lfe5u-25f-blinky" / "nextpnr.log").read_text()


def test_what_does_not_fit_is_too_large_by_so_much():
    with pytest.raises(NomulError, match=r"^core: needs 60 block RAMs, an LFE5U-25F has 56: 4 too many; "):
        check_fit("core", "LFE5U-25F", {"DP16KD": 60, "LUT4": 7})
    check_fit("core", "LFE5U-45F", {"DP16KD": 60, "LUT4": 7})


class Routed(Toolset):
    """A nextpnr that says of each seed what a test wants."""

    def __init__(self, clocks: dict[int, float], log: str = ""):
        super().__init__("yowasp")
        self.__dict__.update(clocks=clocks, log=log, tried=[])

    def run(self, name: str, *arguments: str, folder: Path, log: str, limit_s: float, seen=None, stop=None) -> None:
        if name == "yosys":
            return YOWASP.run(name, *arguments, folder=folder, log=log, limit_s=limit_s, seen=seen)
        (folder / log).write_text(self.log)
        if name == "ecppack":
            (folder / "part.bit").write_bytes(b"bits")
            return None
        if self.log:
            raise NomulError("nextpnr-ecp5 failed: ERROR: Unable to find a placement location")
        seed = int(arguments[arguments.index("--seed") + 1])
        self.tried.append(seed)
        wanted = 90.0 if 'FREQUENCY PORT "clk" 25' in (folder / "pins.lpf").read_text() else 12.0
        (folder / "part.config").write_text("")
        report(folder, fmax={"sync": {"achieved": self.clocks[seed], "constraint": wanted}}, critical_paths=[])
        return None


def test_seeds_are_tried_until_one_meets_timing(elsewhere):
    elsewhere("seeds")
    tools = Routed({4: 80.0, 9: 95.0, 1: 99.0})
    built = build(blinky(), seeds=[4, 9, 1], tools=tools)
    assert tools.tried == [4, 9]
    assert built.manifest.seed == 9
    assert built.manifest.timing["fmax_mhz"] == 95.0


def test_more_luts_than_there_are(elsewhere):
    root = elsewhere("luts")
    log = "Info: Device utilisation:\nInfo: \t  TRELLIS_IO:  5/ 197  2%\nInfo: \t  TRELLIS_COMB:  30000/ 24288  123%\n"
    with pytest.raises(NomulError, match=r"^lfe5u-25f-blinky: needs 30,000 LUT4s, an LFE5U-25F has 24,288: 5,712 too"):
        build(blinky(), seeds=[1], tools=Routed({}, log))
    assert (root / "boards" / "lfe5u-25f-blinky" / "nextpnr.log").read_text() == log


@pytest.mark.parametrize("lines", ["", 'LOCATE COMP "clk" SITE "P3";\n', "# FREQUENCY is not said\n"])
def test_pins_of_ones_own_without_a_clock(elsewhere, lines: str):
    """nextpnr would aim at 12 MHz."""
    elsewhere("pins")
    built = build(blinky(), seeds=[1], tools=Routed({1: 91.0}), constraints=lines)
    assert built.manifest.timing["clocks"] == [{"wanted_mhz": 90.0, "routed_mhz": 91.0}]
    pins = (built.folder / "pins.lpf").read_text()
    assert pins.startswith(lines)
    assert pins.endswith('FREQUENCY PORT "clk" 25.000000 MHZ;\n')


def test_pins_of_ones_own_with_another_clock(elsewhere):
    elsewhere("clock")
    with pytest.raises(NomulError, match=r"clock is 90 MHz, by the constraints it is 12 MHz; they want FREQUENCY PORT"):
        build(blinky(), seeds=[1], tools=Routed({1: 91.0}), constraints='FREQUENCY PORT "clk" 10 MHZ;\n')


def report(tmp_path: Path, **changes: object) -> Path:
    """A report as nextpnr writes it."""
    path = [
        {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "top.core.vector.x_TRELLIS_FF_Q_3"}, "to": {}},
        {"type": "routing", "delay": 2.0, "from": {}, "to": {}},
        {"type": "logic", "delay": 0.25, "from": {}, "to": {}},
        {"type": "routing", "delay": 1.5, "from": {}, "to": {}},
        {"type": "setup", "delay": 0.25, "from": {}, "to": {"cell": "top.core.engine.sums.3_LUT4_Z"}},
    ]
    made = {
        "fmax": {"slow": {"achieved": 100.0, "constraint": 50.0}, "fast": {"achieved": 200.0, "constraint": 250.0}},
        "critical_paths": [
            {"from": "posedge slow", "to": "posedge fast", "path": []},
            {"from": "posedge fast", "to": "posedge fast", "path": path},
        ],
        "utilization": {"DP16KD": {"used": 3, "available": 56}},
    } | changes
    file = tmp_path / "report.json"
    file.write_text(json.dumps(made))
    return file


def test_a_report_in_words(tmp_path: Path):
    found = read_report(report(tmp_path))
    assert [clock.name for clock in found.clocks] == ["fast", "slow"]
    assert found.worst.slack_ns == pytest.approx(-1.0)
    assert not found.met
    assert found.clocks[1].slack_ns == pytest.approx(10.0)
    assert found.clocks[1].path is None
    assert str(found.worst.path) == (
        "from top.core.vector (x) to top.core.engine.sums (3): 4.50 ns, logic 1.00 ns through 1 levels "
        "and routing 3.50 ns"
    )
    assert found.area == {"DP16KD": (3, 56)}


def test_paths_between_related_clocks_are_judged(tmp_path: Path):
    """By the faster one's period; others are not, whatever they take."""
    path = [
        {"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a.x_TRELLIS_FF_Q"}, "to": {}},
        {"type": "routing", "delay": 4.5, "from": {}, "to": {"cell": "b.y_TRELLIS_FF_Q"}},
    ]
    made = report(
        tmp_path,
        fmax={name: {"achieved": 200.0, "constraint": mhz} for name, mhz in (("one", 60.0), ("two", 120.0))}
        | {"other": {"achieved": 300.0, "constraint": 250.0}},
        critical_paths=[
            {"from": f"posedge {begin}", "to": f"posedge {end}", "path": path}
            for begin, end in (("one", "two"), ("two", "other"), ("<async>", "two"))
        ],
    )
    assert read_report(made).worst.name == "other"
    found = read_report(made, [(60_000_000, 120_000_000)])
    assert [clock.name for clock in found.clocks] == ["other", "two", "one to two", "one"]
    assert found.clocks[2].slack_ns == pytest.approx(1e3 / 120 - 5.0)
    assert str(found.clocks[2].path).startswith("from a (x) to b (y): 5.00 ns")


def test_a_report_without_a_clock(tmp_path: Path):
    with pytest.raises(NomulError, match=r"^nextpnr: found no clock"):
        read_report(report(tmp_path, fmax={}))


def fake(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_native_tools_where_all_of_them_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for cached in (toolset._native_version, toolset.tool):
        cached.cache_clear()
    assert toolset.toolset().kind == "yowasp"
    with pytest.raises(NomulError, match=r"^yosys is not on the path; leave --tools out"):
        toolset.toolset("native")
    for name in ("yosys", "nextpnr-ecp5", "ecppack"):
        fake(tmp_path, name, f'echo "{name} 1.2 $1"')
    found = toolset.toolset()
    assert found == Toolset("native")
    assert found.versions == {
        "yosys": "yosys 1.2 -V", "nextpnr-ecp5": "nextpnr-ecp5 1.2 --version", "ecppack": "ecppack 1.2 --version",
    }  # fmt: skip
    assert toolset.toolset("yowasp").kind == "yowasp"
    seen: list[str] = []
    found.run("ecppack", "a", folder=tmp_path, log="log", limit_s=10, seen=seen.append)
    assert seen == ["ecppack 1.2 a"]
    assert (tmp_path / "log").read_text() == "ecppack 1.2 a\n"
    toolset.tool.cache_clear()


def test_a_tool_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    toolset.tool.cache_clear()
    fake(tmp_path, "yosys", "echo fine; echo ERROR: no such cell; echo more; exit 3")
    fake(tmp_path, "ecppack", "echo begun; exec sleep 60")
    with pytest.raises(NomulError, match=r"^yosys failed: ERROR: no such cell \(see .*log\)$"):
        Toolset("native").run("yosys", folder=tmp_path, log="log", limit_s=10)
    with pytest.raises(NomulError, match=r"^ecppack took longer than 1 s; its output is in .*log$"):
        Toolset("native").run("ecppack", folder=tmp_path, log="log", limit_s=1)
    assert (tmp_path / "log").read_text() == "begun\n"
    toolset.tool.cache_clear()
