# SPDX-License-Identifier: Apache-2.0
"""Whether a bench's figures follow from its own samples, sizes and settings: all is computed again and compared."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from nomul.hw.dram.boards import BOARDS
from nomul.model.geometry import Geometry
from nomul.model.ternary import TRITS_PER_BYTE

from .derived import link_figure, peak_figure, roofline, traffic_figures
from .document import cells
from .energy import energy_figures, steady_figures
from .measure import Case, cases, figures_of
from .session import FROM_BOARD, FROM_CONTROLLER, FROM_NOTHING, FROM_REPORT, FROM_USER, Settings
from .targets import KEYS, described

__all__ = ["contradictions", "differences", "recomputed"]

_TOLERANCE = 1e-9
_SHOWN = 5
_SECONDS = (1e-9, 1e7)  # of a request


def differences(told: Any, right: Any, where: str) -> Iterator[str]:
    """Every place in which what a file tells is not what it must be; numbers may differ by rounding."""
    if isinstance(right, dict) and isinstance(told, dict):
        for key in dict.fromkeys([*right, *told]):
            if key not in told:
                yield f"{where}: {key} is missing"
            elif key not in right:
                yield f"{where}: {key} has no place there"
            else:
                yield from differences(told[key], right[key], f"{where}: {key}")
    elif isinstance(right, list) and isinstance(told, list) and len(right) == len(told):
        for number, (one, other) in enumerate(zip(told, right, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    else:
        numbers = all(isinstance(side, int | float) and not isinstance(side, bool) for side in (told, right))
        # what is above idle is a difference: it may be all rounding
        if not (math.isclose(told, right, rel_tol=_TOLERANCE, abs_tol=1e-15) if numbers else told == right):
            yield f"{where} is {_short(told)}, it follows {_short(right)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def contradictions(document: dict[str, Any], settings: Settings) -> Iterator[tuple[str, list[str]]]:
    """What was looked at, and what is wrong with it; an empty list if nothing is.

    Parameters
    ----------
    document : dict
    settings : Settings
        The document's.
    """
    yield "model: sizes", list(_model(document))
    yield "core: configuration, roofline", list(_core(document, settings))
    yield "settings: a run for each case", list(_runs(document, settings))
    yield "settings: board and meters", list(_asked(document, settings))
    for target in document["targets"]:
        yield f"{target['name']}: name and label", list(_identity(target))
    for target, run, name in cells(document):
        yield f"{name}: figures from samples", recomputed(document, target, run)[:_SHOWN]


def _model(document: dict[str, Any]) -> Iterator[str]:
    model = document["model"]
    geometry = Geometry(**model["geometry"])
    for key in ("ternary_weights", "parameters"):
        yield from differences(model[key], getattr(geometry, key), key)


def _core(document: dict[str, Any], settings: Settings) -> Iterator[str]:
    core, memory = document["core"], BOARDS[settings.dram] if settings.dram else None
    configuration, clock_hz = core["configuration"], core["clock_hz"]
    streamed = "port" in configuration
    yield from differences(core["kind"], "streamed" if streamed else "on chip", "kind")
    yield from differences(configuration.get("port", "onchip"), settings.weights, "configuration: port")
    yield from differences(configuration["lanes"], settings.lanes, "configuration: lanes")
    trits = TRITS_PER_BYTE * configuration["bytes_per_beat"]
    yield from differences(core["trits_per_cycle"], trits, "trits_per_cycle")
    least = document["model"]["ternary_weights"] / trits
    if not core["bound_cycles"] >= 0.999 * least:
        yield f"bound_cycles is {core['bound_cycles']:g}; all weights alone take {least:,.0f}"
    yield from _clock(document, settings)
    yield from differences(document["roofline"], roofline(configuration, memory, clock_hz), "roofline")


def _clock(document: dict[str, Any], settings: Settings) -> Iterator[str]:
    """What the clock is, where that is known, and what is said of where it comes from."""
    core, told = document["core"], document["core"]["clock_from"]
    if any(target["label"] == "measured" for target in document["targets"] if target["key"] == "board"):
        right: tuple[str, float | None] = FROM_BOARD, None
    elif any(name.strip().startswith("modelled:") for name in settings.meters):
        right = FROM_REPORT, None
    elif settings.clock_mhz is not None:
        right = FROM_USER, settings.clock_mhz * 1e6
    elif settings.dram is not None:
        right = f"{FROM_CONTROLLER}{settings.dram}", BOARDS[settings.dram].clock_hz
    else:
        right = FROM_NOTHING, None
    if not told.startswith(right[0]):
        yield f"clock_from is {_short(told)}, it follows {right[0]}"
    if right[1] is not None:
        yield from differences(core["clock_hz"], right[1], "clock_hz")


def _runs(document: dict[str, Any], settings: Settings) -> Iterator[str]:
    """Each target has a run of each case, with as many samples as were asked for; what is not there is named."""
    wanted = [(c.prompt, c.output, c.users) for c in cases(settings.prompts, settings.outputs, settings.lanes)]
    for target in document["targets"]:
        found = [(run["prompt"], run["output"], run["users"]) for run in target["runs"]]
        if found != wanted:
            asked = f"settings ask for {_short(wanted)}"
            yield f"{target['name']}: runs of (prompt, output, users) {_short(found)}, {asked}"
        counts = {len(run["samples"]) for run in target["runs"]}
        if counts != {settings.repeat}:
            yield f"{target['name']}: {sorted(counts)} samples, settings ask for {settings.repeat}"
    keys = sorted([part["key"] for part in (*document["targets"], *document["absent"])])
    if keys != sorted(KEYS):
        yield f"targets and absent are {_short(keys)}; each of {', '.join(KEYS)} is in one of them, once"
    yield from differences(document["seed"], settings.seed, "seed")


def _asked(document: dict[str, Any], settings: Settings) -> Iterator[str]:
    """A simulated board is one that was asked for, of the design that is told; what has a meter has joules."""
    metered = {"cpu" if name.strip() == "rapl" else "board" for name in settings.meters}
    for target in document["targets"]:
        board = target["key"] == "board"
        if board and (settings.board == "sim") != (target["label"] == "simulated"):
            yield f"board is {_short(settings.board)}, and {target['name']} is {target['label']}"
        if board:
            yield from differences(target.get("design"), document["core"]["design"], f"{target['name']}: design")
        wanted = ("board" if board else "cpu") in metered
        if any(("energy" in run) != wanted for run in target["runs"]):
            yield f"{target['name']}: meters are {_short(list(settings.meters))}, a run has energy if one is for it"


def _identity(target: dict[str, Any]) -> Iterator[str]:
    name, labels, what = described(target["key"], target["label"])
    if not re.fullmatch(name, target["name"]):
        yield f"name is {_short(target['name'])}; a target {target['key']} is called otherwise"
    if target["label"] not in labels:
        yield f"label is {target['label']}; one of {', '.join(labels)}"
    elif target["what"] != what:
        yield f"what is {_short(target['what'])}, it follows {_short(what)}"


def recomputed(document: dict[str, Any], target: dict[str, Any], run: dict[str, Any]) -> list[str]:
    """What in a run does not follow from its own samples; empty if all does."""
    case = Case(prompt=run["prompt"], output=run["output"], users=run["users"])
    if not run["samples"]:
        return ["it has no samples"]
    wrong: list[str] = []
    for number, sample in enumerate(run["samples"]):
        if not _SECONDS[0] <= sample["first_s"] < sample["last_s"] <= _SECONDS[1]:
            return [f"sample {number}: first_s {sample['first_s']:g} and last_s {sample['last_s']:g} are no times"]
        wrong += _sample(document["core"], case, target, sample, f"sample {number}")
    times = [(sample["first_s"], sample["last_s"]) for sample in run["samples"]]
    wrong += differences(run["figures"], figures_of(case, times, target["label"]), "figures")
    lengths = {len(text) for text in run["tokens"]}
    if len(run["tokens"]) != case.users or lengths != {case.output}:
        wrong.append(f"tokens: {len(run['tokens'])} users with {sorted(lengths)} tokens")
    if target["key"] == "board":
        wrong += _board(document, case, target, run, times)
    if "energy" in run:
        wrong += _energy(case, run, times)
    return wrong


def _sample(
    core: dict[str, Any], case: Case, target: dict[str, Any], sample: dict[str, Any], where: str
) -> Iterator[str]:
    """Cycles of a board's sample: phases sum to them, rows are the request's, simulated times follow."""
    if target["key"] != "board":
        return
    prefill, decode, clock_hz = sample["prefill"], sample["decode"], core["clock_hz"]
    rows = -(-case.prompt // core["configuration"]["lanes"]) if case.users == 1 else case.prompt
    for name, part, steps in (("prefill", prefill, rows), ("decode", decode, case.output - 1)):
        if sum(part["phases"].values()) != part["cycles"]:
            yield f"{where}: the phases of {name} do not sum to its cycles"
        yield from differences(part["rows"], steps, f"{where}: rows of {name}")
    if target["label"] == "simulated":
        for name, cycles in (("first_s", prefill["cycles"]), ("last_s", prefill["cycles"] + decode["cycles"])):
            if not math.isclose(sample[name], cycles / clock_hz):
                yield f"{where}: {name} is not its cycles over {clock_hz:g} Hz"


def _board(
    document: dict[str, Any], case: Case, target: dict[str, Any], run: dict[str, Any], times: list[tuple[float, float]]
) -> Iterator[str]:
    """The link, and what goes through the memory."""
    core, dram = document["core"], document["settings"].get("dram")
    yield from differences(run["link"], link_figure(case, core["configuration"]), "link")
    peak = peak_figure(core["configuration"], BOARDS[dram] if dram else None, core["clock_hz"])
    if peak is None:
        if "traffic" in run:
            yield "traffic: weights lie on the chip"
        return
    told = run["traffic"]
    right = traffic_figures(
        case, times, reads=told["reads"], writes=told["writes"], ahead_most=told["bytes_per_step"]["ahead_most"],
        ternary_weights=document["model"]["ternary_weights"], peak=peak, label=target["label"],
    )  # fmt: skip
    yield from differences(told, right, "traffic")


def _energy(case: Case, run: dict[str, Any], times: list[tuple[float, float]]) -> Iterator[str]:
    """Joules a token: from those of the samples and idle power, or from a steady power and the speed."""
    told = run["energy"]
    if "watts" in told["meter"]:
        watts = told["meter"]["watts"]
        if watts["label"] not in ("modelled", "constant") or watts["unit"] != "W" or not watts["value"] > 0:
            yield f"energy: meter: watts is {_short(watts)}"
            return
        right = steady_figures(watts, case, run["figures"])
    else:
        joules, idle = told["samples"], told["idle"]
        label = told["decode"]["joules_per_token"]["label"]
        if len(joules) != len(times) or not all(one[part] > 0 for one in joules for part in ("decode", "request")):
            yield "energy: samples: each repetition has joules above 0, of decode and of request"
            return
        if any(one["decode"] > one["request"] for one in joules):
            yield "energy: samples: decode took more than the whole request"
        if label not in ("measured", "constant", "modelled") or (idle is None) == (label == "measured"):
            yield "energy: a measured one has idle power, no other has"
        right = energy_figures(case, times, joules, idle, label)
        if idle is not None:
            for side in ("before", "after"):
                if (idle[side]["unit"], idle[side]["label"]) != ("W", label):
                    yield f"energy: idle: {side} is {_short(idle[side])}"
    yield from differences({k: v for k, v in told.items() if k != "meter"}, right, "energy")
