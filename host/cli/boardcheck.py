# SPDX-License-Identifier: Apache-2.0
"""What ``nomul doctor --board`` asks: cable, identity, clock, memory, and a prompt whose tokens are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from serial.tools import list_ports

from nomul.host.bringup import bring_up
from nomul.host.checkup import check_memory, measure_clock
from nomul.host.deployment import Deployment
from nomul.host.driver import Board
from nomul.host.loader import Loader, attached, udev_rule
from nomul.host.transport import open_transport
from nomul.model.core_config import CoreConfig
from nomul.model.dram_control import DramControl
from nomul.model.errors import NomulError
from nomul.model.manifest import Manifest
from nomul.model.program import Image
from nomul.model.protocol import Region
from nomul.model.streamed_config import StreamedConfig
from nomul.model.usb import USB_IDS
from nomul.sim.golden import Golden

from .common import compile_for, load_any, tokenizer_for
from .flashing import core_of, find_bitstream, out_of_date

__all__ = ["check_board", "check_simulated"]

_PROMPT = "for line in f"
_TOKENS = 32
_CLOCK_S = 2.0
_CLOCK_SLACK = 1e-3  # oscillators of boards are better than 100 ppm, this machine's clock too

Check = dict[str, Any]
Run = Callable[[str, Callable[[], str]], bool]


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a board should be.

    Attributes
    ----------
    design : str
        Hexadecimal.
    clock_hz : int
    core : CoreConfig, StreamedConfig or None
    control : DramControl or None
        What it takes to bring its memory up.
    real : bool
        Its clock is a clock.
    """

    design: str
    clock_hz: int
    core: CoreConfig | StreamedConfig | None
    control: DramControl | None = None
    real: bool = True


def _cable(manifest: Manifest) -> str:
    found = attached(manifest.cables) if manifest.cables else None
    if found is None:
        return "not looked for: this system does not list its USB"
    if not found:
        raise NomulError(f"none: no USB device {' or '.join(manifest.cables)}; plug the board in")
    first = found[0]
    if not first.usable:
        raise NomulError(f"{first.ids} may not be opened; udev rule: {udev_rule(first.ids)}")
    return f"{first.ids} {first.product}".strip()


def _with_rate(port: str, manifest: Manifest) -> str:
    """A serial port at the rate of the board's bridge; a chip that is a USB device itself has none."""
    return f"{port}@{manifest.link['baud']}" if manifest.link["kind"] == "uart" else port


def _port(manifest: Manifest) -> str:
    """The one serial port of the board's cable, or of the chip where it is a USB device itself."""
    ids = manifest.cables if manifest.link["kind"] == "uart" else [USB_IDS]
    ports = sorted(
        port.device for port in list_ports.comports()
        if port.vid is not None and f"{port.vid:04x}:{port.pid:04x}" in ids
    )  # fmt: skip
    if len(ports) == 1:
        return _with_rate(ports[0], manifest)
    if not ports:
        raise NomulError(
            f"no serial port {' or '.join(ids)}; plug the board in, or name its port with --port"
        )
    # Of a bridge with two channels the first is JTAG.
    raise NomulError(f"{len(ports)} serial ports: {', '.join(ports)}; name the board's with --port")


def _identity(board: Board, wanted: _Wanted) -> str:
    identity = board.identity
    if identity.design.hex() != wanted.design:
        raise NomulError(
            f"it runs design {identity.design.hex()}, not {wanted.design}: load the bitstream with nomul flash"
        )
    if identity.clock_hz != wanted.clock_hz:
        raise NomulError(f"it says its clock is {identity.clock_hz:,} Hz, not {wanted.clock_hz:,} Hz")
    return f"design {wanted.design}, {identity.lanes} lane(s), {identity.bytes_per_beat} bytes a beat"


def _clock(board: Board, wanted: _Wanted) -> str:
    found = measure_clock(board, seconds=_CLOCK_S if wanted.real else 0.2)
    if not wanted.real:
        return f"{found.hz / 1e6:.3f} MHz while it works: it is simulated, and its clock stands when it is idle"
    off = abs(found.hz - wanted.clock_hz)
    told = (
        f"{found.hz / 1e6:.3f} MHz ± {found.error_hz / 1e6:.3f} measured over {found.seconds:.1f} s, "
        f"{wanted.clock_hz / 1e6:g} MHz wanted"
    )
    if off > found.error_hz + _CLOCK_SLACK * wanted.clock_hz:
        raise NomulError(f"{told}: another oscillator, or a PLL that is not locked")
    return told


def _bring_up(board: Board, wanted: _Wanted) -> str:
    if wanted.control is None:
        raise NomulError("the manifest does not say what its memory wants; build the bitstream again")
    eyes = bring_up(board, wanted.control, rng=np.random.default_rng(1))
    return "; ".join([wanted.control.name, *map(str, eyes)])


def _memory(board: Board) -> str:
    size = board.identity.memory_bytes
    tested = check_memory(board, size, rng=np.random.default_rng(1))
    return f"{tested:,} bytes in patterns over {size / (1 << 20):,.0f} MB right"


def _prompt(board: Board, image: Image, deployment: Deployment, prompt: list[int]) -> str:
    deployment.load(board)
    found = list(board.generate(prompt, _TOKENS))
    golden = Golden(image)
    golden.reset()
    wanted: list[int] = []
    token = 0
    for k in range(len(prompt) + _TOKENS - 1):
        token = golden.step(prompt[k] if k < len(prompt) else token).item()
        if k >= len(prompt) - 1:
            wanted.append(token)
    if found != wanted:
        at = next(k for k, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b)
        raise NomulError(f"token {at + 1} after {_PROMPT!r} is {found[at]}, golden's is {wanted[at]}")
    return f"{len(wanted)} tokens after {_PROMPT!r} equal golden's"


def _ask(run: Run, board: Board, wanted: _Wanted, model: str | None) -> None:
    """The checks of a board that has answered."""
    if not run("identity", lambda: _identity(board, wanted)):
        return
    run("fabric clock", lambda: _clock(board, wanted))
    if board.identity.region_bytes[Region.CONTROL] and not run("bring-up", lambda: _bring_up(board, wanted)):
        return
    if board.identity.memory_bytes and not run("memory", lambda: _memory(board)):
        return
    if wanted.core is None:
        return
    core = wanted.core

    def prompt() -> str:
        loaded = load_any(model)
        image: Image
        if isinstance(core, StreamedConfig):
            image = core.compile(loaded.model)
        else:
            image, _ = compile_for(loaded.model, engine=core.engine, bytes_per_beat=core.bytes_per_beat)
        coder = tokenizer_for(loaded)
        ids = [coder.begin, *map(int, coder.encode(_PROMPT))]
        return _prompt(board, image, Deployment.of(image, core), ids)

    run("known prompt", prompt)


def _recorder(results: list[Check]) -> Run:
    """What runs a check and keeps what it found."""

    def run(name: str, check: Callable[[], str]) -> bool:
        try:
            results.append({"name": name, "ok": True, "needed": True, "found": check()})
        except NomulError as error:
            results.append({"name": name, "ok": False, "needed": True, "found": str(error)})
        return bool(results[-1]["ok"])

    return run


def check_board(name: str, configuration: str, port: str | None, model: str | None) -> list[Check]:
    """All checks of a board; after one without which the others mean nothing, those before it."""
    results: list[Check] = []
    run = _recorder(results)
    found: list[Manifest] = []

    def bitstream() -> str:
        path, manifest = find_bitstream(name, configuration)
        manifest.bitstream(path)
        stale = out_of_date(manifest)
        if stale is not None:
            raise NomulError(stale)
        found.append(manifest)
        return f"{manifest.file}, {manifest.part}, routed at {manifest.timing['fmax_mhz']} MHz"

    if not run("bitstream", bitstream):
        return results
    (manifest,) = found
    control = None if manifest.memory is None else DramControl.from_dict(manifest.memory)
    wanted = _Wanted(
        design=manifest.design, clock_hz=manifest.clock_hz, core=core_of(manifest), control=control
    )
    run("openFPGALoader", lambda: Loader(manifest.loader, manifest.cables).version())
    if port is None:
        if manifest.link["kind"] == "uart":  # else the cable is a loader's, and the chip's USB may be all there is
            run("cable", lambda: _cable(manifest))
        if not run("port", lambda: _port(manifest)):
            return results
        port = results[-1]["found"]
    elif "://" not in port and "@" not in port:
        port = _with_rate(port, manifest)
    boards: list[Board] = []
    chosen = port

    def link() -> str:
        boards.append(Board(open_transport(chosen)))
        return chosen

    if run("link", link):
        with boards[0] as board:
            _ask(run, board, wanted, model)
    return results


def check_simulated(model: str | None) -> list[Check]:
    """The same of the simulated board, as far as it goes: it has no cable and no clock."""
    from nomul.hw.build.design import NOMINAL_CLOCK_HZ
    from nomul.sim.board import BoardProcess

    from .board import built_board

    results: list[Check] = []
    run = _recorder(results)
    core = CoreConfig()
    design, program = built_board(core)
    wanted = _Wanted(design=design.hex(), clock_hz=NOMINAL_CLOCK_HZ, core=core, real=False)
    with BoardProcess(program) as process, Board(open_transport(process.port)) as board:
        _ask(run, board, wanted, model)
    return results
