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


# An escaped name with an index in it, as Amaranth calls the elements of arrays.
_INDEXED = re.compile(r"\\\S*\[\d+\]\S*")


def convert(component: Elaboratable, name: str) -> str:
    """Verilog of a component, its top module called ``name``.

    The text holds no paths and no dates: the same component gives the same text on every machine. Memories
    that begin with zeros are left without initial contents, which would be most of the text: nothing is read
    from them before it was written. Elements of an array are called ``name.3``, not ``name[3]``: yosys's ABC9 takes
    that for bit 3 of a wire ``name`` beside it, and joins their nets.
    """
    os.environ.update(export_environment())  # Amaranth offers no other way to choose its Yosys
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    text = _ZEROS.sub("", text)
    return _INDEXED.sub(lambda name: name[0].replace("[", ".").replace("]", ""), text)
