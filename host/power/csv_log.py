# SPDX-License-Identifier: Apache-2.0
"""Samples that any logger has written as CSV."""

from __future__ import annotations

import csv
import math
import re
from datetime import datetime
from pathlib import Path

import numpy as np

from nomul.model.errors import NomulError

from .meter import plain_number
from .trace import Gap, Trace

__all__ = ["CsvLog"]

_GAP = 5.0  # times the median step
_MOST_W = 1e9
_MOST_HEAD = 1 << 20  # bytes of the first line
_TAIL = 1 << 16  # bytes in which the newest line is looked for
_SCALES = {"": 1.0, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "k": 1e3}
# power, power_mW, "Power (W)", watts; the same for voltage and current.
_COLUMNS = {
    "power": re.compile(r"(?:power|watts?|p)?[ _(\[/]*([mukµ]?)w(?:atts?)?[)\]]*|power|watts?", re.I),
    "voltage": re.compile(r"(?:voltage|volts?|u|v)?[ _(\[/]*([mukµ]?)v(?:olts?)?[)\]]*|voltage|volts?", re.I),
    "current": re.compile(r"(?:current|i)?[ _(\[/]*([mukµ]?)a(?:mps?)?[)\]]*|current|amps?", re.I),
}
_TIME = re.compile(r"(?:time|timestamp|date|datetime|unix|epoch|t)[ _(\[/]*(?:time|utc|s|sec|seconds|ms)?[)\]]*", re.I)
_UNIX = 1e9  # seconds; a smaller stamp counts from something else


class CsvLog:
    """A CSV file whose first line names its columns: a time, and power or voltage and current.

    Times are seconds or milliseconds since 1970, or ISO 8601; without a zone they are local time. Units stand in the
    names (``power_mW``, ``Power (W)``); without one they are W, V and A. Fields are separated by commas, semicolons
    or tabs.

    Parameters
    ----------
    path : Path
        Read when a trace is asked for, so that a logger may still be writing.
    includes : str
        What the logger's meter covers.

    Raises
    ------
    NomulError
        If there is no such file.
    """

    label = "measured"
    quantity = "watts"
    bounds_w: tuple[float, float] | None = None
    range_w = (0.0, math.inf)

    def __init__(self, path: Path, *, includes: str = "what the logger was wired to"):
        if not path.is_file():
            raise NomulError(f"{path}: no such file; name the one that the logger writes")
        self.path = path
        self.name = f"csv {path.name}"
        self.includes = includes
        self.rate_hz = 0.0  #: Known once the file was read: of the median step.

    def close(self) -> None:
        """Nothing is held open."""

    def latest(self) -> float | None:
        """Wall-clock time of the newest whole line; None if there is none yet.

        Raises
        ------
        NomulError
            As :meth:`trace` does, of the file, its first line and that line.
        """
        try:
            with self.path.open("rb") as file:
                head = file.readline(_MOST_HEAD)
                begin = file.tell()
                file.seek(max(begin, file.seek(0, 2) - _TAIL))
                tail = file.read()
        except OSError as error:
            raise self._gone(error) from None
        if not head.endswith(b"\n"):
            return None
        separator, (title, *_) = self._rows(head.decode("utf-8-sig", "replace"))
        at, scale = self._columns(title)["time"]
        whole = [line for line in tail.decode("utf-8", "replace").split("\n")[:-1] if line.strip()]
        whole = [line for line in whole if not line.lstrip().startswith("#")]
        if not whole:
            return None
        _, (row, *_) = self._rows(whole[-1], separator)
        where = f"{self.path}: last line"
        if len(row) <= at:
            raise NomulError(f"{where}: {len(row)} fields; the first line names more")
        return _time(row[at], scale, where)

    def trace(self, *, offset: float = 0.0) -> Trace:
        """All samples.

        Parameters
        ----------
        offset : float
            Wall clock less monotonic clock, seconds; taken off the time stamps.

        Raises
        ------
        NomulError
            Naming the line of a value that is none, or of a time that is not after the one before.
        """
        lines, times, watts = self._read()
        steps = np.diff(times)
        for k in np.flatnonzero(~(steps > 0)):
            what = "the same as" if steps[k] == 0 else f"{-steps[k]:g} s before"
            raise NomulError(
                f"{self.path}: line {lines[k + 1]}: its time is {what} that of line {lines[k]}; "
                f"a logger's clock must not jump"
            )
        if len(times) < 2:
            raise NomulError(f"{self.path}: {len(times)} samples; it takes at least 2 to integrate")
        median = float(np.median(steps))
        self.rate_hz = 1 / median
        gaps = tuple(
            Gap(
                begin=times[k] - offset,
                end=times[k + 1] - offset,
                why=f"{self.path}: {steps[k]:.3f} s pass between lines {lines[k]} and {lines[k + 1]}",
            )
            for k in np.flatnonzero(steps > _GAP * median)
        )
        return Trace(name=self.name, times=times - offset, values=watts, gaps=gaps)

    def _read(self) -> tuple[list[int], np.ndarray, np.ndarray]:
        """Line numbers, wall-clock times and watts."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise self._gone(error) from None
        except UnicodeDecodeError:
            raise NomulError(f"{self.path}: not UTF-8 text; export it as CSV") from None
        separator = _separator(text.partition("\n")[0])
        rows = csv.reader(text.splitlines(), delimiter=separator)
        lines, times, watts = [], [], []
        complete = text.endswith("\n")
        try:
            columns = self._columns(next(rows, []))
            for row in rows:
                if not row or row[0].lstrip().startswith("#"):
                    continue
                if not complete and rows.line_num == text.count("\n") + 1:
                    break  # the logger is writing it
                where = f"{self.path}: line {rows.line_num}"
                if len(row) <= max(at for at, _ in columns.values()):
                    raise NomulError(f"{where}: {len(row)} fields; the first line names more")
                at, scale = columns["time"]
                times.append(_time(row[at], scale, where))
                product = 1.0
                for name, (at, scale) in columns.items():
                    if name != "time":
                        product *= _value(row[at], name, where, comma=separator != ",") * scale
                if not product <= _MOST_W:
                    raise NomulError(f"{where}: {product:g} W; no more than {_MOST_W:g} W can be right")
                watts.append(product)
                lines.append(rows.line_num)
        except csv.Error as error:
            raise NomulError(f"{self.path}: line {rows.line_num}: {error}") from None
        return lines, np.array(times, dtype=np.float64), np.array(watts, dtype=np.float64)

    def _gone(self, error: OSError) -> NomulError:
        if isinstance(error, FileNotFoundError):
            return NomulError(f"{self.path}: the file is gone; the logger must not move it")
        return NomulError(f"{self.path}: cannot be read ({(error.strerror or str(error)).lower()})")

    def _rows(self, text: str, separator: str = "") -> tuple[str, list[list[str]]]:
        """The separator, and the fields of a line or more."""
        separator = separator or _separator(text)
        try:
            return separator, list(csv.reader(text.splitlines(), delimiter=separator)) or [[]]
        except csv.Error as error:
            raise NomulError(f"{self.path}: {error}") from None

    def _columns(self, head: list[str]) -> dict[str, tuple[int, float]]:
        """Place and scale of each column that counts."""
        found: dict[str, tuple[int, float]] = {}
        for at, title in enumerate(head):
            title = title.strip()
            if _TIME.fullmatch(title):
                found.setdefault("time", (at, 1e-3 if title.rstrip(")]").endswith("ms") else 1.0))
                continue
            for name, pattern in _COLUMNS.items():
                if match := pattern.fullmatch(title):
                    unit = match[1] or ""
                    # mW is milli; MW would be mega, which no board takes
                    found.setdefault(name, (at, _SCALES[unit.lower()]))
                    break
        if "time" not in found:
            raise NomulError(f"{self.path}: line 1: no column is called time; it says {', '.join(head)[:80]!r}")
        if "power" in found:
            return {name: found[name] for name in ("time", "power")}
        if not {"voltage", "current"} <= found.keys():
            raise NomulError(
                f"{self.path}: line 1: there must be a column power, or voltage and current; "
                f"it says {', '.join(head)[:80]!r}"
            )
        return found


def _separator(head: str) -> str:
    return max(",;\t", key=head.count)


def _time(text: str, scale: float, where: str) -> float:
    text = text.strip()
    seconds = plain_number(text) * scale
    if scale == 1.0 and seconds > 1e3 * _UNIX:
        seconds *= 1e-3
    if math.isnan(seconds):
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError, OSError):
            raise NomulError(
                f"{where}: time {text[:40]!r} is neither seconds since 1970 nor ISO 8601"
            ) from None
    if not _UNIX < seconds < 1e2 * _UNIX:
        raise NomulError(
            f"{where}: time {text[:40]!r} does not count from 1970; have the logger write wall-clock times"
        )
    return seconds


def _value(text: str, name: str, where: str, *, comma: bool) -> float:
    value = plain_number(text.replace(",", ".") if comma else text)
    if not math.isfinite(value) or value < 0:
        raise NomulError(f"{where}: {name} {text.strip()[:40]!r}; it must be a number of at least 0")
    return value
