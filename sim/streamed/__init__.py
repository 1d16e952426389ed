# SPDX-License-Identifier: Apache-2.0
"""The streamed core in Verilator, against an ideal memory or behind a controller: whole tokens of published sizes."""

from .run import Lane, StreamedSimulation, TokenResult

__all__ = ["Lane", "StreamedSimulation", "TokenResult"]
