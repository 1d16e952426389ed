# SPDX-License-Identifier: Apache-2.0
"""From Amaranth to Verilog, and through yosys and nextpnr to figures and bitstreams."""
