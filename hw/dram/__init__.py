# SPDX-License-Identifier: Apache-2.0
"""External memory: parts and boards, LiteDRAM's controller for them, and the way to it from a memory port.

LiteX and Migen are imported by :mod:`nomul.hw.dram.litex` alone, which runs in a process of its own.
"""
