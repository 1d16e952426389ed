# SPDX-License-Identifier: Apache-2.0
"""Meters by name, and what must not be needed for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nomul.host.power import CsvLog, open_meter
from nomul.model.errors import NomulError


@pytest.mark.parametrize(
    ("name", "watts"), [("constant:2.5W", 2.5), ("constant:2.5", 2.5), ("constant:850 mW", 0.85), ("constant:.5w", 0.5)]
)
def test_constant(name: str, watts: float):
    meter = open_meter(name)
    assert not isinstance(meter, CsvLog)
    assert meter.read() == pytest.approx(watts)
    assert meter.label == "constant"
    assert "nothing was measured" in meter.includes


@pytest.mark.parametrize(
    "text", ["", "W", "-2W", "0", "2.5kW", "nan", "inf", "1e3W", "two", "2.5 W W", "9" * 400]
)
def test_no_constant(text: str):
    with pytest.raises(NomulError, match=r"type for example constant:2.5W|it must be constant:WATTS"):
        open_meter(f"constant:{text}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hwmn:ina226", "no meter of kind 'hwmn'; did you mean hwmon:CHIP"),
        ("HWMON:ina226", "did you mean hwmon:CHIP"),
        ("modeled:r.json", "did you mean modelled:REPORT.json"),
        ("rappl", "did you mean rapl"),
        ("zzz", "did you mean hwmon:CHIP or iio:CHIP or .* or modelled:REPORT.json"),
        ("", "no meter of kind ''"),
        ("hwmon", "it must be hwmon:CHIP"),
        ("csv:", "it must be csv:FILE"),
        ("rapl:0", "it must be rapl"),
        ("nvml:x", "must be a number of a GPU"),
        ("nvml:²", "must be a number of a GPU"),
        ("csv:/nowhere.csv", "/nowhere.csv: no such file"),
        ("modelled:/nowhere.json", "/nowhere.json: no such file"),
    ],
)
def test_names_that_are_none(name: str, said: str):
    with pytest.raises(NomulError, match=said):
        open_meter(name)


def test_csv(tmp_path: Path):
    (tmp_path / "a:b.csv").write_text("time,power\n")
    assert isinstance(open_meter(f"csv:{tmp_path}/a:b.csv"), CsvLog)


def test_what_it_includes(tmp_path: Path):
    (tmp_path / "log.csv").write_text("time,power\n")
    assert open_meter(f"csv:{tmp_path}/log.csv", includes="the board's 5 V").includes == "the board's 5 V"
    with pytest.raises(NomulError, match=r"'constant:2W' is constant; what it includes"):
        open_meter("constant:2W", includes="all")


def test_a_raspberry_pi_needs_none_of_the_heavy_ones():
    program = (
        "import sys\n"
        "for name in ('amaranth', 'torch', 'pyvisa', 'pynvml', 'cocotb'): sys.modules[name] = None\n"
        "from nomul.host.power import open_meter\n"
        "assert open_meter('constant:2W').read() == 2\n"
        "try: open_meter('scpi:x')\n"
        "except ModuleNotFoundError as error: print(error.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "pyvisa\n"
