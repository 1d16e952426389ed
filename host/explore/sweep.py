# SPDX-License-Identifier: Apache-2.0
"""A sweep file: ranges, and the points that they span."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomul.hw.boards.registry import find_board
from nomul.model.core_config import ENGINES
from nomul.model.errors import NomulError
from nomul.model.geometry import PUBLISHED, Geometry
from nomul.model.names import nearest

from .point import SCOPES, WEIGHTS, Point

__all__ = ["LARGE", "Sweep", "read_sweep"]

LARGE = 200  #: Points and seeds from which on a sweep is asked about.
_MOST = 1_000_000
_DIGITS, _ROUND = 9, 1e-9  # of values of a range that are no whole numbers; of a step that may be missing to its end

_NUMBERS = {
    # name: least, most, default
    "trits": (5, 640, (40,)),
    "lanes": (1, 16, (1,)),
    "tile": (0, 1 << 17, (0,)),
    "word_bytes": (0, 64, (0,)),
    "clock_mhz": (0, 400, (0,)),
    "seeds": (0, 1 << 31, (1,)),
}
_CHOICES = {"weights": WEIGHTS, "engine": ENGINES, "scope": SCOPES}
_SHAPE = re.compile("x".join([r"(\d{1,7})"] * 4))
_LARGEST = 1 << 40  # of a bound or a step
_MOST_LAYERS, _MOST_WIDTH = 1024, 1 << 17
_LONGEST_S = 30 * 24 * 3600
_TEXT = 60  # characters of a value that are shown


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What a sweep file says.

    Attributes
    ----------
    path : Path
    values : dict of str to tuple
        The ranges: ``scope``, ``board``, ``weights``, ``engine``, ``trits``, ``lanes``, ``tile``, ``word_bytes``,
        ``clock_mhz``, ``seeds``.
    models : dict of str to Geometry
    simulate : bool
        Cycles are simulated too.
    limit_s : int
        Seconds that a run of a tool may take.
    """

    path: Path
    values: dict[str, tuple[Any, ...]]
    models: dict[str, Geometry]
    simulate: bool
    limit_s: int

    @property
    def count(self) -> int:
        """Points times seeds, the impossible ones included."""
        return math.prod(len(one) for one in self.values.values()) * len(self.models)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Placement seeds."""
        return self.values["seeds"]

    def _all(self) -> Iterator[Point]:
        names = [name for name in self.values if name != "seeds"]
        for model, g in self.models.items():
            for chosen in itertools.product(*(self.values[name] for name in names)):
                yield Point(
                    model=model, hidden=g.hidden, intermediate=g.intermediate, layers=g.layers, vocab=g.vocab,
                    **dict(zip(names, chosen, strict=True)),
                )  # fmt: skip

    def points(
        self, *, seen: Callable[[int], None] = lambda count: None
    ) -> tuple[list[Point], list[tuple[Point, str]]]:
        """Points that can be, and those that can't, with the reason; ``seen`` gets how many more were looked at."""
        possible, impossible = [], []
        for point in self._all():
            try:
                point.check()
            except (NomulError, ValueError) as error:
                impossible.append((point, str(error).splitlines()[0]))
            else:
                possible.append(point)
            seen(1)
        return possible, impossible


def _fail(path: Path, what: str) -> NomulError:
    return NomulError(f"{path}: {what}")


def _shown(value: Any) -> str:
    """A value as it is told: not all of a long one."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python writes
        return "a value too long to be shown"
    return text if len(text) <= _TEXT else text[:_TEXT] + "…"


def _range(path: Path, name: str, value: Any) -> tuple[Any, ...]:
    """The values of a range: one, a list, or from … to … by a step or a factor."""
    if isinstance(value, dict):
        known = {"from", "to", "step", "times"}
        unknown = sorted(set(value) - known)
        if unknown:
            raise _fail(path, f"{name}: {_shown(unknown[0])} is unknown; {nearest(unknown[0], known)}")
        if "from" not in value or "to" not in value or ("step" in value) == ("times" in value):
            raise _fail(path, f"{name}: a range has from, to, and step or times: {{ from = 20, to = 80, times = 2 }}")
        for key, one in value.items():
            if isinstance(one, bool) or not isinstance(one, int | float) or not abs(one) <= _LARGEST:
                raise _fail(path, f"{name}: {key} is {_shown(one)}; it must be a number, at most {_LARGEST:,}")
        by = value["step"] if "step" in value else value["times"]
        if by <= ("times" in value) or ("times" in value and value["from"] <= 0):
            raise _fail(path, f"{name}: steps of {by:g} from {value['from']:g} do not lead to {value['to']:g}")
        begin, end = value["from"], value["to"]
        if "step" in value:
            count = max(0, math.floor((end - begin) / by + _ROUND) + 1)
        else:
            count = max(0, math.floor(math.log(end / begin, by) + _ROUND) + 1) if end >= begin else 0
        if count > _MOST:
            raise _fail(path, f"{name}: more than {_MOST:,} values")
        found = [begin + k * by if "step" in value else begin * by**k for k in range(count)]
        return tuple(one if isinstance(one, int) else round(one, _DIGITS) for one in found)
    return tuple(value) if isinstance(value, list) else (value,)


def _numbers(path: Path, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    least, most, _ = _NUMBERS[name]
    for one in values:
        whole = isinstance(one, int) or (name == "clock_mhz" and isinstance(one, float))
        if isinstance(one, bool) or not whole or not least <= one <= most:
            kind = "a number" if name == "clock_mhz" else "a whole number"
            raise _fail(path, f"{name}: {_shown(one)}; it must be {kind} from {least} to {most}")
    return values


def _geometry(path: Path, text: Any) -> tuple[str, Geometry]:
    if isinstance(text, str):
        if text in PUBLISHED:
            return text, PUBLISHED[text]
        found = _SHAPE.fullmatch(text)
        if found is not None:
            d, m, layers, vocab = map(int, found.groups())
            for what, value, most in (("hidden", d, _MOST_WIDTH), ("intermediate", m, _MOST_WIDTH),
                                      ("layers", layers, _MOST_LAYERS)):  # fmt: skip
                if value > most:
                    raise _fail(path, f"models: {text!r}: {what} is {value}; it must be at most {most}")
            try:
                return text, Geometry(hidden=d, intermediate=m, layers=layers, vocab=vocab)
            except NomulError as error:
                raise _fail(path, f"models: {text!r}: {error}") from None
    known = ", ".join(PUBLISHED)
    raise _fail(
        path, f"models: {_shown(text)}; name {known}, or hidden x intermediate x layers x vocab: \"180x540x3x256\""
    )


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises
    ------
    NomulError
        Naming file, field and value.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _fail(path, "no such file; docs/explore.md shows one") from None
    except OSError as error:
        raise _fail(path, f"{(error.strerror or str(error)).lower()}; name a sweep file") from None
    except (ValueError, RecursionError) as error:  # tomllib's own, bytes that are no text, numbers of too many digits
        raise _fail(path, f"is not TOML ({str(error).splitlines()[0]})") from None
    known = [*_CHOICES, "board", "models", *_NUMBERS, "simulate", "limit_s"]
    for name in table:
        if name not in known:
            raise _fail(path, f"{_shown(name)} is unknown; {nearest(name, known)}")
    for name in ("board", "models"):
        if name not in table:
            raise _fail(path, f"{name} is missing")
    values: dict[str, tuple[Any, ...]] = {}
    for name, choices in _CHOICES.items():
        values[name] = _range(path, name, table.get(name, choices[0] if name != "scope" else "core"))
        for one in values[name]:
            if one not in choices:
                raise _fail(path, f"{name}: {_shown(one)}; {nearest(_shown(one), choices)}")
    values["board"] = _range(path, "board", table["board"])
    for one in values["board"]:
        try:
            find_board(one if isinstance(one, str) and len(one) <= _TEXT else _shown(one))
        except NomulError as error:
            raise _fail(path, f"board: {error}") from None
    for name, (_, _, default) in _NUMBERS.items():
        values[name] = _numbers(path, name, _range(path, name, table[name]) if name in table else default)
    models = dict(_geometry(path, one) for one in _range(path, "models", table["models"]))
    for name, found in [*values.items(), ("models", tuple(models))]:
        if not found:
            raise _fail(path, f"{name} is empty: there is no point at all; name at least one value")
        if len(set(found)) != len(found):
            raise _fail(path, f"{name}: a value occurs twice")
    simulate, limit = table.get("simulate", False), table.get("limit_s", 3600)
    if not isinstance(simulate, bool):
        raise _fail(path, f"simulate: {_shown(simulate)}; it must be true or false")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _LONGEST_S:
        raise _fail(path, f"limit_s: {_shown(limit)}; it must be a whole number of seconds, 1 to {_LONGEST_S}")
    made = Sweep(path=path, values=values, models=models, simulate=simulate, limit_s=limit)
    if made.count > _MOST:
        raise _fail(path, f"spans {made.count:,} points; at most {_MOST:,}")
    return made
