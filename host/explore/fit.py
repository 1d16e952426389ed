# SPDX-License-Identifier: Apache-2.0
"""``python -m nomul.host.explore.fit``: the area model's coefficients, from the areas in ``areas.json``.

Points that are ``held_out`` are not fitted; the errors of both kinds are printed. ``--write`` replaces
``coefficients.toml``, the clocks in which are left as they are.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from nomul.model.core_config import CoreConfig
from nomul.model.numbers import acc_bits
from nomul.model.streamed_config import StreamedConfig

from .area import (
    engine_memories,
    engine_terms,
    memories,
    multipliers_of,
    rest_terms,
    total_block_rams,
)
from .cost import coefficients

__all__ = ["areas", "errors", "fit", "main"]

ENGINES = ("table", "select")
_ALONE = "streamed core alone"


def areas() -> list[dict[str, Any]]:
    """The areas that are known: ``what``, ``sizes``, the four counts, ``how`` and ``held_out``."""
    text = resources.files(__package__).joinpath("areas.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def _least(rows: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Coefficients of the least sum of squares of relative errors."""
    return np.linalg.lstsq(rows / wanted[:, None], np.ones(len(wanted)), rcond=None)[0]


def _fitted(terms: Sequence[dict[str, float]], wanted: Sequence[float], name: str) -> dict[str, float]:
    """Coefficients of terms; LUT RAM is LUTs as it is."""
    ram = 1.0 if name == "comb" else 0.0
    rest = np.array([value - ram * own["lut_ram"] for value, own in zip(wanted, terms, strict=True)])
    names = [key for key in terms[0] if key != "lut_ram" and any(own[key] for own in terms)]
    found = _least(np.array([[own[key] for key in names] for own in terms]), rest)
    return {**dict(zip(names, found.tolist(), strict=True)), "lut_ram": ram}


def _config(point: dict[str, Any]) -> CoreConfig | StreamedConfig:
    return (CoreConfig if point["what"] == "onchip" else StreamedConfig)(**point["sizes"])


def _engine_of(config: CoreConfig | StreamedConfig, table: dict[str, Any], name: str) -> float:
    kind = config.engine if isinstance(config, CoreConfig) else "table"
    terms = engine_terms(config.bytes_per_beat, config.lanes, config.tile_outputs, acc_bits(config.longest_row))
    return float(sum(table[kind][name][term] * value for term, value in terms.items()))


def fit() -> dict[str, Any]:
    """All coefficients."""
    points = [one for one in areas() if not one["held_out"]]
    found: dict[str, Any] = {}
    for kind in ENGINES:
        own = [one for one in points if one["what"] == kind]
        terms = [
            engine_terms(one["bytes_per_beat"], one["lanes"], one["outputs"], acc_bits(one["inputs"]))
            for one in (point["sizes"] for point in own)
        ]
        found[kind] = {name: _fitted(terms, [one[name] for one in own], name) for name in ("comb", "ff")}
    for what in ("onchip", "streamed"):
        found[what] = {}
        for name in ("comb", "ff"):
            own = [one for one in points if one["what"] in (what, _ALONE if what == "streamed" else what)]
            terms, wanted = [], []
            for one in own:
                config = _config(one)
                terms.append(rest_terms(config, alone=one["what"] == _ALONE))
                wanted.append(one[name] - _engine_of(config, found, name))
            found[what][name] = _fitted(terms, wanted, name)
    return found


def predicted(point: dict[str, Any], table: dict[str, Any]) -> dict[str, float]:
    """What the model says of a known point."""
    what, sizes = point["what"], point["sizes"]
    if what in ENGINES:
        bits = acc_bits(sizes["inputs"])
        terms = engine_terms(sizes["bytes_per_beat"], sizes["lanes"], sizes["outputs"], bits)
        own = engine_memories(what, sizes["bytes_per_beat"], sizes["lanes"], sizes["outputs"], bits)
        said = {name: sum(table[what][name][t] * v for t, v in terms.items()) for name in ("comb", "ff")}
        return {**said, "bram": total_block_rams(own), "multipliers": 0}
    config = _config(point)
    terms = rest_terms(config, alone=what == _ALONE)
    rest = table["onchip" if what == "onchip" else "streamed"]
    link = ("link", "tokens") if what == _ALONE else ()
    own = {name: memory for name, memory in memories(config).items() if name not in link}
    return {
        **{
            name: _engine_of(config, table, name) + sum(rest[name].get(t, 0.0) * v for t, v in terms.items())
            for name in ("comb", "ff")
        },
        "bram": total_block_rams(own),
        "multipliers": multipliers_of(config, alone=what == _ALONE),
    }  # fmt: skip


def errors(table: dict[str, Any], *, held_out: bool) -> dict[str, list[float]]:
    """Relative errors by count, of the points that were held out or of those that were fitted."""
    found: dict[str, list[float]] = {name: [] for name in ("comb", "ff", "bram", "multipliers")}
    for point in areas():
        if point["held_out"] == held_out:
            said = predicted(point, table)
            for name, values in found.items():
                values.append(abs(said[name] - point[name]) / max(point[name], 1))
    return found


def _toml(table: dict[str, Any], clock: dict[str, Any], around: dict[str, Any]) -> str:
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Made by python -m nomul.host.explore.fit --write from areas.json; LUT4 equivalents and flip-flops.",
    ]
    for what, own in table.items():
        for name, terms in own.items():
            lines += ["", f"[{what}.{name}]", *(f"{term} = {value:.4g}" for term, value in terms.items())]
    lines += [
        "", "# What a board adds to a core and its link: the memory's controller and PHY with what joins them, by its",
        "# kind; a link that is a USB device. From released bitstreams: Versa and ECPIX-5 lanes8; ULX3S; OrangeCrab,",
        "# ButterStick lanes1.",
    ]  # fmt: skip
    for what, terms in around.items():
        lines += [f"[around.{what}]", *(f"{term} = {value}" for term, value in terms.items()), ""]
    lines.pop()
    lines += [
        "", "# Clocks in MHz that routed designs reach on speed grade 6, the lowest and the highest that are",
        "# expected, and what a grade more is worth.", "[clock]",
        *(f"{name} = {value}" for name, value in clock.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    table = fit()
    for held_out in (False, True):
        print("held out:" if held_out else "fitted:")
        for name, values in errors(table, held_out=held_out).items():
            if values:
                median = statistics.median(values)
                print(f"  {name}: {len(values)} points, median {median:.2%}, largest {max(values):.2%}")
    if arguments == ["--write"]:
        known = coefficients()
        text = _toml(table, known["clock"], known["around"])
        Path(str(resources.files(__package__).joinpath("coefficients.toml"))).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
