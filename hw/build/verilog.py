# SPDX-License-Identifier: Apache-2.0
"""From a component to Verilog."""

from __future__ import annotations

import os
import re

from amaranth.back import verilog
from amaranth.hdl import Elaboratable

from .tools import export_environment

__all__ = ["convert"]


# A memory that begins with zeros throughout: a line for every word of it.
_ZEROS = re.compile(r"  initial begin\n(?:    \S+\[\d+\] = \d+'h0+;\n)+  end\n")


def convert(component: Elaboratable, name: str) -> str:
    """Verilog of a component, its top module called ``name``.

    The text holds no paths and no dates: the same component gives the same text on every machine. Memories
    that begin with zeros are left without initial contents, which would be most of the text: nothing is read
    from them before it was written.
    """
    os.environ.update(export_environment())  # Amaranth offers no other way to choose its Yosys
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    return _ZEROS.sub("", text)
