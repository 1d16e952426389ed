# SPDX-License-Identifier: Apache-2.0
"""A board that comes back: opened and loaded, and opened and loaded again when it is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from types import TracebackType

from nomul.model.errors import NomulError
from nomul.model.protocol import Status

from .deployment import Deployment
from .driver import Board, BoardError, FaultError
from .transport import LostError, Transport, open_transport

__all__ = ["Connection", "recoverable"]

_WAIT_S = 0.4
_SILENT, _AWAY, _ALL = 0.4, 0.5, 0.9  # of the patience
_STATUSES = (Status.SESSION, Status.STATE, Status.JOB, Status.BUSY)
_PAUSE_S = 0.05  # between attempts


def recoverable(error: NomulError) -> bool:
    """Whether opening the board again may mend what is wrong."""
    return isinstance(error, LostError) or (
        isinstance(error, BoardError) and error.status in _STATUSES
    )


class Connection:
    """A board with a model, and the way to get both back. Use it as a context manager, or :meth:`close` it.

    When only the link was away, the board's states and the job that runs are as they were, and the
    iterator in use goes on. When the board was reset, or does not answer, there is an error that
    :meth:`recover` takes.

    Parameters
    ----------
    connect : str or callable
        Name of a board, see :func:`~nomul.host.transport.open_transport`; or what opens its byte
        stream. It should name the same board again after it was unplugged, as those in
        ``/dev/serial/by-id`` do.
    deployment : Deployment
        Loaded at once, and whenever the board was reset.
    patience_s : float
        Within this time a board that is away is back, or there is an error. Loading and reading a text anew
        are work, and not counted as long as they go forward.
    progress : callable
        Of loading: bytes done and in all.
    rng : random.Random, optional
        Source of sessions' numbers.

    Attributes
    ----------
    board : Board
        Always the same object.
    deployment : Deployment
    recoveries : int
        How often :meth:`recover` brought the board back.

    Raises
    ------
    NomulError
        If the board does not open, or the model does not load.
    """

    def __init__(
        self,
        connect: str | Callable[[], Transport],
        deployment: Deployment,
        *,
        patience_s: float = 5.0,
        progress: Callable[[int, int], None] = lambda done, total: None,
        rng: random.Random | None = None,
    ):
        if isinstance(connect, str):
            name = connect
            self._connect: Callable[[], Transport] = lambda: open_transport(name)
        else:
            self._connect = connect
        self.deployment = deployment
        self.recoveries = 0
        self._patience_s = patience_s
        self._progress = progress
        self._most = 0  # bytes of the image found right or sent so far
        self._whole = False  # the image is in memory
        # All of it together is less than the patience: silence is noticed, or a link that is away is
        # opened again and silent then; after that :meth:`recover` has what is left.
        self.board = Board(
            self._connect(), design=deployment.design, wait_s=_WAIT_S, stall_s=patience_s, rng=rng,
            tries=max(1, round(_SILENT * patience_s / _WAIT_S)),
        )  # fmt: skip
        self.board.relink, self.board.away_s = self._connect, _AWAY * patience_s
        try:
            try:
                self._load()
            except NomulError as error:
                self.recover(error)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session."""
        self.board.close()

    def recover(self, error: NomulError) -> None:
        """Opens the board again and brings the model back; recurrent states are lost.

        Parameters
        ----------
        error : NomulError
            What was wrong. It is raised if it can not be mended so, or if the board does not come back.
        """
        if not recoverable(error):
            raise error
        if isinstance(error, FaultError):
            self._whole = False
        self.board.until, self._most = self.board.asked + _ALL * self._patience_s, 0
        self.board.relink = None  # for it is done here
        try:
            while not self._back():
                if time.monotonic() > self.board.until:
                    raise error
                time.sleep(_PAUSE_S)
        finally:
            self.board.relink, self.board.until = self._connect, float("inf")
        self.recoveries += 1

    def _back(self) -> bool:
        """One attempt; whether the board is there, with its model."""
        try:
            self.board.close()
            if not self.board.reopen(self._connect()):
                self._whole = False
            if not self._whole:
                self._load()
        except NomulError as error:
            if not recoverable(error):
                raise
            return False
        return True

    def _load(self) -> None:
        def progress(done: int, total: int) -> None:
            if done > self._most:  # farther than ever: it will come to an end
                self._most = done
                if self.board.until < float("inf"):
                    self.board.until = time.monotonic() + _ALL * self._patience_s
            self._progress(done, total)

        self.deployment.load(self.board, progress=progress)
        self._whole = True
