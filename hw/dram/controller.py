# SPDX-License-Identifier: Apache-2.0
"""LiteDRAM's controller as Verilog: what to make, and the text with what is to be known about it.

The text is made once for each set of settings, below ``build/dram``, in a process of its own: LiteX keeps
state in modules and prints.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from nomul.hw.build.tools import build_folder
from nomul.model.dram_control import DramControl, InitStep
from nomul.model.errors import NomulError

from .boards import DramBoard

__all__ = ["Controller", "Settings", "available", "generate", "packages"]

_PACKAGES = ("litedram", "litex", "migen")
_LIMIT_S = 120


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the controller works; the defaults are the fastest (``docs/dram.md``).

    Attributes
    ----------
    datasheet : bool
        Timings of :mod:`nomul.hw.dram.parts`; else LiteDRAM's own table.
    ordered : bool
        The front end that looks ahead over banks (:class:`nomul.hw.dram.ordered.OrderedCore`); else LiteDRAM's
        crossbar, which waits for one bank before it goes to the next.
    refresh : bool
        Without, the memory forgets: for measurements.
    postponing : int
        Refreshes done at a time, 1 to 8.
    bare_refresh : bool
        A group of refreshes is precharged for once; else before each of them, as in LiteDRAM.
    buffer_depth : int
        Commands waiting at each bank, beside the one being served.
    buffered : bool
        A register behind them.
    auto_precharge : bool
        Rows are closed with their last access where the next one is known.
    read_time, write_time : int
        Cycles of reads (writes) after which waiting writes (reads) get their turn.
    """

    datasheet: bool = True
    ordered: bool = True
    refresh: bool = True
    postponing: int = 8
    bare_refresh: bool = True
    buffer_depth: int = 8
    buffered: bool = False
    auto_precharge: bool = True
    read_time: int = 32
    write_time: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.postponing <= 8:
            raise ValueError(f"Settings: postponing is {self.postponing}; a part allows 1 to 8")
        if self.buffer_depth < 2:
            raise ValueError(f"Settings: buffer_depth is {self.buffer_depth}; at least 2")


@dataclass(frozen=True, kw_only=True)
class Controller:
    """A controller's Verilog.

    Attributes
    ----------
    module : str
        Its name.
    verilog : str
        With everything below it, except the vendor's primitives or, with the model, the functions that hold
        the memory (``sim/dram/memory.h``).
    word_bytes : int
        Width of the user port ``user_port_*``.
    address_bits : int
        Of its word addresses.
    registers : dict
        Byte addresses on the bus ``wb_ctrl_*``, by LiteX's names.
    phy : dict
        Settings that controller and PHY agree on: ``nphases``, ``rdphase``, ``wrphase``, ``cl``, ``cwl``,
        ``read_latency``, ``write_latency``, ``dfi_databits``; settings of the read path, ``delays`` and
        ``bitslips``.
    timing : dict
        Timings in system cycles, by LiteDRAM's names.
    init : list of dict
        Steps that start the memory: :class:`~nomul.model.dram_control.InitStep`.
    """

    module: str
    verilog: str
    word_bytes: int
    address_bits: int
    registers: dict[str, int]
    phy: dict[str, int]
    timing: dict[str, int | None]
    init: list[dict[str, Any]]

    def control(self, board: DramBoard) -> DramControl:
        """What a host needs to bring the memory up; over a model of it there is no read path to be set."""
        path = "phy_dly_sel" in self.registers
        return DramControl(
            name=board.part.name, clock_hz=board.clock_hz, registers=self.registers,
            init=tuple(InitStep(**step) for step in self.init), phases=self.phy["nphases"],
            read_phase=self.phy["rdphase"], write_phase=self.phy["wrphase"],
            data_bits=board.part.data_bits, phase_bits=self.phy["dfi_databits"],
            delays=self.phy["delays"] if path else 1, bitslips=self.phy["bitslips"] if path else 1,
        )  # fmt: skip


def available() -> str | None:
    """Why no controller can be made, or ``None``."""
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: run pip install 'nomul[dram]'"
    return None


def packages() -> dict[str, str]:
    """Versions of what makes controllers."""
    return {name: metadata.version(name) for name in _PACKAGES}


def _key(request: str) -> str:
    """Of everything that the text depends on."""
    sources = [
        Path(__file__).with_name(name).read_text()
        for name in ("litex.py", "ordered.py", "refresh.py", "bank.sv")
    ]
    return hashlib.sha256("\0".join([request, *packages().values(), *sources]).encode()).hexdigest()[:16]


def generate(
    board: DramBoard, settings: Settings | None = None, *, model: bool, check: bool = False
) -> Controller:
    """The controller of a board.

    Parameters
    ----------
    board : DramBoard
    settings : Settings, optional
    model : bool
        With LiteDRAM's model of PHY and memory, at the settings of the board's PHY, instead of the PHY: for
        simulation. The module then has no pins, and takes clock and reset from ``clk`` and ``rst``.
    check : bool
        The model also checks the data sheet's timings, with ``$display`` of every violation. It slows down.

    Raises
    ------
    NomulError
        If LiteDRAM is not installed, or fails; with the end of what it printed.
    """
    missing = available()
    if missing is not None:
        raise NomulError(missing)
    request = json.dumps(
        {
            "board": dataclasses.asdict(board),
            "settings": dataclasses.asdict(settings or Settings()),
            "model": model,
            "check": check,
        },
        sort_keys=True,
    )
    folder = build_folder("dram", _key(request))
    result = folder / "controller.json"
    with open(folder / "lock", "w") as lock:  # two processes may want the same controller
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.is_file():
            _run(request, folder)
    return Controller(**json.loads(result.read_text()))


def _run(request: str, folder: Path) -> None:
    (folder / "request.json").write_text(request)
    log = folder / "litex.log"
    with open(log, "w") as output:
        try:
            status = subprocess.run(
                [sys.executable, "-m", "nomul.hw.dram.litex", "request.json", "part.json"],
                cwd=folder,
                env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_LIMIT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            raise NomulError(f"LiteDRAM: not done within {_LIMIT_S} s; see {log}") from None
    if status:
        lines = log.read_text(errors="replace").strip().splitlines() or [f"exit status {status}"]
        raise NomulError(f"LiteDRAM: {lines[-1]}; see {log}")
    (folder / "part.json").replace(folder / "controller.json")
