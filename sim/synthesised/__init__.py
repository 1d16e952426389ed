# SPDX-License-Identifier: Apache-2.0
"""What synthesis makes of a component, as Verilog that a simulator takes: ECP5 cells instead of Amaranth's text."""

from .netlist import CELLS, netlist_verilog

__all__ = ["CELLS", "netlist_verilog"]
