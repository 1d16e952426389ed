# SPDX-License-Identifier: Apache-2.0
"""``nomul power``, and toggle rates for modelled power."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from outcome import Nomul

from nomul.host.cli.activity import main, rates
from nomul.host.cli.common import compile_for, load_any
from nomul.sim.toggles import Toggles


def test_a_constant(nomul: Nomul):
    shown = nomul("power", "constant:2.5W", "--seconds", "0.3")
    assert shown.status == 0
    assert shown.out.startswith("2.5 W, constant\n")
    assert "nothing was measured" in shown.out
    found = nomul("power", "constant:2.5W", "--seconds", "0.3", "--json").json
    assert found["label"] == "constant"
    assert found["mean_watts"] == pytest.approx(2.5)
    assert found["joules"] == pytest.approx(2.5 * found["seconds"])
    assert found["gaps"] == []


def test_a_log_with_a_hole(nomul: Nomul, tmp_path: Path):
    """Gaps are told, and left out."""
    now = time.time()
    rows = [f"{now + t},{watts}\n" for t, watts in ((0, 1), (1, 1), (2, 1), (90, 3), (91, 3), (92, 3))]
    (tmp_path / "log.csv").write_text("time,power\n" + "".join(rows))
    found = nomul("power", f"csv:{tmp_path}/log.csv", "--seconds", "0.1", "--json").json
    assert found["joules"] == pytest.approx(2 * 1 + 2 * 3, rel=1e-4)
    assert found["seconds"] == pytest.approx(4, rel=1e-4)
    assert found["rate_hz"] == pytest.approx(1, rel=1e-4)
    assert "between lines 4 and 5" in found["gaps"][0]


@pytest.mark.parametrize(
    ("meter", "said"),
    [
        ("constant:much", "is no power"),
        ("watts:2", "no meter of kind 'watts'"),
        ("csv:/nowhere", "/nowhere: no such file"),
        ("hwmon:no-such-chip", "no such folder|no device is called"),
    ],
)
def test_meters_that_are_none(nomul: Nomul, meter: str, said: str):
    line = nomul("power", meter, "--seconds", "0.1").failed()
    assert any(part in line for part in said.split("|"))


def test_bad_usage(nomul: Nomul):
    assert nomul("power").status == 2
    assert nomul("power", "constant:1", "--seconds", "0").status == 2


def test_a_missing_library(nomul: Nomul, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "pyvisa", None)
    assert "pip install 'nomul[meters]'" in nomul("power", "scpi:TCPIP::x::INSTR").failed()


# Activity


def test_a_unit_without_signals_gets_the_mean():
    units = {
        "a": Toggles(cycles=10, bits={"ff": 4, "comb": 2}, changes={"ff": 20, "comb": 2}, reads=1, accesses=5),
        "b": Toggles(cycles=10, bits={"ff": 4, "comb": 0}, changes={"ff": 0, "comb": 0}),
    }
    found = rates(units, ["a", "b", "c"])
    assert found["a"] == {"ff": 0.5, "comb": 0.1, "bram": 0.5}
    assert found["b"] == {"ff": 0.0, "comb": 0.1, "bram": 0.5}
    assert found["c"] == {"ff": 0.25, "comb": 0.1, "bram": 0.5}


def test_reports_that_are_none(tmp_path: Path):
    path = tmp_path / "r.json"
    for text in ("", "[]", "{}", '{"configuration": {}}'):
        path.write_text(text)
        result = CliRunner().invoke(main, [str(path)])
        assert result.exit_code == 1
        assert "not a report of nomul report --json" in result.output
    path.write_text(json.dumps({"configuration": {"engine": "select", "bytes_per_beat": 36}, "units": {}}))
    result = CliRunner().invoke(main, [str(path)])
    assert result.exit_code == 1
    assert "is of another core than" in result.output


@pytest.mark.sweep
def test_activity_of_the_shipped_core(tmp_path: Path):
    """The weight memory is read in nearly each cycle that streams, which the core's own counters tell."""
    _, config = compile_for(load_any(None).model, engine="select", bytes_per_beat=36)
    path = tmp_path / "report.json"
    report = {"configuration": json.loads(config.to_json()), "units": {"weights": {}, "engine": {}, "link": {}}}
    path.write_text(json.dumps(report))
    result = CliRunner().invoke(main, [str(path)])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["activity"]
    assert found["cycles"] > 8 * 32
    assert found["rates"]["weights"]["bram"] == pytest.approx(7276 / 9200, abs=0.06)
    assert found["rates"]["link"]["ff"] < 0.05 < found["rates"]["engine"]["ff"] < 0.5
