# SPDX-License-Identifier: Apache-2.0
"""Checks a published bench: its figures against its own samples, then against what this machine gives again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nomul.host.cli.common import load_any
from nomul.host.power import CsvLog, open_meter
from nomul.model.errors import NomulError

from .consistency import contradictions
from .document import cells, read_document
from .session import Settings, bench, model_sha256, target_of

__all__ = ["CONTROLLER_TOLERANCE", "Check", "verify"]

#: How far cycles behind a memory controller may differ: the host's requests fall differently between refreshes.
CONTROLLER_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison.

    Attributes
    ----------
    what : str
    outcome : str
        ``"equal"``, ``"differs"``, ``"ratio"`` (of speeds; never a failure) or ``"not re-run"``.
    detail : str
    own : bool
        Against the file itself: nothing was run for it.
    """

    what: str
    outcome: str
    detail: str = ""
    own: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def verify(
    path: Path,
    *,
    model: str | None = None,
    board: str | None = None,
    cpu: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> list[Check]:
    """Reads a bench, re-runs what can be re-run here and compares.

    Simulated cycles, tokens and what is computed must be equal, if model and design are the same; behind a memory
    controller cycles may differ by :data:`CONTROLLER_TOLERANCE`. Speeds of CPUs and boards are told as a ratio.

    Parameters
    ----------
    path : Path
    model : str, optional
        Where the model is now; by default where it was.
    board : str, optional
        A serial port or ``tcp://HOST:PORT``: re-runs there what was measured on a board.
    cpu : bool
        Whether the CPU's figures are re-run.
    say : callable

    Raises
    ------
    NomulError
        If the file is no bench, or its model does not fit this machine.
    """
    document = read_document(path)
    settings = _settings(document, path, model)
    try:
        checks = _own(document, settings)
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise NomulError(f"{path}: a run lacks or spoils {error}; run nomul bench again") from None
    if not any(check.outcome == "differs" for check in checks):
        checks += [_meter(run["energy"], name, settings) for _, run, name in cells(document) if "energy" in run]
    if any(check.outcome == "differs" for check in checks):
        return checks  # what contradicts itself is not worth the time of a run
    why = _elsewhere(document, settings)
    if why:
        return [*checks, Check(what="all targets", outcome="not re-run", detail=why)]
    skip = _not_here(document, settings, board)
    checks += [Check(what=name, outcome="not re-run", detail=detail) for name, detail in skip.items()]
    settings = replace(
        settings, board=board or "sim", board_too="board" not in skip,
        cpu=cpu and any(target["key"] != "board" for target in document["targets"]),
        clock_mhz=None if board else document["core"]["clock_hz"] / 1e6, meters=(),
    )  # fmt: skip
    if not settings.board_too and not settings.cpu:
        return checks
    return checks + _compared(document, bench(settings, say=say), skip)


def _own(document: dict[str, Any], settings: Settings) -> list[Check]:
    """Whether figures follow from the file's own samples, sizes and settings."""
    return [
        Check(what=what, outcome="differs" if wrong else "equal", detail="; ".join(wrong), own=True)
        for what, wrong in contradictions(document, settings)
    ]


def _settings(document: dict[str, Any], path: Path, model: str | None) -> Settings:
    """What the bench was asked for."""
    told = {name: tuple(value) if isinstance(value, list) else value for name, value in document["settings"].items()}
    try:
        return Settings(**told | {"model": model or document["model"]["path"] or None})
    except TypeError as error:
        raise NomulError(f"{path}: settings: {error}; run nomul bench again") from None
    except NomulError as error:
        raise NomulError(f"{path}: settings: {error}") from None


def _elsewhere(document: dict[str, Any], settings: Settings) -> str:
    """Why the model is not here; empty if it is."""
    try:
        loaded = load_any(settings.model)
    except NomulError as error:
        return f"its model is not here ({error}); say where with --model"
    if model_sha256(loaded) != document["model"]["sha256"]:
        return f"{loaded.path} is another model than it was made with; say where that is with --model"
    return ""


def _meter(energy: dict[str, Any], name: str, settings: Settings) -> Check:
    """Where a power comes from: a typed one is in the settings, a report may be here, a meter is not."""
    what = f"{name}: power"
    if "watts" not in energy["meter"]:
        detail = f"by {energy['meter']['name']}: joules follow from its samples, which only a meter can check"
        return Check(what=what, outcome="not re-run", detail=detail)
    told = energy["meter"]["watts"]
    for meter in settings.meters:
        if not meter.strip().startswith(f"{told['label']}:"):
            continue
        try:
            opened = open_meter(meter)
        except NomulError as error:
            return Check(what=what, outcome="not re-run", detail=f"{meter} does not open here ({error})")
        assert not isinstance(opened, CsvLog)
        now, bounds = opened.read(), opened.bounds_w
        same = math.isclose(now, told["value"]) and (
            not bounds or all(math.isclose(a, told[k]) for k, a in zip(("low", "high"), bounds, strict=True))
        )
        if same:
            return Check(what=what, outcome="equal", own=True)
        detail = f"{meter} gives {now:g} W here, the file tells {told['value']:g} W"
        outcome = "differs" if told["label"] == "constant" else "not re-run"  # a report of that name may be another's
        return Check(what=what, outcome=outcome, detail=detail)
    return Check(what=what, outcome="differs", detail=f"{told['label']}, and settings name no such meter")


def _not_here(document: dict[str, Any], settings: Settings, board: str | None) -> dict[str, str]:
    """Targets that cannot be re-run here, and why."""
    found = {}
    by_key = {target["key"]: target for target in document["targets"]}
    if "board" not in by_key:
        return {"board": "the file has none"}
    on_board = by_key["board"]["label"] == "measured"
    if on_board and board is None:
        return {"board": "measured on a board; with --board PORT it is run there"}
    loaded = load_any(settings.model)
    _, _, design = target_of(replace(settings, board=board or "sim", clock_mhz=None), loaded.model)
    if design != document["core"]["design"]:
        found["board"] = (
            f"this nomul generates design {design or '(nothing: pip install nomul[sim])'}, the file is of "
            f"{document['core']['design']}: check out the version that it was made with"
        )
    return found


def _compared(document: dict[str, Any], again: dict[str, Any], skip: dict[str, str]) -> list[Check]:
    """What the file says against what came now."""
    fresh = {
        (target["key"], run["prompt"], run["output"], run["users"]): run
        for target in again["targets"]
        for run in target["runs"]
    }
    reasons = {part["key"]: part["why"] for part in again["absent"]} | skip
    found = []
    for part in ("ternary_weights", "parameters", "geometry"):
        found.append(_equal(f"model: {part}", document["model"][part], again["model"][part]))
    if "board" not in skip or again["core"]["design"] == document["core"]["design"]:
        for part in ("configuration", "bound_cycles", "trits_per_cycle"):
            found.append(_equal(f"core: {part}", document["core"][part], again["core"][part]))
    for target, run, name in cells(document):
        other = fresh.get((target["key"], run["prompt"], run["output"], run["users"]))
        if other is None:
            if target["key"] not in skip:
                why = reasons.get(target["key"], "these lengths were not run")
                found.append(Check(what=name, outcome="not re-run", detail=why))
            continue
        if target["key"] != "torch":  # float sums depend on the machine
            found.append(_equal(f"{name}: tokens", run["tokens"], other["tokens"]))
        if target["key"] == "board":
            found += _cycles(document, target, name, run, other)
        if target["label"] == "measured":
            for rate in ("prefill", "decode"):
                found.append(_ratio(f"{name}: {rate}", run["figures"][rate], other["figures"][rate]))
    return found


def _cycles(
    document: dict[str, Any], target: dict[str, Any], name: str, run: dict[str, Any], other: dict[str, Any]
) -> list[Check]:
    """Cycles of the core and what is computed."""
    found = []
    exact = document["settings"]["dram"] is None and target["label"] == "simulated"
    for part in ("prefill", "decode"):
        told, now = run["samples"][0][part], other["samples"][0][part]
        what = f"{name}: cycles of {part}"
        if exact:
            found.append(_equal(what, told, now))
            continue
        off = now["cycles"] / told["cycles"] - 1
        right = abs(off) <= CONTROLLER_TOLERANCE and now["rows"] == told["rows"]
        detail = f"{now['cycles']:,} now, {told['cycles']:,} told ({off:+.3%}; {CONTROLLER_TOLERANCE:.0%} allowed)"
        found.append(Check(what=what, outcome="equal" if right else "differs", detail=detail))
    for part in ("link", "traffic"):
        if part in run:
            names = ("reads", "writes", "bytes_per_step", "peak") if part == "traffic" else ("value",)
            told, now = ({k: side.get(part, {}).get(k) for k in names} for side in (run, other))
            found.append(_equal(f"{name}: {part}, computed", told, now))
    return found


def _equal(what: str, told: Any, now: Any) -> Check:
    if told == now:
        return Check(what=what, outcome="equal")
    return Check(what=what, outcome="differs", detail=f"told {_short(told)}, now {_short(now)}")


def _short(value: Any) -> str:
    if isinstance(value, dict) and "cycles" in value:
        return f"{value['cycles']:,} cycles in {value['rows']} steps {value['phases']}"
    text = str(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _ratio(what: str, told: dict[str, Any], now: dict[str, Any]) -> Check:
    within = told["least"] <= now["value"] <= told["most"]
    return Check(
        what=what, outcome="ratio",
        detail=f"{now['value'] / told['value']:.2f} of what was told: {now['value']:.4g} now, {told['value']:.4g} told "
        f"({told['least']:.4g} to {told['most']:.4g}), {'within' if within else 'outside'} its spread",
    )  # fmt: skip
