# SPDX-License-Identifier: Apache-2.0
"""A line that harms bytes, stalls and vanishes."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from nomul.host.transport import LostError, Transport

__all__ = ["FaultyLine"]

BYTES = ("drop", "duplicate", "delay", "reorder", "flip")


@dataclass(kw_only=True)
class FaultyLine:
    """What :class:`~nomul.host.connection.Connection` takes to open a board behind such a line.

    Attributes
    ----------
    connect : callable
        Opens the byte stream that is spoilt.
    rng : random.Random
    rate : float
        Probability, for each byte in each direction, of each of ``BYTES``.
    stalls, vanishes : float
        Probability for each write: nothing passes for a while; the line is gone for a while.
    away_s : float
        The longest such while.
    harm : dict
        What happened so far.
    """

    connect: Callable[[], Transport]
    rng: random.Random
    rate: float = 1e-3
    stalls: float = 0.0
    vanishes: float = 0.0
    away_s: float = 0.3
    harm: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys((*BYTES, "stall", "vanish"), 0)
    )
    away_until: float = 0.0

    def __call__(self) -> Transport:
        if time.monotonic() < self.away_until:
            raise LostError("line: does not open (unplugged); is a board attached?")
        return _Faulty(self, self.connect())

    def happens(self, harm: str, probability: float) -> bool:
        happened = self.rng.random() < probability
        self.harm[harm] += happened
        return happened


class _Faulty:
    def __init__(self, line: FaultyLine, inner: Transport):
        self.line, self.inner = line, inner
        self.ways: dict[str, deque[tuple[float, bytes]]] = {"out": deque(), "in": deque()}
        self.stalled = 0.0

    def _spoil(self, way: str, data: bytes) -> None:
        """Queues what becomes of bytes, with the time at which it arrives."""
        line, queue = self.line, self.ways[way]
        due = max(time.monotonic(), self.stalled, queue[-1][0] if queue else 0.0)
        out, k = bytearray(), 0
        while k < len(data):
            byte = data[k : k + 1]
            if line.happens("reorder", line.rate) and k + 1 < len(data):
                byte, k = data[k + 1 : k + 2] + byte, k + 1
            k += 1
            if line.happens("drop", line.rate):
                continue
            if line.happens("flip", line.rate):
                byte = bytes([byte[0] ^ 1 << line.rng.randrange(8)]) + byte[1:]
            if line.happens("duplicate", line.rate):
                byte += byte
            if line.happens("delay", line.rate):
                queue.append((due, bytes(out)))
                out.clear()
                due += line.rng.uniform(0.001, 0.05)
            out += byte
        queue.append((due, bytes(out)))

    def _arrived(self, way: str) -> bytes:
        found, queue, now = b"", self.ways[way], time.monotonic()
        while queue and queue[0][0] <= now:
            found += queue.popleft()[1]
        return found

    def _move(self) -> None:
        data = self._arrived("out")
        if data:
            self.inner.write(data)

    def write(self, data: bytes) -> None:
        line = self.line
        if line.happens("vanish", line.vanishes):
            line.away_until = time.monotonic() + line.rng.uniform(0, line.away_s)
            self.inner.close()
        if time.monotonic() < line.away_until:
            raise LostError("line: the board is gone (unplugged); attach or start it again")
        if line.happens("stall", line.stalls):
            self.stalled = time.monotonic() + line.rng.uniform(0, line.away_s)
        self._spoil("out", data)
        self._move()

    def read(self, timeout_s: float) -> bytes:
        end = time.monotonic() + timeout_s
        while True:
            self._move()
            left = end - time.monotonic()
            data = self.inner.read(max(0.0, min(left, 0.002)))
            if data:
                self._spoil("in", data)
            found = self._arrived("in")
            if found or left <= 0:
                return found

    def flush(self) -> None:
        self.inner.flush()
        self.ways["in"].clear()

    def close(self) -> None:
        self.inner.close()
