# SPDX-License-Identifier: Apache-2.0
"""What is measured: a board, simulated or not, and on this machine's CPU the golden model and PyTorch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nomul.host.driver import Board
from nomul.host.lanes import Lanes
from nomul.model.checkpoint import Checkpoint
from nomul.model.counters import EXPOSED, Counter
from nomul.model.errors import NomulError
from nomul.model.program import Image
from nomul.sim.golden import Golden

from .measure import Case, Pass, Row, Sample, serve, timed

if TYPE_CHECKING:
    from nomul.sim.board import BoardProcess

__all__ = ["KEYS", "BoardTarget", "GoldenTarget", "TorchTarget", "described", "torch_target"]

KEYS = ("board", "golden", "torch")  #: Of all targets.

_BOARD = {
    "simulated": (
        "simulated board",
        "cycles of the core by its own counters, over the clock; the host's and the link's time are not in it",
    ),
    "measured": ("board", "wall clock of the host, from the request to the token, link included"),
}  #: Name, and what it is, by label.


def described(key: str, label: str) -> tuple[str, tuple[str, ...], str]:
    """A pattern of a target's name, the labels that it may have, and its ``what``.

    Raises
    ------
    NomulError
        If there is no such target.
    """
    if key == "board":
        name, what = _BOARD.get(label, ("", ""))
        return name, tuple(_BOARD), what
    if key == "golden":
        return GoldenTarget.name, (GoldenTarget.label,), GoldenTarget.what
    if key == "torch":
        return r"PyTorch \d[\w.+-]*", (TorchTarget.label,), TorchTarget.what
    raise NomulError(f"bench: no target {key!r}; one of {', '.join(KEYS)}")



class BoardTarget:
    """A board: a request as a user makes it, then the same a step at a time for the core's own counters.

    Parameters
    ----------
    board : Board
        With the model loaded.
    process : BoardProcess or None
        Of a simulated board. Then time is the core's cycles over the clock, nothing else: the host's time and
        the link's are left out, and so is how fast the simulation is.
    counters : callable
        The counters of the latest step, by name in lower case.
    clock_hz : float
        Of the core.
    """

    key = "board"

    def __init__(
        self,
        board: Board,
        process: BoardProcess | None,
        *,
        counters: Callable[[Board], dict[str, int]],
        clock_hz: float,
    ):
        self._board = board
        self._process = process
        self._counters = counters
        self.clock_hz = clock_hz
        self.label = "measured" if process is None else "simulated"
        self.name, self.what = _BOARD[self.label]

    def run(self, case: Case, prompts: Sequence[Sequence[int]]) -> Sample:
        """See :class:`~.measure.Target`."""
        before = self._process.statistics() if self._process else None
        asked = timed(self._request(case, prompts))
        worked = None
        if self._process and before:
            worked = int(self._process.statistics()["cycles"] - before["cycles"])

        prefill, decode = Pass(), Pass()
        columns: list[list[int]] = []

        def step(row: Row) -> Sequence[int | None]:
            (found,) = self._board.run([row])
            (decode if columns else prefill).add(*self._cycles())
            return found

        for tokens in serve(prompts, case.output, self._board.identity.lanes, step):
            columns.append(tokens)
        again = [list(text) for text in zip(*columns, strict=True)]
        if again != asked.tokens:
            raise NomulError("bench: asked again, the board gave other tokens; reset it and load the model again")
        first, last = asked.first_s, asked.last_s
        if self._process:
            first = prefill.cycles / self.clock_hz
            last = (prefill.cycles + decode.cycles) / self.clock_hz
        return Sample(
            first_s=first, last_s=last, tokens=asked.tokens, begin=asked.begin, stamps=asked.stamps,
            prefill=prefill, decode=decode, worked_cycles=worked,
        )  # fmt: skip

    def _request(self, case: Case, prompts: Sequence[Sequence[int]]) -> Any:
        """Each user's next token, as the driver hands them over."""
        if case.users == 1:
            for token in self._board.generate(prompts[0], case.output):
                yield [token]
            return
        lanes = Lanes(self._board)
        numbers = {lanes.add(prompt, case.output): k for k, prompt in enumerate(prompts)}
        row: dict[int, int] = {}
        for user, token in lanes.run():
            row[numbers[user]] = token
            if len(row) == case.users:  # lanes go in step: all begin at once and want as much
                yield [row[k] for k in range(case.users)]
                row = {}

    def _cycles(self) -> tuple[int, dict[str, int]]:
        found = self._counters(self._board)
        cycles = found[Counter.TOKEN_CYCLES.name.lower()]
        phases = {"streaming": found[Counter.BEATS.name.lower()]}
        phases |= {c.name.lower().removeprefix("exposed_"): found[c.name.lower()] for c in EXPOSED}
        if sum(phases.values()) != cycles or found[Counter.ERROR.name.lower()]:
            raise NomulError(f"bench: the core's counters do not add up: {found}")
        return cycles, phases


class GoldenTarget:
    """The integer golden model on this machine's CPU, from the same memory image."""

    key = "golden"
    name = "golden model"
    label = "measured"
    what = "wall clock of this machine's CPU; the model is written to define the hardware, not to be fast"

    def __init__(self, image: Image):
        self._image = image
        self._models: dict[int, Golden] = {}

    def run(self, case: Case, prompts: Sequence[Sequence[int]]) -> Sample:
        """See :class:`~.measure.Target`. One user's prompt goes token by token."""
        golden = self._models.setdefault(case.users, Golden(self._image, lanes=case.users))

        def step(row: Row) -> Sequence[int | None]:
            entries = [entry for entry in row if entry is not None]
            for entry in entries:
                if entry.fresh:
                    golden.reset(entry.slot)
            tokens = np.array([entry.token for entry in entries])
            return [int(t) for t in golden.step(tokens, slots=[entry.slot for entry in entries])]

        return timed(serve(prompts, case.output, case.users, step))


class TorchTarget:
    """The same model in PyTorch on this machine's CPU, float32, all cores.

    Weights are ternarised once. The prompt is taken in at once, then it goes token by token with the recurrent
    state.

    Parameters
    ----------
    checkpoint : Checkpoint
        With the float weights.
    """

    key = "torch"
    label = "measured"
    what = "wall clock of this machine's CPU: weights ternarised once, products in float32 on all cores"

    def __init__(self, checkpoint: Checkpoint):
        from .torch_model import deployed, torch_version

        self.name = f"PyTorch {torch_version()}"
        self._model = deployed(checkpoint, threads=os.cpu_count() or 1)

    def run(self, case: Case, prompts: Sequence[Sequence[int]]) -> Sample:
        """See :class:`~.measure.Target`."""
        return timed(self._model.generate(prompts, case.output))


def torch_target(checkpoint: Checkpoint | None) -> TorchTarget | str:
    """PyTorch, or why it is not measured."""
    if checkpoint is None:
        return "the float weights are not beside the model file"
    try:
        return TorchTarget(checkpoint)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("torch", "safetensors"):
            raise
        return f"{error.name} is not installed: pip install 'nomul[train]'"
