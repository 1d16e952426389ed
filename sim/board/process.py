# SPDX-License-Identifier: Apache-2.0
"""A simulated board as a child process."""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from nomul.model.closing import Closing
from nomul.model.errors import NomulError

__all__ = ["BoardProcess"]


class BoardProcess(Closing):
    """Runs a simulated board; use it as a context manager.

    Parameters
    ----------
    program : Path
        From :func:`~nomul.sim.board.build_board`.
    limit_s : float
        Wall-clock seconds after which the board ends by itself.
    memory : Path, optional
        What is in its external memory from the start, as in that of a board that was loaded before. The file is not
        needed any more when the process is there.

    Attributes
    ----------
    port : str
        The pseudo-terminal that a host opens like a serial port.

    Raises
    ------
    NomulError
        If the program does not start.
    """

    def __init__(self, program: Path, *, limit_s: float = 7 * 86400.0, memory: Path | None = None):
        self._pending = b""
        self._last: dict[str, Any] = {}
        try:
            self._process = subprocess.Popen(
                [str(program), str(limit_s), *([] if memory is None else [str(memory)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )  # an interrupt from the terminal is the host's to handle
        except OSError as error:
            raise NomulError(
                f"simulated board: {program} does not start: {error.strerror}"
            ) from error
        try:
            self.port: str = self._line(10.0)["pty"]
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def statistics(self) -> dict[str, float]:
        """``cycles`` simulated and ``seconds`` spent on them, since the start."""
        self._ask("stats")
        self._last = self._line(10.0)
        return dict(self._last)

    def reset(self) -> None:
        """Presses the board's reset button."""
        self._tell("reset")

    def flip(self, address: int) -> None:
        """Turns over the lowest bit of a byte of external memory, as a particle might."""
        self._tell(f"flip {address:#x}")

    def spoil(self, address: int) -> None:
        """From now on the word of a byte of external memory can be neither read nor written: errors are told."""
        self._tell(f"spoil {address:#x}")

    def silence(self) -> None:
        """External memory answers nothing any more."""
        self._tell("silence")

    def mend(self) -> None:
        """External memory answers again, everywhere; what it was asked meanwhile it answers now."""
        self._tell("mend")

    def trace(self, path: Path | None) -> None:
        """Begins to write a VCD file; ``None`` ends it. Only of a board that was built ``traced``.

        One time step is a clock cycle. Of a token 32 cycles in every 512 are written: enough to count toggles.

        Raises
        ------
        NomulError
            If the board cannot, or the file cannot be written.
        """
        self._ask("trace" if path is None else f"trace {path.resolve()}")
        if not self._line(60.0).get("trace"):
            raise NomulError(f"simulated board: no trace in {path}: built without, or not writable")

    def kill(self) -> None:
        """Ends the process without any grace, as a crash would."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def freeze(self) -> None:
        """Stops the process where it is, as a hang would; it can still be closed."""
        self._process.send_signal(signal.SIGSTOP)

    def close(self) -> dict[str, float]:
        """Ends the process; the last statistics, as far as they are known."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if not stdin.closed:
            stdin.close()
            if self.alive:
                self._process.send_signal(signal.SIGCONT)
            try:
                self._process.wait(5.0)
                self._last = self._line(1.0)
            except (subprocess.TimeoutExpired, NomulError):
                self._process.kill()
                self._process.wait()
            stdout.close()
        return dict(self._last)

    def _tell(self, command: str) -> None:
        """A command after which the board shows that it went on."""
        self._ask(command)
        self._line(10.0)

    def _ask(self, command: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            stdin.write(f"{command}\n".encode())
        except (OSError, ValueError) as error:
            raise NomulError(
                f"simulated board: it has ended (status {self._process.poll()})"
            ) from error

    def _line(self, limit_s: float) -> dict[str, Any]:
        """The next line of JSON from the board."""
        stdout = self._process.stdout
        assert stdout is not None
        end = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise NomulError(f"simulated board: no answer within {limit_s:g} s")
                chunk = stdout.read(4096)
                if not chunk:
                    raise NomulError(
                        f"simulated board: it has ended (status {self._process.wait(5.0)})"
                    )
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer
