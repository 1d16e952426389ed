# SPDX-License-Identifier: Apache-2.0
"""Drives a board, simulated or not: identify, load, generate. The protocol is docs/link.md.

How to use it is docs/driver.md.
"""

from __future__ import annotations

import contextlib
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from nomul.model.counters import COUNTER_BYTES, Counter
from nomul.model.errors import NomulError
from nomul.model.image import plane_bits
from nomul.model.protocol import (
    FEED_BACK,
    LANE_BYTES,
    LOGIT_BYTES,
    Command,
    Fault,
    JobState,
    Region,
    Status,
    max_rows,
    max_steps,
    pack_rows,
)

from . import loading
from .generating import Generating, Row, checked_prompt
from .loading import Image
from .session import OTHER_VERSION, BoardError, Session
from .transport import LostError, Transport, open_transport

__all__ = ["Board", "BoardError", "FaultError", "Row", "checked_prompt"]

_FAULTS = {
    Fault.PROGRAM: "its program holds something that is no instruction: load the model again",
    Fault.MEMORY: "its external memory gave wrong data: load the model again; if that does not "
    "help, the memory or its clock is at fault",
    Fault.SILENCE: "its external memory does not answer: reset the board",
}


class FaultError(LostError):
    """The core told a fault; its memory may be wrong."""


class Board(Session, Generating):
    """A session with a board. Use it as a context manager, or :meth:`close` it.

    Every request is repeated until it is answered, and repeating one is never harmful; a board that
    was reset or opened by another host is noticed at the next request. So a token is right or there
    is an error.

    Parameters
    ----------
    transport : Transport
        Byte stream to the board; closed with the board.
    design : bytes, optional
        The 8 bytes of the design that is expected; another one is an error.
    tries, wait_s : int and float
        A board that does not answer for ``tries * wait_s`` seconds counts as dead. Until then a
        request is repeated: at the pace of the board's answers, at the latest after ``wait_s``.
    stall_s : float
        How long a job may make no progress.
    rng : random.Random, optional
        Source of the session's number.

    Attributes
    ----------
    identity : Identity
        What the board said about itself.
    retries : int
        Requests that had to be repeated so far.
    jobs : int
        Jobs begun so far.
    logits_lane : int
        The last lane that was active: it has the logits of the last token.
    vocab : int
        Tokens are below it: the vocabulary of the model, which whoever loads one sets; at first all that
        the protocol can say.
    logits_base, logits_stride : int, int or None
        Address of lane 0's logits, and bytes from one lane's to the next; whoever loads a model sets
        them. At first where they lie on chip.

    Raises
    ------
    NomulError
        If there is no board, or one that is not understood.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        design: bytes | None = None,
        tries: int = 8,
        wait_s: float = 0.5,
        stall_s: float = 60.0,
        rng: random.Random | None = None,
    ):
        self._stall_s = stall_s
        self.jobs = 0
        self._interrupt = threading.Event()
        self.logits_lane = 0
        self.vocab = FEED_BACK
        self.logits_base: int = Region.LOGITS.base
        self.logits_stride: int | None = None
        super().__init__(transport, design=design, tries=tries, wait_s=wait_s, rng=rng)

    @classmethod
    def open(cls, name: str, *, baud: int = 3_000_000, design: bytes | None = None) -> Board:
        """The board at a serial port, a pseudo-terminal or ``tcp://HOST:PORT``."""
        return cls(open_transport(name, baud=baud), design=design)

    # Memory image

    def load(
        self,
        image: Image,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Brings memory to the wanted contents, and makes sure of it before it returns.

        What is there already is not sent again, as after a load that was cut off: in external memory,
        in pieces of 4 KB; on chip, in pieces of 1 KB up to the first difference in each region. If
        anything was sent, all is compared once more at the end.

        Parameters
        ----------
        image : mapping
            Bytes by address.
        progress : callable
            Called with the bytes that were compared or sent and those there are.

        Returns
        -------
        int
            Bytes that had to be sent.

        Raises
        ------
        NomulError
            If a region, or external memory, is too small, before anything is written; or if memory
            does not keep what is written.
        """
        return loading.load(self, image, progress=progress)

    def verify(self, image: Image) -> None:
        """Compares memory with what it should hold.

        Parameters
        ----------
        image : mapping
            Bytes by address.

        Raises
        ------
        NomulError
            Naming the region and the place of the first piece that differs.
        """
        loading.verify(self, image)

    # Tokens

    def logits(self, vocab: int, *, lane: int | None = None) -> np.ndarray:
        """Logits of a lane in the last step.

        Parameters
        ----------
        vocab : int
        lane : int, optional
            By default the last one that was active.

        Returns
        -------
        ndarray of int32, shape ``[vocab]``
            As the core keeps them, without scale.
        """
        lane = self.logits_lane if lane is None else lane
        if not 0 <= lane < self.identity.lanes:
            raise NomulError(f"board: lane {lane}; it must be 0 to {self.identity.lanes - 1}")
        stride = self.logits_stride
        if stride is None:
            stride = LOGIT_BYTES << plane_bits(
                self.identity.region_bytes[Region.LOGITS] // LOGIT_BYTES
            )
        return np.frombuffer(
            self.read(self.logits_base + lane * stride, LOGIT_BYTES * vocab), dtype="<i4"
        )

    def logit_scale(self, lane: int | None = None) -> float:
        """What a unit of a logit is worth, after the latest token; by default in its lane."""
        word = Counter.LOGIT_SCALE + 2 * (self.logits_lane if lane is None else lane)
        raw = self.read(Region.COUNTERS.base + word * COUNTER_BYTES, 2 * COUNTER_BYTES)
        mantissa, exponent = struct.unpack("<Ii", raw)
        return float(mantissa) * 2.0**exponent

    # Lanes

    def _run(self, rows: Sequence[Row], steps: int) -> Iterator[list[int | None]]:
        lanes, last = self.identity.lanes, dict[int, int]()  # arg-max of each slot just before
        done = 0
        while done < steps:
            most = max(1, min(max_rows(lanes), self._piece // (LANE_BYTES * lanes)))
            part = list(rows[done : done + most]) or [rows[-1]]
            ends = done + len(part) >= len(rows)
            known = [
                replace(entry, token=last[entry.slot]) if entry and entry.token is None else entry
                for entry in part[0]
            ]
            if ends and len(part) == 1 and steps - done > 1 and known != [*part[0]]:
                part.append(part[0])  # what is given now is fed back from the next step on
            part[0] = known
            count = min(steps - done, max_steps(lanes)) if ends else len(part)
            for k, found in enumerate(self._run_job(part, count)):
                row = part[min(k, len(part) - 1)]
                last = {}
                result: list[int | None] = [None] * lanes
                for lane, entry in enumerate(row):
                    if entry is not None:
                        result[lane] = last[entry.slot] = found[lane]
                        self.logits_lane = lane
                yield result
            done += count

    def begin(self, row: Row) -> None:
        """Begins a step; :meth:`finish` waits for it. Meanwhile external memory may be read and written.

        Parameters
        ----------
        row : Row
            As of :meth:`run`; no lane feeds back.

        Raises
        ------
        NomulError
            If the board refuses it.
        """
        self.jobs += 1
        self._begin(struct.pack("<HH", self._job, 1) + pack_rows([row], self.identity.lanes))

    def finish(self) -> list[int]:
        """Arg-maxes of all lanes after the step that was begun; those of lanes that are not active mean nothing.

        Raises
        ------
        NomulError
            If the board fails.
        """
        (found,) = self._poll(1)
        return found

    def done(self) -> bool:
        """Whether the step that was begun is over, well or not."""
        answer = self._request(Command.POLL, struct.pack("<HH", self._job, 0))
        return bool(answer) and answer[0] != JobState.RUNNING

    @property
    def _job(self) -> int:
        """Number of the latest job."""
        return (self.jobs - 1) % 0xFFFF + 1

    def _run_job(self, rows: Sequence[Row], steps: int) -> Iterator[list[int]]:
        """One job; yields the arg-maxes of all lanes after each of ``steps`` steps."""
        self.jobs += 1
        self._begin(struct.pack("<HH", self._job, steps) + pack_rows(rows, self.identity.lanes))
        yield from self._poll(steps)

    def _poll(self, steps: int) -> Iterator[list[int]]:
        lanes, job = self.identity.lanes, self._job
        done, state = 0, JobState.RUNNING
        moved, pause = time.monotonic(), 0.0
        self._interrupt.clear()
        try:
            while state == JobState.RUNNING or done < steps:
                if self._interrupt.is_set():
                    self._interrupt.clear()
                    self.abort()  # and the next answer says so
                results = self._request(Command.POLL, struct.pack("<HH", job, done))
                if len(results) < 4 or (len(results) - 4) % (2 * lanes):
                    raise NomulError(
                        f"board: answers POLL with {len(results)} bytes: {OTHER_VERSION}"
                    )
                state, fault, _, *fresh = struct.unpack(f"<BBH{(len(results) - 4) // 2}H", results)
                if fresh:
                    moved, pause = time.monotonic(), 0.0
                elif state == JobState.FAILED:
                    meaning = _FAULTS.get(fault, f"fault {fault}: {OTHER_VERSION}")
                    raise FaultError(f"board: step {done + 1} of {steps} failed: {meaning}")
                elif state == JobState.ABORTED or (state == JobState.FINISHED and done < steps):
                    raise LostError(
                        f"board: the job ended after {done} of {steps} steps: "
                        f"begin again with a reset"
                    )
                elif time.monotonic() - moved > self._stall_s:
                    raise NomulError(f"board: no token within {self._stall_s:g} s: reset it")
                elif state == JobState.RUNNING:
                    pause = min(0.02, pause * 1.5 + 0.0005)
                    time.sleep(pause)
                for k in range(0, len(fresh), lanes):
                    done += 1
                    yield fresh[k : k + lanes]
        except GeneratorExit:
            if state == JobState.RUNNING:
                with contextlib.suppress(NomulError):  # a board that is gone has nothing to stop
                    self.abort()
            raise

    def _begin(self, arguments: bytes) -> None:
        """Sends a job; an aborted one before it may need a moment to end."""
        end = time.monotonic() + 2.0
        while True:
            try:
                self._request(Command.JOB, arguments)
                return
            except BoardError as error:
                if error.status is not Status.BUSY or time.monotonic() > end:
                    raise
            time.sleep(0.005)

    def interrupt(self) -> None:
        """From another thread: the job that runs there is aborted, its iterator raises."""
        self._interrupt.set()
