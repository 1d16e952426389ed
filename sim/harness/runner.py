# SPDX-License-Identifier: Apache-2.0
"""The side of a test that pytest sees: Verilog, Verilator, one run of a cocotb testbench."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.lib import wiring
from cocotb_tools.runner import Verilator

from nomul.hw.build.tools import build_folder, verilator_environment, versions
from nomul.hw.build.verilog import convert
from nomul.sim.synthesised import CELLS, netlist_verilog

from .runtime import keep_runtime, runtime_flags

__all__ = ["run", "seed", "synthesised"]

_NETLIST_SLOWER = 10  # at most

# Amaranth's Verilog relies on extension, and its case statements are as it means them.
_WARNINGS = [
    "-Wno-WIDTHEXPAND", "-Wno-WIDTHTRUNC", "-Wno-UNOPTFLAT", "-Wno-CASEINCOMPLETE",
    "-Wno-MULTIDRIVEN", "-Wno-PROCASSINIT", "-Wno-PINMISSING",  # of the cells' models
]  # fmt: skip


def seed() -> int:
    """The one seed of all randomness: ``NOMUL_SEED``, by default 1."""
    return int(os.environ.get("NOMUL_SEED", "1"))


class _Runner(Verilator):
    """cocotb's Verilator runner with a time limit on the simulation, and testbenches that see ports alone."""

    limit_s = 300
    inside = False

    def _build_command(self) -> list[list[str]]:
        """Without the flag that makes every wire a variable for VPI; the control file names the ports."""
        if self.inside:
            return super()._build_command()
        return [[word for word in command if word != "--public-flat-rw"] for command in super()._build_command()]

    def _get_sim_cmd_prefix(self) -> list[str]:
        return ["timeout", "--kill-after=5", str(self.limit_s)]


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, and restores them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _ports(source: str, name: str) -> str:
    """A control file of Verilator's that shows the ports of the top module."""
    found = re.search(rf"^module {name}\s*\((.*?)\);", source, re.M | re.S)
    assert found is not None
    names = [port.strip().removeprefix("\\") for port in found[1].split(",")]
    lines = [f'public_flat_rw -module "{name}" -var "{port}"' for port in names]
    return "\n".join(["`verilator_config", *lines, ""])


def _tail(log: Path, lines: int = 60) -> str:
    text = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(text[-lines:])


def synthesised() -> bool:
    """Whether units are simulated as synthesis leaves them: ``NOMUL_SYNTHESISED`` is set."""
    return bool(os.environ.get("NOMUL_SYNTHESISED"))


def _build(component: wiring.Component, name: str, *, synthesis: bool, inside: bool) -> Path:
    """Folder with the simulator of a component, built once for each Verilog text and tool set."""
    source = netlist_verilog(component, name) + CELLS.read_text() if synthesis else convert(component, name)
    control = _ports(source, name)
    text = f"{source}{control}{sorted(versions().items())}{_WARNINGS}{inside}"
    key = hashlib.sha256(text.encode()).hexdigest()
    folder = build_folder("verilator", f"{name}-{key[:16]}")
    with open(folder / "lock", "w") as lock:  # two test processes may want the same simulator
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "built").is_file():
            return folder
        (folder / f"{name}.v").write_text(source)
        (folder / "ports.vlt").write_text(control)
        try:
            with _environment({"MAKEFLAGS": os.environ.get("MAKEFLAGS", "") + runtime_flags()}):
                runner = _Runner()
                runner.inside = inside
                runner.build(sources=[folder / "ports.vlt", folder / f"{name}.v"],
                             hdl_toplevel=name, build_dir=folder, timescale=("1ns", "1ps"),
                             build_args=_WARNINGS, log_file=folder / "build.log")
        except RuntimeError as error:
            log = _tail(folder / "build.log")
            raise RuntimeError(f"Verilator on {name}: {error}\n{log}") from None
        keep_runtime(folder)
        (folder / "built").touch()
    return folder


def run(
    component: wiring.Component,
    testbench: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    name: str | None = None,
    tests: str | None = None,
    synthesis: bool | None = None,
    inside: bool = False,
    limit_s: int = 300,
) -> None:
    """Simulates a component under a cocotb testbench; raises if any of its tests fails or none ran.

    The simulator is built in a folder of its own below ``build/`` and kept for the next run of the
    same Verilog. Log and results lie in a folder below it, named after testbench and parameters.

    Parameters
    ----------
    component : wiring.Component
        The device under test.
    testbench : str
        Module with the cocotb tests, importable from ``sys.path``: one beside the test file is.
    parameters : mapping, optional
        Anything JSON takes; the testbench reads it with :func:`nomul.sim.harness.parameters`.
    name : str, optional
        Name of the top module; default the component's class name in lower case.
    tests : str, optional
        Regular expression on the cocotb tests' full names; default all of them.
    synthesis : bool, optional
        Whether the ECP5 netlist is simulated, instead of what it is made from; default :func:`synthesised`.
    inside : bool
        Whether the testbench looks at more than ports, which makes every wire a variable.
    limit_s : int
        Wall-clock seconds that the simulation may take; that of a netlist, which is slower, ten times as many.

    Raises
    ------
    AssertionError
        If a cocotb test failed or the simulation ended without results; with the end of the log.
    """
    name = name or type(component).__name__.lower()
    synthesis = synthesised() if synthesis is None else synthesis
    text = json.dumps(dict(parameters or {}), sort_keys=True)
    with _environment(verilator_environment()):
        folder = _build(component, name, synthesis=synthesis, inside=inside)
        key = hashlib.sha256(f"{testbench}{text}{tests}".encode()).hexdigest()[:12]
        work = folder / f"{testbench.rsplit('.', 1)[-1]}-{key}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        results, log = work / "results.xml", work / "run.log"
        runner = _Runner()
        runner.limit_s = limit_s * (_NETLIST_SLOWER if synthesis else 1)
        with contextlib.suppress(RuntimeError, SystemExit):  # judged by the results, below
            runner.test(hdl_toplevel=name, hdl_toplevel_lang="verilog", test_module=testbench,
                        build_dir=folder, test_dir=work, results_xml=str(results), log_file=log,
                        seed=seed(), test_filter=tests,
                        extra_env={"NOMUL_PARAMETERS": text, "COCOTB_ANSI_OUTPUT": "0"})
    if not results.is_file():
        raise AssertionError(f"{testbench}: the simulation ended without results\n{_tail(log)}")
    cases = ElementTree.parse(results).getroot().findall(".//testcase")
    failed = [case.get("name") for case in cases
              if case.find("failure") is not None or case.find("error") is not None]
    ran = [case for case in cases if case.find("skipped") is None]
    if failed:
        raise AssertionError(f"{testbench}: {', '.join(map(str, failed))} failed "
                             f"(seed {seed()}, {work})\n{_tail(log)}")
    if not ran:
        raise AssertionError(f"{testbench}: no test ran\n{_tail(log)}")
