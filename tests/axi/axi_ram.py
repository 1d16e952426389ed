# SPDX-License-Identifier: Apache-2.0
"""The memory behind an AXI port under test: cocotbext-axi's, which checks the protocol too."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

from cocotb import start_soon
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge
from cocotbext.axi import AxiBus, AxiRam
from cocotbext.axi.axi_ram import AxiRamRead, AxiRamWrite


class Ram(AxiRam):
    """A memory whose answers take their time, and that refuses some words.

    ``latency``: least cycles from a read burst's address to its first word. Words are written
    ``lag`` cycles after they came at most.
    """

    def __init__(self, dut: Any, rng: random.Random, *, word_bytes: int, size: int):
        self.bad: set[int] = set()  # words
        self.latency = self.lag = 0
        self.cycle = 0
        self.read_bursts: list[tuple[int, int]] = []  # address and words
        self.write_bursts: list[tuple[int, int]] = []
        self.due: deque[int] = deque()
        self.most = 0  # read bursts on their way at the same time
        self.rng, self.clock, self.axi = rng, dut.clk, AxiBus.from_prefix(dut, "axi_")
        super().__init__(self.axi, self.clock, size=size)
        ram = self

        class Read(AxiRamRead):
            left = 0

            async def _read(self, address: int, length: int) -> bytes:
                if not self.left:
                    self.left = ram.read_bursts[-len(ram.due)][1]
                    due = ram.due.popleft()
                    while ram.cycle < due:
                        await RisingEdge(ram.clock)
                self.left -= 1
                if address // word_bytes in ram.bad:
                    raise ValueError("refused")
                return bytes(await super()._read(address, length))

        class Write(AxiRamWrite):
            async def _write(self, address: int, data: bytes) -> None:
                for _ in range(ram.rng.randint(0, ram.lag)):
                    await RisingEdge(ram.clock)
                if address // word_bytes in ram.bad:
                    raise ValueError("refused")
                await super()._write(address, data)

        self.read_if.__class__, self.read_if.left = Read, 0
        self.write_if.__class__ = Write
        self.read_if.ar_channel.queue_occupancy_limit = 64
        for part in (self.read_if, self.write_if):
            part.log.setLevel(logging.ERROR)
        start_soon(self._watch())

    async def _watch(self) -> None:
        """Bursts as they are taken, before the edge changes anything."""
        ar, aw, r = self.axi.read.ar, self.axi.write.aw, self.axi.read.r
        flying = 0
        while True:
            await FallingEdge(self.clock)
            await ReadOnly()
            self.cycle += 1
            if ar.arvalid.value and ar.arready.value:
                self.read_bursts.append((int(ar.araddr.value), int(ar.arlen.value) + 1))
                self.due.append(self.cycle + self.latency)
                flying += 1
            if r.rvalid.value and r.rready.value and r.rlast.value:
                flying -= 1
            self.most = max(self.most, flying)
            if aw.awvalid.value and aw.awready.value:
                self.write_bursts.append((int(aw.awaddr.value), int(aw.awlen.value) + 1))

    def stall(self, *probabilities: float) -> None:
        """Probability that a channel pauses in a cycle, one drawn for each channel."""
        def pauses(probability: float) -> Iterator[bool]:
            while True:
                yield self.rng.random() < probability

        w, r = self.write_if, self.read_if
        for channel in (w.aw_channel, w.w_channel, w.b_channel, r.ar_channel, r.r_channel):
            channel.set_pause_generator(pauses(self.rng.choice(probabilities)))
