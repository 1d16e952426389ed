# SPDX-License-Identifier: Apache-2.0
"""The simulated board: the Verilated chip as a process behind a pseudo-terminal."""

from .build import build_board
from .process import BoardProcess

__all__ = ["BoardProcess", "build_board"]
