# SPDX-License-Identifier: Apache-2.0
"""``nomul power`` with files that are hostile: one line, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from outcome import Nomul

REPORT = {
    "part": "LFE5U-85F",
    "core": {"comb": 10, "ff": 10, "bram": 0, "multipliers": 0, "fmax_mhz": 100},
    "activity": {"rates": {"core": {"comb": 0.1, "ff": 0.1}}},
}
T = 1_750_000_000
FILES = {
    "modelled: deep": ("[" * 100_000, "is not valid JSON"),
    "modelled: a deep field": ('{"part": ' + "[" * 50_000 + "]" * 50_000 + "}", "is not valid JSON"),
    "modelled: many digits": ('{"part": ' + "9" * 5000 + "}", "is not valid JSON"),
    "modelled: beyond floats": (json.dumps(REPORT | {"core": REPORT["core"] | {"ff": 10**400}}), "ff is a number of"),
    "modelled: no clock": (json.dumps(REPORT | {"core": REPORT["core"] | {"fmax_mhz": 0}}), "clock_mhz is 0; it"),
    "csv: a long title": (f"time,{'x' * 140_000}\n{T},1\n", "line 1: field larger than field limit"),
    "csv: a long field": (f"time,power\n{T},{'1' * 140_000}\n", "line 2: field larger than field limit"),
    "csv: endless product": (f"time,volts,amps\n{T},1e300,1e300\n{T + 1},1,1\n", "line 2: inf W; no more than"),
    "csv: an underscore": (f"time,power\n{T},1\n{T + 1},1_0\n", "line 3: power '1_0'; it must be a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_hostile_files(nomul: Nomul, tmp_path: Path, case: str):
    text, said = FILES[case]
    path = tmp_path / "file"
    path.write_text(text)
    line = nomul("power", f"{case.partition(':')[0]}:{path}", "--seconds", "0.1").failed()
    assert said in line
    assert str(path) in line
