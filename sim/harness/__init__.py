# SPDX-License-Identifier: Apache-2.0
"""What every testbench shares: stream drivers and monitors, packing, the simulator build.

A unit's test has two sides. pytest calls :func:`run`, which makes Verilog, builds a simulator and
runs a cocotb testbench in it; the testbench builds the same component from :func:`parameters` and
talks to it through a :class:`Bench`.
"""

from .bench import Bench, parameters
from .packing import pack_bits, unpack_bits
from .runner import run, seed

__all__ = ["Bench", "pack_bits", "parameters", "run", "seed", "unpack_bits"]
