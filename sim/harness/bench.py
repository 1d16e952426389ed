# SPDX-License-Identifier: Apache-2.0
"""The side of a test that runs inside the simulator: clock, reset, streams with random stalls."""

from __future__ import annotations

import json
import os
import random
from collections import deque
from collections.abc import Iterable
from typing import Any

import cocotb
from amaranth.lib import stream, wiring
from cocotb.clock import Clock
from cocotb.triggers import Event, FallingEdge, ReadOnly

from .packing import pack_bits, unpack_bits

__all__ = ["Bench", "parameters"]


def parameters() -> dict[str, Any]:
    """What the test passed to :func:`nomul.sim.harness.run` as ``parameters``."""
    loaded: dict[str, Any] = json.loads(os.environ["NOMUL_PARAMETERS"])
    return loaded


class _Port:
    """One stream of the device under test, seen from outside."""

    def __init__(self, dut: Any, path: str, shape: Any):
        self.path, self.shape = path, shape
        self.valid: Any = getattr(dut, f"{path}__valid", None)  # absent when tied to 1
        self.ready: Any = getattr(dut, f"{path}__ready", None)
        self.payload = getattr(dut, f"{path}__payload")
        self.width = len(self.payload)
        self.stall = 0.0
        self.rng = random.Random(f"{cocotb.RANDOM_SEED} {path}")
        self.times: list[int] = []
        self.done = Event()

    def fired(self) -> bool:
        return (self.valid is None or bool(self.valid.value)) and (
            self.ready is None or bool(self.ready.value))


class _Driver(_Port):
    """Offers queued words; holds each until it is taken, shows noise while it offers nothing."""

    def __init__(self, dut: Any, path: str, shape: Any):
        super().__init__(dut, path, shape)
        self.queue: deque[int] = deque()
        self.offering = False

    def drive(self) -> None:
        if not self.offering:
            self.offering = bool(self.queue) and self.rng.random() >= self.stall
            self.payload.value = (
                self.queue[0] if self.offering else self.rng.getrandbits(self.width))
            self.valid.value = int(self.offering)
        if not self.queue:
            self.done.set()

    def sample(self, cycle: int) -> None:
        if self.offering and self.fired():
            self.queue.popleft()
            self.offering = False
            self.times.append(cycle)


class _Monitor(_Port):
    """Takes words; checks that an offer stands unchanged until it is taken."""

    def __init__(self, dut: Any, path: str, shape: Any):
        super().__init__(dut, path, shape)
        self.words: list[int] = []
        self.wanted = 0
        self.held: int | None = None

    def drive(self) -> None:
        wanting = len(self.words) < self.wanted
        if not wanting:
            self.done.set()
        if self.ready is not None:
            self.ready.value = int(wanting and self.rng.random() >= self.stall)

    def sample(self, cycle: int) -> None:
        offered = self.valid is None or bool(self.valid.value)
        if self.held is not None:
            assert offered, f"{self.path}: the offer was withdrawn before it was taken"
            assert int(self.payload.value) == self.held, f"{self.path}: the offer changed"
        taken = self.fired()
        self.held = int(self.payload.value) if offered and not taken else None
        if taken:
            self.words.append(int(self.payload.value))
            self.times.append(cycle)


class Bench:
    """Drives and watches every stream of a component; one clock, one place where time passes.

    Inputs change at the falling edge of ``clk``, outputs are sampled right after, when everything
    has settled: what is sampled is what the next rising edge sees, for combinational outputs too.

    Parameters
    ----------
    dut : cocotb handle
        The device under test.
    component : wiring.Component
        The component it was made from, built with the same parameters: its signature gives the
        ports and their packing.

    Attributes
    ----------
    cycle : int
        Rising edges since reset.
    rng : random.Random
        Seeded by the one seed.
    """

    def __init__(self, dut: Any, component: wiring.Component):
        self.dut = dut
        self.cycle = 0
        self.rng = random.Random(f"{cocotb.RANDOM_SEED} bench")
        self.ports: dict[str, _Driver | _Monitor] = {}
        self._find(component.signature, ())

    def _find(self, signature: wiring.Signature, prefix: tuple[str, ...]) -> None:
        for name, member in signature.members.items():
            path = (*prefix, name)
            if not member.is_signature:
                continue
            if isinstance(member.signature, stream.Signature):
                kind = _Driver if member.flow == wiring.In else _Monitor
                payload = member.signature.members["payload"].shape
                key = "__".join(path)
                self.ports[key] = kind(self.dut, key, payload)
            else:
                self._find(member.signature, path)  # flipped where it is an input

    async def start(self) -> None:
        """Clock running, streams idle, out of reset; may be called again to reset in mid-work."""
        if not self.cycle:
            Clock(self.dut.clk, 10, unit="ns").start()
        self.dut.rst.value = 1
        await FallingEdge(self.dut.clk)
        for port in self.ports.values():
            if isinstance(port, _Driver):
                port.queue.clear()
                port.offering = False
                port.valid.value = 0
            else:
                port.held, port.wanted = None, len(port.words)
                if port.ready is not None:
                    port.ready.value = 0
            port.times.clear()
        await FallingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self.dut.rst.value = 0
        first, self.cycle = not self.cycle, 1
        if first:
            cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            for port in self.ports.values():
                port.drive()
            await ReadOnly()
            if not self.dut.rst.value:
                for port in self.ports.values():
                    port.sample(self.cycle)
            self.cycle += 1

    async def step(self, cycles: int = 1) -> None:
        """Lets clock cycles pass; afterwards signals may be written."""
        for _ in range(cycles):
            await FallingEdge(self.dut.clk)

    def send(self, path: str, values: Iterable[Any], *, stall: float = 0.0) -> _Driver:
        """Queues values on an input stream and returns at once.

        ``stall`` is the probability of an idle cycle before each.
        """
        port = self.ports[path]
        assert isinstance(port, _Driver), f"{path} is an output"
        port.queue.extend(pack_bits(port.shape, value) for value in values)
        port.stall = stall
        port.done.clear()
        return port

    async def sent(self, path: str) -> list[int]:
        """Waits until all queued values are taken; the cycles at which each was since reset."""
        port = self.ports[path]
        await port.done.wait()
        return port.times

    def expect(self, path: str, count: int, *, stall: float = 0.0) -> _Monitor:
        """Lets an output stream deliver ``count`` more values and returns at once.

        ``stall`` is the probability of not being ready in a cycle.
        """
        port = self.ports[path]
        assert isinstance(port, _Monitor), f"{path} is an input"
        port.wanted, port.stall = len(port.words) + count, stall
        port.done.clear()
        return port

    async def receive(self, path: str, count: int, *, stall: float = 0.0) -> list[Any]:
        """Takes ``count`` values from an output stream."""
        port = self.expect(path, count, stall=stall)
        await port.done.wait()
        return [unpack_bits(port.shape, word) for word in port.words[-count:]] if count else []

    def times(self, path: str) -> list[int]:
        """The cycles, counted from reset, at which values of a stream changed hands."""
        return self.ports[path].times
