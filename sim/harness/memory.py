# SPDX-License-Identifier: Apache-2.0
"""A memory behind a device under test: random latency and stalls, errors, silence."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import cocotb
from cocotb.triggers import FallingEdge

from nomul.hw.ports import BURST_WORDS, MemoryCommandLayout

from .bench import Bench
from .packing import unpack_bits

__all__ = ["Burst", "MemoryModel"]

_ENDLESS = 1 << 40


@dataclass(kw_only=True)
class Burst:
    """A command that was taken.

    Attributes
    ----------
    cycle : int
        In which it was.
    address, words : int
    write : bool
    """

    cycle: int
    address: int
    words: int
    write: bool
    due: int = 0  # answered from then on
    left: int = 0
    after: int = 0  # writes that come first
    fails: bool = False


class MemoryModel:
    """Answers a port of :class:`~nomul.hw.ports.MemorySignature`, and checks what that asks of who asks.

    No burst crosses a multiple of 64 words or leaves memory, and as many words are written as were commanded, which
    :meth:`settle` checks. Answers come in the order of commands, a word at most in a cycle. A read waits for the
    words of all writes before it, and may see later ones. Between answers data and error are noise. Words that
    nobody wrote are noise too, always the same. Writes are acknowledged in order, one at most in a cycle.

    Parameters
    ----------
    bench : Bench
        Of the device; started.
    path : str
        Name of the device's port, of flow ``Out``.
    word_bytes : int
    words : int
        Size of memory.
    latency : tuple of int
        Least and most cycles from a command to the answer; at least 1.
    acknowledge : tuple of int, optional
        The same from the last word of a write, to its acknowledgement; may be changed at any time. ``latency`` if
        not given.
    stall : float
        Probability, in every cycle, that commands or words are not taken, or no word is given.
    wrong : container of int
        Addresses of words that cannot be read or written: errors are told, of a write with its acknowledgement.
        May be changed at any time.

    Attributes
    ----------
    content : dict
        Words by address.
    bursts : list of Burst
        All commands so far.
    answers : list of int
        Cycles in which words were given.
    written : list of int
        Words in the order in which they were given.
    acknowledged : list of int
        Cycles in which writes were acknowledged.
    """

    def __init__(
        self,
        bench: Bench,
        path: str,
        *,
        word_bytes: int,
        words: int = 1 << 32,
        latency: tuple[int, int] = (1, 1),
        acknowledge: tuple[int, int] | None = None,
        stall: float = 0.0,
        wrong: Container[int] = (),
    ):
        self.bench, self.dut, self.path = bench, bench.dut, path
        self.bits = 8 * word_bytes
        self.word_bytes = word_bytes
        self.words = words
        self.latency, self.stall, self.wrong = latency, stall, wrong
        self.acknowledge = acknowledge or latency
        self.content: dict[int, int] = {}
        self.bursts: list[Burst] = []
        self.answers: list[int] = []
        self.written: list[int] = []
        self.acknowledged: list[int] = []
        self.rng = random.Random(f"{cocotb.RANDOM_SEED} {path} memory")
        self._commands: Any = bench.ports[f"{path}__command"]
        self._words: Any = bench.ports[f"{path}__write"]
        self._seen = self._count()
        self._reads: deque[Burst] = deque()
        self._writes: deque[Burst] = deque()
        self._given: deque[int] = deque()  # words of writes
        self._begun = self._done = 0  # writes
        self._owed: deque[tuple[int, bool]] = deque()  # acknowledgements: when, and whether of an error
        self._silent = False
        self.speak()
        self._drive(valid=False, data=0, error=False, write_error=False, unacknowledged=False)
        cocotb.start_soon(self._run())

    def word(self, address: int) -> int:
        """What lies at an address."""
        if address not in self.content:
            return random.Random(f"{self.path} {address}").getrandbits(self.bits)
        return self.content[address]

    def put(self, address: int, values: bytes) -> None:
        """Fills memory from a byte address on, a multiple of the word."""
        assert address % self.word_bytes == 0
        for k in range(0, len(values), self.word_bytes):
            word = values[k : k + self.word_bytes].ljust(self.word_bytes, b"\0")
            self.content[(address + k) // self.word_bytes] = int.from_bytes(word, "little")

    def get(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        first, end = address // self.word_bytes, -(-(address + size) // self.word_bytes)
        words = (self.word(k).to_bytes(self.word_bytes, "little") for k in range(first, end))
        return b"".join(words)[address - first * self.word_bytes :][:size]

    def silence(self, *, deaf: bool = False) -> None:
        """From this cycle on nothing is answered or acknowledged; ``deaf``: nor taken."""
        self._silent = True
        if deaf:
            for port in (self._commands, self._words):
                self.bench.expect(port.path, 0)

    def speak(self) -> None:
        """Ends a silence: all that is owed is answered."""
        self._silent = False
        for port in (self._commands, self._words):
            self.bench.expect(port.path, _ENDLESS, stall=self.stall)

    def withdrawn(self) -> None:
        """What the device offers now may be withdrawn."""
        self._commands.held = self._words.held = None

    @property
    def idle(self) -> bool:
        """Nothing is owed to the device, nor by it."""
        return not (self._reads or self._writes or self._given or self._owed)

    async def settle(self, cycles: int = 2000) -> None:
        """Waits until it is idle.

        Raises
        ------
        AssertionError
            If words and commands of writes do not match.
        """
        for _ in range(cycles):
            await FallingEdge(self.dut.clk)
            if self.idle and self._seen == self._count():
                return
        raise AssertionError(
            f"{self.path}: {len(self._writes)} writes want words, {len(self._given)} words a "
            f"command, {len(self._reads)} reads an answer"
        )

    def _count(self) -> tuple[int, int]:
        return len(self._commands.words), len(self._words.words)

    async def _run(self) -> None:
        while True:
            await FallingEdge(self.dut.clk)
            now = self.bench.cycle
            self._take(now)
            self._answer(now)

    def _take(self, now: int) -> None:
        for bits in self._commands.words[self._seen[0] :]:
            found = unpack_bits(MemoryCommandLayout, bits)
            address, count = found["address"], found["last"] + 1
            assert address % BURST_WORDS + count <= BURST_WORDS, (
                f"{self.path}: a burst of {count} words from {address:#x} crosses a multiple of {BURST_WORDS}"
            )
            assert address + count <= self.words, f"{self.path}: {address:#x} + {count} leaves memory"
            burst = Burst(
                cycle=now - 1, address=address, words=count, write=bool(found["write"]), left=count,
                due=now - 1 + self.rng.randint(*self.latency), after=self._begun,
            )  # fmt: skip
            self.bursts.append(burst)
            if burst.write:
                self._begun += 1
                self._writes.append(burst)
            else:
                self._reads.append(burst)
        words = self._words.words[self._seen[1] :]
        self._given.extend(words)
        self.written.extend(words)
        self._seen = self._count()
        while self._writes and self._given:
            burst = self._writes[0]
            at = burst.address + burst.words - burst.left
            word = self._given.popleft()
            if at in self.wrong:
                burst.fails = True
            else:
                self.content[at] = word
            burst.left -= 1
            if not burst.left:
                self._writes.popleft()
                self._done += 1
                self._owed.append((now - 1 + self.rng.randint(*self.acknowledge), burst.fails))

    def _answer(self, now: int) -> None:
        burst = self._reads[0] if self._reads else None
        give = (
            burst is not None and burst.due <= now and burst.after <= self._done
            and not self._silent and self.rng.random() >= self.stall
        )  # fmt: skip
        data, error = self.rng.getrandbits(self.bits), bool(self.rng.getrandbits(1))
        if give:
            assert burst is not None
            at = burst.address + burst.words - burst.left
            error = at in self.wrong
            if not error:
                data = self.word(at)
            burst.left -= 1
            if not burst.left:
                self._reads.popleft()
            self.answers.append(now)
        unacknowledged, fails = bool(self._writes or self._owed), False
        if self._owed and self._owed[0][0] <= now and not self._silent:
            fails = self._owed.popleft()[1]
            self.acknowledged.append(now)
        self._drive(
            valid=give, data=data, error=error, write_error=fails, unacknowledged=unacknowledged
        )

    def _drive(
        self, *, valid: bool, data: int, error: bool, write_error: bool, unacknowledged: bool
    ) -> None:
        for name, value in (("read_valid", valid), ("read_data", data), ("read_error", error),
                            ("write_error", write_error), ("unacknowledged", unacknowledged)):
            getattr(self.dut, f"{self.path}__{name}").value = int(value)
