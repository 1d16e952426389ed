# SPDX-License-Identifier: Apache-2.0
"""LiteDRAM's controller with its model of memory, Verilated: program, and benchmark."""

from .build import DRAM_SOURCES, build_dram
from .process import Access, DramRun, run_dram

__all__ = ["DRAM_SOURCES", "Access", "DramRun", "build_dram", "run_dram"]
