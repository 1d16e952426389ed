# SPDX-License-Identifier: Apache-2.0
"""From a component to Verilog."""

from __future__ import annotations

import os

from amaranth.back import verilog
from amaranth.hdl import Elaboratable

from .tools import export_environment

__all__ = ["convert"]


def convert(component: Elaboratable, name: str) -> str:
    """Verilog of a component, its top module called ``name``.

    The text holds no paths and no dates: the same component gives the same text on every machine.
    """
    os.environ.update(export_environment())  # Amaranth offers no other way to choose its Yosys
    return str(verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True))
