# SPDX-License-Identifier: Apache-2.0
"""Boards at ports: what they run is known by its bitstream, and the model is compiled for that."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from golden_board import GoldenBoard, Wire

from nomul.host.bench.session import Settings, target_of
from nomul.host.cli import attached, flashing
from nomul.host.cli.attached import compiled, running
from nomul.host.deployment import Deployment
from nomul.hw.boards.registry import find_board
from nomul.hw.dram.boards import BOARDS
from nomul.model.core_config import CoreConfig
from nomul.model.dram_control import DramControl
from nomul.model.errors import NomulError
from nomul.model.fold import fold
from nomul.model.geometry import Geometry
from nomul.model.manifest import Manifest
from nomul.model.random_checkpoint import random_checkpoint
from nomul.model.streamed_config import StreamedConfig

SMALL = Geometry(hidden=48, intermediate=64, layers=2, vocab=64)
LARGE = Geometry(hidden=64, intermediate=96, layers=3, vocab=80)
MODEL = fold(random_checkpoint(SMALL, 5))
TIMING = {"fmax_mhz": 100.0, "worst_slack_ns": 1.0, "clocks": []}
PLAIN = {"weights": "onchip", "lanes": 1, "engine": None, "bytes_per_beat": None}


def core(lanes: int) -> StreamedConfig:
    """Of a board, for models larger than the one that is run."""
    return StreamedConfig.for_geometry(
        LARGE, lanes=lanes, slots=2 * lanes, state="memory", word_bytes=16, memory_bytes=1 << 20, tile_outputs=32
    )


def manifest(name: str, design: bytes, config: CoreConfig | StreamedConfig | None, clock_hz: int) -> Manifest:
    board = find_board(name)
    memory = None
    if isinstance(config, StreamedConfig):
        control = DramControl(
            name=f"memory of {name}", clock_hz=clock_hz, registers={"sdram_dfii_control": 0}, phases=2, read_phase=0,
            write_phase=1, data_bits=16, phase_bits=32, delays=8, bitslips=4, init=(),
        )  # fmt: skip
        memory = {**control.as_dict(), "init": []}
    return Manifest(
        board=name, configuration="lanes8" if memory else "onchip" if config else "link", file="a.bit", size=4,
        sha256="00" * 32, device=board.device, package=board.package, speed=board.speed, design=design.hex(),
        sources="00" * 32, clock_hz=clock_hz, pll={}, link={"kind": "uart", "baud": 3_000_000}, loader=[], cables=[],
        memory=memory, core=None if config is None else asdict(config), geometry=None, timing=TIMING,
        area={}, seed=1, tools={}, command=f"nomul build {name} --seed 1",
    )  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Boards by ports, and the manifests of what they run."""
    released = tmp_path / "released"
    released.mkdir()
    monkeypatch.setattr(flashing, "_released", lambda: released)
    monkeypatch.setattr(flashing, "build_folder", lambda *parts: tmp_path / "built")
    ports: dict[str, GoldenBoard] = {}
    monkeypatch.setattr(attached, "open_transport", lambda name: Wire(ports[name]))

    def put(port: str, name: str, config: CoreConfig | StreamedConfig | None, design: bytes) -> None:
        made = StreamedConfig.for_geometry(SMALL, memory_bytes=1 << 16, state="memory", logits="memory")
        image = made.compile(MODEL)
        ports[port] = GoldenBoard(image, Deployment.of(image, made, design=design))
        ports[port].identity = replace(ports[port].identity, design=design)
        manifest(name, design, config, find_board(name).clock_hz).write(released / f"{name}-{port}.json")

    return put


def test_every_board_with_a_memory_gets_what_its_own_wants(desk):
    for k, name in enumerate(BOARDS):
        desk(f"port{k}", name, core(lanes=k % 4 + 1), bytes([k] * 8))
    for k, name in enumerate(BOARDS):
        found = compiled([f"port{k}"], MODEL, **PLAIN)
        assert found.config == core(lanes=k % 4 + 1)
        assert found.images[0].geometry == SMALL
        assert found.manifest is not None
        assert found.manifest.board == name
        assert DramControl.from_dict(found.manifest.memory).name == f"memory of {name}"


def test_options_may_not_say_otherwise(desk):
    desk("a", "ecpix5-85f", core(lanes=3), b"a" * 8)
    assert compiled(["a"], MODEL, **PLAIN | {"weights": "native", "lanes": 3}).config == core(lanes=3)
    for option, given, said in (
        ("lanes", 2, "--lanes 2: the board at a runs ecpix5-85f lanes8, which has 3; leave --lanes out"),
        ("weights", "axi", "--port axi: the board at a runs ecpix5-85f lanes8, which has native; leave --port out"),
        ("engine", "select", "--engine select: the board at a runs ecpix5-85f lanes8, which has table; leave"),
        ("bytes_per_beat", 4, "--bytes-per-beat 4: the board at a runs ecpix5-85f lanes8, which has 8; leave"),
    ):
        with pytest.raises(NomulError) as error:
            compiled(["a"], MODEL, **PLAIN | {option: given})
        assert str(error.value).startswith(said)


def test_a_model_that_is_too_large_for_the_board(desk):
    desk("a", "ecpix5-85f", replace(core(lanes=1), memory_bytes=1 << 12), b"a" * 8)
    with pytest.raises(NomulError, match=r"4,096|4096"):
        compiled(["a"], MODEL, **PLAIN)


def test_a_core_with_its_model_on_the_chip(desk):
    desk("a", "ulx3s-85f", CoreConfig(), b"chip" * 2)
    found = compiled(["a"], MODEL, **PLAIN)
    assert found.config == CoreConfig()
    with pytest.raises(NomulError, match=r"^boards: 2 of them; the board at a runs ulx3s-85f onchip, whose core runs"):
        compiled(["a", "b"], MODEL, **PLAIN)


def test_several_boards(desk):
    desk("a", "ecpix5-85f", core(lanes=2), b"a" * 8)
    desk("b", "ecpix5-85f", core(lanes=2), b"a" * 8)
    found = compiled(["a", "b"], MODEL, **PLAIN)
    assert [image.geometry.layers for image in found.images] == [1, 1]


def test_a_board_without_a_core(desk):
    desk("a", "ulx3s-85f", None, b"link" * 2)
    with pytest.raises(NomulError, match=r"^the board at a runs ulx3s-85f link, which has no core; load another"):
        compiled(["a"], MODEL, **PLAIN)


def test_a_board_that_nothing_is_known_of(desk, tmp_path: Path):
    """The core is then what options ask for; whether it is that, the driver finds out."""
    desk("a", "ulx3s-85f", None, b"what" * 2)
    (tmp_path / "released" / "ulx3s-85f-a.json").unlink()
    assert running("a") is None
    found = compiled(["a"], MODEL, **PLAIN)
    assert found.manifest is None
    assert isinstance(found.config, CoreConfig)


def test_here_nothing_is_asked():
    assert compiled(["golden"], MODEL, **PLAIN).manifest is None
    assert len(compiled(["sim", "sim"], MODEL, **PLAIN | {"weights": "native"}).images) == 2


def test_a_bench_is_of_the_core_that_the_board_has(desk):
    """Settings then say what was benched; a file of another design is not compared with it."""
    desk("a", "ecpix5-85f", core(lanes=3), b"a" * 8)
    desk("b", "ulx3s-85f", CoreConfig(), b"chip" * 2)
    settings, made, design = target_of(Settings(board="a"), MODEL)
    assert (settings.weights, settings.lanes, settings.bytes_per_beat, settings.dram) == ("native", 3, 8, "ecpix5-85f")
    assert made.config == core(lanes=3)
    assert design == (b"a" * 8).hex()
    settings, made, design = target_of(Settings(board="b"), MODEL)
    assert (settings.weights, settings.lanes, settings.dram) == ("onchip", 1, None)
    assert design == (b"chip" * 2).hex()
    with pytest.raises(NomulError, match=r"^--lanes 2: the board at a runs ecpix5-85f lanes8, which has 3"):
        target_of(Settings(board="a", weights="native", lanes=2), MODEL)
