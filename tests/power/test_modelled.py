# SPDX-License-Identifier: Apache-2.0
"""Modelled power: sums by hand, error bars, sources, and reports that lack something."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomul.host.power.modelled import (
    ModelledMeter,
    coefficients,
    design_power,
    memory_power,
    model_power,
)
from nomul.hw.dram.boards import BOARDS, DramBoard
from nomul.model.errors import NomulError

AREA = {"comb": 10_000, "ff": 8_000, "bram": 190, "multipliers": 30}
REPORT: dict[str, Any] = {
    "part": "LFE5U-85F",
    "core": AREA | {"fmax_mhz": 100.0},
    "units": {"engine": {"comb": 4_000, "ff": 4_000, "bram": 0, "multipliers": 0},
              "vector": {"comb": 6_000, "ff": 4_000, "bram": 190, "multipliers": 30}},
    "activity": {"rates": {"engine": {"comb": 0.2, "ff": 0.1}, "vector": {"comb": 0.1, "ff": 0.05, "bram": 0.5}}},
}  # fmt: skip


def numbers(table: Any) -> list[tuple[str, list[float]]]:
    """All [low, value, high] of the file, with the source beside each."""
    found = []
    for value in table.values():
        if isinstance(value, dict):
            found += numbers(value)
        elif isinstance(value, list):
            found.append((table["source"], value))
    return found


def test_every_coefficient_has_an_error_bar_and_a_source():
    found = numbers(coefficients())
    assert len(found) >= 10
    for source, (low, value, high) in found:
        assert 0 < low < value < high
        assert len(source) > 10
    for chip in coefficients()["memory"].values():
        assert "TN-41-01" in chip["source"]


def test_by_hand():
    found = model_power(REPORT, where="r")
    assert found["static"].value == pytest.approx(0.212 * 1.1, rel=2e-3)
    assert found["clock"].value == pytest.approx(8_000 * 0.05e-12 * 100e6)
    assert found["signals"].value == pytest.approx((800 + 400 + 600 + 200) * 0.72e-12 * 100e6)
    assert found["bram"].value == pytest.approx(190 * 0.5 * 9e-12 * 100e6)
    assert found["multipliers"].value == pytest.approx(30 * 36 * 0.05 * 1.09e-12 * 100e6)
    assert found["pins"].value == 0


def test_rates_of_the_whole_core_and_a_clock_of_its_own():
    report = copy.deepcopy(REPORT)
    report["activity"] = {"rates": {"core": {"comb": 0.2, "ff": 0.1, "bram": 0.5}}, "clock_mhz": 50.0,
                          "pins": {"count": 10, "rate": 0.5, "volts": 3.3}}  # fmt: skip
    found = model_power(report, where="r")
    assert found["signals"].value == pytest.approx((2000 + 800) * 0.72e-12 * 50e6)
    assert found["pins"].value == pytest.approx(10 * 0.5 * 3.3**2 * 5e-12 * 50e6)


@given(clock=st.floats(1, 400), rate=st.floats(0, 1))
def test_in_proportion_and_in_order(clock: float, rate: float):
    settings = {"part": "LFE5U-25F", "areas": {"u": AREA}, "rates": {"u": {"comb": rate, "ff": rate, "bram": rate}}}
    found = design_power(clock_mhz=clock, **settings)  # type: ignore[arg-type]
    twice = design_power(clock_mhz=2 * clock, **settings)  # type: ignore[arg-type]
    for name, watts in found.items():
        assert 0 <= watts.low <= watts.value <= watts.high
        factor = 1 if name in ("static", "auxiliary") else 2
        assert twice[name].value == pytest.approx(factor * watts.value)


def test_memory_by_hand():
    """Micron's formulas, with the currents written out."""
    found = memory_power(part="MT41K256M16", clock_mhz=400, read_share=0.9, write_share=0.01,
                         activates_per_second=1e6)  # fmt: skip
    v = 1.35
    assert found["background"].value == pytest.approx(v * 0.047 / 2)
    assert found["background"].high == pytest.approx(v * 0.047)
    row = v * (0.066 * 48.75e-9 - 0.047 * 35e-9 - 0.032 * 13.75e-9)
    assert found["activate"].value == pytest.approx(row * 1e6)
    assert found["read"].value == pytest.approx(v * (0.235 - 0.047) * 0.9 / 2)
    assert found["write"].value == pytest.approx(v * (0.171 - 0.047) * 0.01 / 2)
    assert found["refresh"].value == pytest.approx(v * (0.235 - 0.047) * 260 / 7800)
    assert found["data"].value == pytest.approx(20 * (0.9 * 0.0046 + 0.01 * 0.0212))


def test_sdr_by_hand():
    found = memory_power(part="AS4C32M16SB", clock_mhz=120, read_share=0.8, write_share=0.02,
                         activates_per_second=2e5)  # fmt: skip
    assert found["background"].value == pytest.approx(3.3 * 0.06)
    assert found["background"].high == pytest.approx(3.3 * 0.06 * 1.25 * 120 / 66.7)
    assert found["activate"].value == pytest.approx(3.3 * 0.08 * 63e-9 * 2e5)
    assert found["read"].value == pytest.approx(3.3 * 0.11 * 0.8 * 120 / 143)
    assert found["write"].value == pytest.approx(3.3 * 0.11 * 0.02 * 120 / 143)
    assert found["refresh"].value == pytest.approx(3.3 * 0.17 * 63 / 7800)
    assert found["data"].value == pytest.approx(16 * 0.5 * 0.8 * 120e6 * 5e-12 * 3.3**2)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_the_memory_of_every_board(board: DramBoard):
    """Each part has coefficients; reading costs, and more at a higher share."""
    part, clock = board.part.name.partition("-")[0], board.ratio * board.clock_hz / 1e6
    idle, busy = (
        memory_power(part=part, clock_mhz=clock, read_share=share, write_share=0.0, activates_per_second=share * 3e5)
        for share in (0.0, 0.9)
    )
    for watts in (*idle.values(), *busy.values()):
        assert 0 <= watts.low <= watts.value <= watts.high
    whole = [sum(watts.value for watts in found.values()) for found in (idle, busy)]
    assert 0.005 < whole[0] < whole[1] < 1.0
    assert coefficients()["memory"][part]["kind"] == board.part.kind
    with pytest.raises(NomulError, match=f"no coefficients of the memory X; there are: .*{part}"):
        memory_power(part="X", clock_mhz=1, read_share=0, write_share=0, activates_per_second=0)


def test_the_meter(tmp_path: Path):
    report = copy.deepcopy(REPORT)
    report["activity"]["memory"] = {"part": "MT41K256M16", "clock_mhz": 150, "read_share": 0.9, "write_share": 0.0,
                                    "activates_per_second": 3e5}  # fmt: skip
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    meter = ModelledMeter(path)
    assert meter.label == "modelled"
    assert meter.bounds_w is not None
    assert meter.bounds_w[0] < meter.read() < meter.bounds_w[1]
    assert meter.read() == pytest.approx(sum(watts.value for watts in meter.parts.values()))
    assert "LFE5U-85F and DDR3 memory MT41K256M16; not regulators" in meter.includes
    path.write_text(json.dumps(REPORT))
    assert ModelledMeter(path).read() < meter.read()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("part"), "r: part is None"),
        (lambda r: r.update(part="LFE5U-99F"), "no coefficients of LFE5U-99F; there are: LFE5U-12F"),
        (lambda r: r.pop("core"), "r: core is missing"),
        (lambda r: r.pop("activity"), "r: activity is missing; python -m nomul.host.cli.activity adds it"),
        (lambda r: r["activity"].update(rates=[]), "r: activity: rates is no object"),
        (lambda r: r["activity"]["rates"].pop("vector"), "r: activity: rates: vector is missing"),
        (lambda r: r["activity"]["rates"]["vector"].pop("bram"), "bram is missing, and vector has 190 bram"),
        (lambda r: r["activity"]["rates"]["vector"].update(ff=1.5), "rates: vector: ff is 1.5; it must be 0 to 1"),
        (lambda r: r["activity"]["rates"]["vector"].update(ff=float("nan")), "ff is nan; it must be a number"),
        (lambda r: r["activity"]["rates"]["vector"].update(ff=True), "ff is True; it must be a number"),
        (lambda r: r["units"]["engine"].update(ff="many"), "r: engine: ff is 'many'"),
        (lambda r: r["units"]["engine"].update(ff=-1), "r: engine: ff is -1; it must be 0 to"),
        (lambda r: r["units"]["engine"].update(ff=10**400), "engine: ff is a number of many digits; it must be 0"),
        (lambda r: r["activity"].update(clock_mhz=10**400), "clock_mhz is a number of many digits; it must be 0"),
        (lambda r: r["activity"].update(clock_mhz=0), "clock_mhz is 0; it must be above 0"),
        (lambda r: r["core"].pop("fmax_mhz"), "clock_mhz is None; it must be a number"),
        (lambda r: r["activity"].update(memory={"part": "X"}), "memory: clock_mhz is missing"),
        (lambda r: r["activity"].update(pins={"count": 1, "rate": 0.1}), "pins: volts is None"),
    ],
)
def test_reports_that_lack_something(change: Any, said: str):
    report = copy.deepcopy(REPORT)
    change(report)
    with pytest.raises(NomulError, match=said):
        model_power(report, where="r")


def test_files_that_are_no_report(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no such file; nomul report --json"):
        ModelledMeter(tmp_path / "none.json")
    deep = '{"part": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for text in ("", "[1]", "{", "\x00", "\xff", deep, f'{{"part": {"9" * 5000}}}', '{"part": NaN}'):
        (tmp_path / "bad.json").write_text(text, encoding="latin-1")
        with pytest.raises(NomulError, match=r"bad.json: is (not valid JSON|a JSON list)"):
            ModelledMeter(tmp_path / "bad.json")
