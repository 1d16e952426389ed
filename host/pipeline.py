# SPDX-License-Identifier: Apache-2.0
"""Several boards that hold a model's layers one behind the other, as one board (``docs/several-boards.md``)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from queue import Empty, SimpleQueue

import numpy as np

from nomul.model.closing import Closing
from nomul.model.errors import NomulError
from nomul.model.protocol import MAX_ENTRIES, Identity, LaneToken

from .deployment import Deployment
from .driver import Board
from .generating import Generating, Row
from .transport import LostError

__all__ = ["MOST_LANES", "Pipeline", "checked_groups"]

_PAUSE_S = 0.0005
_LOOK_S = 1.0  # how often somebody who waits looks whether those he waits for are there
MOST_LANES = MAX_ENTRIES  #: Of all boards together: a row of them fits the plan of a job.


class _Together(Identity):
    """Of several boards, which no board says: its lanes are not bound to what a core behind a link may have."""

    def __post_init__(self) -> None:
        """Each board's own was checked."""


def checked_groups(groups: int, width: int) -> int:
    """Groups that somebody asks for.

    Raises
    ------
    NomulError
        If there are none, or more lanes than are planned for at a time.
    """
    most = MOST_LANES // width
    if not 1 <= groups <= most:
        raise NomulError(
            f"boards: groups is {groups}; with {width} lanes a board it must be 1 to {most}, {MOST_LANES} lanes in all"
        )
    return groups


@dataclass(eq=False)
class _Item:
    """The lanes of a group in a step, on their way through the boards."""

    run: _Run
    step: int
    group: int
    lanes: list[LaneToken | None]
    residuals: bytes = b""  # of lanes 0 to the last active one, as the board before gave them
    found: list[int | None] = field(default_factory=list)
    logits: dict[int, tuple[np.ndarray, float]] = field(default_factory=dict)
    buffer: int = 0  # at the board where it is
    begun: bool = False  # there
    error: Exception | None = None
    stage: int = 0  # where that was


class _Run:
    """A job: which items can be sent, and what came back.

    Attributes
    ----------
    results : SimpleQueue
        Items that are through; ``None`` from whoever interrupts.
    over : bool
        Nothing more of it is to be done.
    """

    def __init__(self, rows: Sequence[Row], steps: int, width: int, groups: int):
        self.results: SimpleQueue[_Item | None] = SimpleQueue()
        self.over = False
        self.under_way = 0
        self.logits: dict[int, tuple[np.ndarray, float]] = {}  # of the latest complete step, by lane
        self._rows, self._steps, self._width, self._groups = rows, steps, width, groups
        self._next = 0, 0  # step and group to be sent
        self._came: dict[int, dict[int, int]] = {}  # by step: arg-max by lane
        self._logits: dict[int, dict[int, tuple[np.ndarray, float]]] = {}

    def lanes(self, step: int) -> list[LaneToken | None]:
        """What each lane takes in a step."""
        row = self._rows[min(step, len(self._rows) - 1)]
        return [*row, *[None] * (self._groups * self._width - len(row))]

    def sendable(self) -> _Item | None:
        """The next item, if what it feeds back is there."""
        while self._next[0] < self._steps:
            step, group = self._next
            here = slice(group * self._width, (group + 1) * self._width)
            lanes = self.lanes(step)[here]
            if any(lanes):
                last: dict[int, int | None] = {}  # arg-max by slot, in the step before
                if any(entry is not None and entry.token is None for entry in lanes):
                    came = self._came.get(step - 1, {})
                    last = {e.slot: came.get(k) for k, e in enumerate(self.lanes(step - 1)) if e is not None}
                known = [e and replace(e, token=last[e.slot]) if e and e.token is None else e for e in lanes]
                if any(entry is not None and entry.token is None for entry in known):
                    return None
                self._advance()
                self.under_way += 1
                return _Item(self, step, group, known)
            self._advance()
        return None

    def _advance(self) -> None:
        step, group = self._next
        self._next = (step, group + 1) if group + 1 < self._groups else (step + 1, 0)

    def came(self, item: _Item) -> None:
        """An item is through."""
        base = item.group * self._width
        found = self._came.setdefault(item.step, {})
        logits = self._logits.setdefault(item.step, {})
        for k, token in enumerate(item.found):
            if token is not None:
                found[base + k] = token
        logits.update({base + k: value for k, value in item.logits.items()})

    def result(self, step: int) -> list[int | None] | None:
        """Arg-max of each lane, once a step is complete."""
        lanes = self.lanes(step)
        found = self._came.get(step, {})
        if any(entry is not None and k not in found for k, entry in enumerate(lanes)):
            return None
        self._came.pop(step - 1, None)  # nobody feeds them back any more
        self.logits = self._logits.pop(step, {})
        return [None if entry is None else found[k] for k, entry in enumerate(lanes)]


class _Stage(threading.Thread):
    """The thread of a board: takes items in order, hands them on.

    While the board works at an item, the residual streams of the next one are written, and those of the one before
    are read: there is room for those of two steps on both sides.
    """

    def __init__(self, number: int, board: Board, deployment: Deployment):
        super().__init__(name=f"nomul-section-{number}", daemon=True)
        self.number, self.board, self.deployment = number, board, deployment
        self.todo: SimpleQueue[_Item | None] = SimpleQueue()
        self.following: _Stage | None = None
        self._buffer = 0

    def run(self) -> None:
        """Until there is ``None`` in place of an item."""
        running: _Item | None = None
        while True:
            waiting = running is not None
            try:
                item = self._next(running)
            except Empty:
                item = None
            else:
                if item is None:
                    return
            if item is not None:
                self._guarded(self._prepare, item)
            if running is not None and running.begun:
                self._guarded(self._finish, running, always=True)
            if item is not None:
                self._guarded(self._begin, item)
            if running is not None:
                self._guarded(self._collect, running)
                self._hand_on(running)
            assert waiting or item is not None
            running = item

    def _next(self, running: _Item | None) -> _Item | None:
        """The next item; ``Empty`` if there is none when the one at work is done."""
        if running is None:
            return self.todo.get()
        pause, end = _PAUSE_S, time.monotonic() + _LOOK_S
        while running.begun and time.monotonic() < end:
            with contextlib.suppress(Empty):
                return self.todo.get(timeout=pause)
            try:
                if self.board.done():
                    break
            except NomulError:  # who waits for the item is told
                break
            pause = min(0.02, 1.5 * pause)
        return self.todo.get_nowait()

    def _guarded(self, work: Callable[[_Item], None], item: _Item, *, always: bool = False) -> None:
        """Does something for an item, unless its job is over; whoever waits for the item gets what goes wrong."""
        if item.run.over and not always:
            return
        try:
            work(item)
        except Exception as error:
            if not item.run.over:
                item.error, item.stage, item.run.over = error, self.number, True

    def _hand_on(self, item: _Item) -> None:
        item.begun = False
        if self.following is None or item.error is not None:
            item.run.results.put(item)
        else:
            self.following.todo.put(item)

    def _prepare(self, item: _Item) -> None:
        self._buffer = item.buffer = 1 - self._buffer
        takes = self.deployment.takes
        if takes is not None:
            step = len(item.residuals) if takes.stride == takes.size else takes.size
            for lane, at in enumerate(range(0, len(item.residuals), step)):
                self.board.write(takes.place(item.buffer, lane), item.residuals[at : at + step])

    def _begin(self, item: _Item) -> None:
        takes, gives = self.deployment.takes, self.deployment.gives
        row: list[LaneToken | None] = []
        for lane, entry in enumerate(item.lanes):
            if entry is not None:
                token = entry.token if takes is None else item.buffer * takes.lanes + lane
                entry = replace(entry, token=token, logits=gives is not None or entry.logits)
            row.append(entry)
        if gives is not None:
            self.board.write(*gives.switch[item.buffer])
        self.board.begin(row)
        item.begun = True

    def _finish(self, item: _Item) -> None:
        found = self.board.finish()
        item.found = [None if entry is None else token for entry, token in zip(item.lanes, found, strict=False)]
        if self.deployment.gives is None:  # the next step overwrites them
            for lane, entry in enumerate(item.lanes):
                if entry is not None and entry.logits:
                    logits = self.board.logits(self.deployment.results, lane=lane)
                    item.logits[lane] = logits, self.board.logit_scale(lane)

    def _collect(self, item: _Item) -> None:
        gives = self.deployment.gives
        if gives is None:
            return
        count = 1 + max(k for k, entry in enumerate(item.lanes) if entry is not None)
        if gives.stride == gives.size:
            item.residuals = self.board.read(gives.place(item.buffer, 0), count * gives.size)
        else:
            parts = (self.board.read(gives.place(item.buffer, lane), gives.size) for lane in range(count))
            item.residuals = b"".join(parts)


class Pipeline(Generating, Closing):
    """Boards of which each holds a section of a model, as one board of more lanes.

    The lanes are in groups, each of a board's lanes. A group goes from board to board; while one works at a
    group the others work at other groups, and more groups are on their way between boards, so all boards
    work at once if all groups are in use. Groups pass every board in the same order, so lanes of the same
    slot are successive tokens of one text as on one board.

    Parameters
    ----------
    boards : sequence of Board
        With their sections loaded, the first layers first. Not closed with this.
    deployments : sequence of Deployment
        Of the sections, in the same order.
    groups : int, optional
        By default twice as many as boards, or as there are slots for, and not more than make 128 lanes.

    Attributes
    ----------
    boards : tuple of Board
    identity : Identity
        As of a board, with the lanes of all groups.
    vocab : int
    jobs : int
        How often rows were run so far.
    failed : int or None
        The board, from 0, whose error ended the latest job.

    Raises
    ------
    NomulError
        If the boards differ, or ``groups`` makes too many lanes.
    """

    def __init__(
        self, boards: Sequence[Board], deployments: Sequence[Deployment], *, groups: int | None = None
    ):
        self.boards = tuple(boards)
        first = boards[0].identity
        for number, board in enumerate(boards[1:], 2):
            own = board.identity
            if (own.design, own.lanes, own.slots) != (first.design, first.lanes, first.slots):
                raise NomulError(
                    f"boards: number 1 has design {first.design.hex()}, {first.lanes} lanes, {first.slots} slots; "
                    f"number {number} has design {own.design.hex()}, {own.lanes} lanes, {own.slots} slots: load the "
                    f"same bitstream into all of them"
                )
        self._width = first.lanes
        if groups is None:
            groups = max(1, min(2 * len(boards), first.slots // first.lanes, MOST_LANES // first.lanes))
        self._groups = checked_groups(groups, self._width)
        self.identity: Identity = _Together(**{**vars(first), "lanes": self._width * self._groups})
        self.vocab = deployments[0].vocab
        self.jobs = 0
        self.failed: int | None = None
        self._latest: tuple[_Run, list[LaneToken | None]] | None = None
        self._current: _Run | None = None
        self._stages = [
            _Stage(number, board, deployment)
            for number, (board, deployment) in enumerate(zip(boards, deployments, strict=True))
        ]
        for before, after in pairwise(self._stages):
            before.following = after
        for stage in self._stages:
            stage.start()

    def close(self) -> None:
        """Ends the threads; the boards stay open."""
        for stage in self._stages:
            stage.todo.put(None)
        for stage in self._stages:
            stage.join(_LOOK_S)

    def interrupt(self) -> None:
        """From another thread: the job that runs there ends, its iterator raises."""
        run = self._current
        if run is not None:
            run.over = True
            run.results.put(None)

    def logits(self, vocab: int, *, lane: int | None = None) -> np.ndarray:
        """See :meth:`nomul.host.driver.Board.logits`; of lanes that wanted them."""
        return self._kept(lane)[0][:vocab]

    def logit_scale(self, lane: int | None = None) -> float:
        """See :meth:`nomul.host.driver.Board.logit_scale`; of lanes that wanted logits."""
        return self._kept(lane)[1]

    def _kept(self, lane: int | None) -> tuple[np.ndarray, float]:
        run, lanes = self._latest or (None, [])
        if lane is None:
            lane = max((k for k, entry in enumerate(lanes) if entry is not None), default=0)
        if run is None or lane not in run.logits:
            raise NomulError(f"boards: lane {lane} wanted no logits in the last step")
        return run.logits[lane]

    def _run(self, rows: Sequence[Row], steps: int) -> Iterator[list[int | None]]:
        run = _Run(rows, steps, self._width, self._groups)
        self.jobs += 1
        self._current, self.failed = run, None
        try:
            for step in range(steps):
                while (result := run.result(step)) is None:
                    while (item := run.sendable()) is not None:
                        self._stages[0].todo.put(item)
                    run.came(self._through(run))
                self._latest = run, run.lanes(step)
                yield result
        finally:
            run.over, self._current = True, None
            while run.under_way:  # when this is left no board works at it any more
                self._wait(run)

    def _through(self, run: _Run) -> _Item:
        """The next item that is through."""
        item = self._wait(run)
        if item is None:
            raise LostError("boards: the job was ended from elsewhere: begin again with a reset")
        if item.error is None:
            return item
        self.failed = item.stage
        if isinstance(item.error, NomulError):
            which = f"board {item.stage + 1} of {len(self._stages)}: "
            item.error.args = (which + str(item.error).removeprefix("board: "), *item.error.args[1:])
        raise item.error

    def _wait(self, run: _Run) -> _Item | None:
        """What comes next; every request of a board has its end, so something does."""
        while True:
            try:
                item = run.results.get(timeout=_LOOK_S)
            except Empty:
                if not all(stage.is_alive() for stage in self._stages):
                    run.under_way = 0
                    raise NomulError("boards: they are closed: open them again") from None
                continue
            run.under_way -= item is not None
            return item
