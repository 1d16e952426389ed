# SPDX-License-Identifier: Apache-2.0
"""hwmon, IIO and RAPL: files as the kernel lays them out, and what may be wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trees import Clock, tree

from nomul.host.power import Recorder, Unreadable
from nomul.host.power.hwmon import HwmonMeter
from nomul.host.power.iio import IioMeter
from nomul.host.power.rapl import RaplMeter
from nomul.model.errors import NomulError

INA226 = {
    "hwmon2/name": "ina226",
    "hwmon2/in0_input": 5,
    "hwmon2/in1_input": 5020,
    "hwmon2/curr1_input": 498,
    "hwmon2/power1_input": 2_500_000,
    "hwmon2/shunt_resistor": 10_000,
    "hwmon2/update_interval": 9,
    "hwmon0/name": "cpu_thermal",
    "hwmon0/temp1_input": 48_000,
}


def test_hwmon_power(tmp_path: Path):
    meter = HwmonMeter("ina226", root=tree(tmp_path, INA226))
    assert meter.read() == pytest.approx(2.5)
    assert meter.range_w == pytest.approx((0, 8.192 * 36))
    assert meter.rate_hz == pytest.approx(1000 / 9)
    assert meter.name == "hwmon ina226 (hwmon2)"
    assert meter.label == "measured"
    assert HwmonMeter("hwmon2", root=tmp_path).read() == pytest.approx(2.5)


def test_hwmon_current_and_voltage(tmp_path: Path):
    tree(tmp_path, INA226)
    (tmp_path / "hwmon2/power1_input").unlink()
    assert HwmonMeter("ina226", root=tmp_path).read() == pytest.approx(0.498 * 5.02)


def test_hwmon_ina260_has_its_shunt_inside(tmp_path: Path):
    tree(tmp_path, {"hwmon1/name": "ina260", "hwmon1/curr1_input": 14_000, "hwmon1/power1_input": 70_000_000})
    meter = HwmonMeter("ina260", root=tmp_path)
    assert meter.range_w == pytest.approx((0, 540))
    assert meter.read() == pytest.approx(70)
    tree(tmp_path, {"hwmon1/curr1_input": 15_000})
    with pytest.raises(Unreadable, match=r"15 A is the shunt's full scale"):
        meter.read()


def test_hwmon_that_is_not_there(tmp_path: Path):
    tree(tmp_path, INA226)
    with pytest.raises(NomulError, match=r"no device is called 'ina219'.*hwmon0 \(cpu_thermal\), hwmon2 \(ina226\)"):
        HwmonMeter("ina219", root=tmp_path)
    with pytest.raises(NomulError, match=r"cpu_thermal has neither power1_input"):
        HwmonMeter("cpu_thermal", root=tmp_path)
    with pytest.raises(NomulError, match=r"no such folder"):
        HwmonMeter("ina226", root=tmp_path / "nowhere")
    shutil.copytree(tmp_path / "hwmon2", tmp_path / "hwmon3")
    with pytest.raises(NomulError, match=r"2 devices are called ina226; name one: hwmon2, hwmon3"):
        HwmonMeter("ina226", root=tmp_path)


@pytest.mark.parametrize("text", ["", "over", "nan", "inf", "0x12", "1 2", "1_0", "١"])
def test_hwmon_nonsense(tmp_path: Path, text: str):
    meter = HwmonMeter("ina226", root=tree(tmp_path, INA226))
    tree(tmp_path, {"hwmon2/power1_input": text})
    with pytest.raises(Unreadable, match=r"power1_input: .* is not a number"):
        meter.read()


def test_hwmon_binary(tmp_path: Path):
    meter = HwmonMeter("ina226", root=tree(tmp_path, INA226))
    (tmp_path / "hwmon2/power1_input").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unreadable, match=r"cannot be read .not text"):
        meter.read()


@pytest.mark.parametrize("current", [8192, -8192])
def test_hwmon_overflows(tmp_path: Path, current: int):
    meter = HwmonMeter("ina226", root=tree(tmp_path, INA226))
    tree(tmp_path, {"hwmon2/curr1_input": current})
    with pytest.raises(Unreadable, match=r"8.192 A is the shunt's full scale: it has overflowed"):
        meter.read()


def test_hwmon_a_shunt_of_nothing(tmp_path: Path):
    tree(tmp_path, INA226 | {"hwmon2/shunt_resistor": 0})
    with pytest.raises(NomulError, match=r"shunt_resistor: 0 µΩ"):
        HwmonMeter("ina226", root=tmp_path)


def test_hwmon_unplugged_in_mid_run(tmp_path: Path):
    clock = Clock()
    recorder = Recorder(HwmonMeter("ina226", root=tree(tmp_path, INA226)), clock=clock)

    def poll(times: int) -> None:
        for _ in range(times):
            recorder.poll()
            clock.now += 0.02

    poll(3)
    shutil.move(tmp_path / "hwmon2", tmp_path / "away")
    poll(3)
    shutil.move(tmp_path / "away", tmp_path / "hwmon2")
    poll(3)
    (gap,) = recorder.trace().gaps
    assert gap.end - gap.begin == pytest.approx(0.08)
    assert "the current is gone; is the device still attached?" in gap.why
    shutil.rmtree(tmp_path / "hwmon2")
    with pytest.raises(NomulError, match=r"is the device still attached.*nothing usable for"):
        poll(200)


# IIO

INA219 = {
    "iio:device0/name": "ina219",
    "iio:device0/in_voltage0_shuntraw": 0,
    "iio:device0/in_voltage0_raw": 500,
    "iio:device0/in_voltage0_scale": 0.01,
    "iio:device0/in_voltage1_raw": 1255,
    "iio:device0/in_voltage1_scale": 4,
    "iio:device0/in_power2_raw": 125,
    "iio:device0/in_power2_scale": 20.0,
    "iio:device0/in_current3_raw": 500,
    "iio:device0/in_current3_scale": 1.0,
    "iio:device0/in_shunt_resistor": 0.1,
    "iio:device0/in_sampling_frequency": 118,
}


def test_iio_power(tmp_path: Path):
    meter = IioMeter("ina219", root=tree(tmp_path, INA219))
    assert meter.read() == pytest.approx(2.5)
    assert meter.rate_hz == 118
    assert meter.range_w == pytest.approx((0, 3.2 * 26))


def test_iio_offset_counts_before_scale(tmp_path: Path):
    meter = IioMeter("iio:device0", root=tree(tmp_path, INA219 | {"iio:device0/in_power2_offset": -25}))
    assert meter.read() == pytest.approx(2.0)


def test_iio_current_and_bus_voltage(tmp_path: Path):
    tree(tmp_path, INA219)
    (tmp_path / "iio:device0/in_power2_raw").unlink()
    assert IioMeter("ina219", root=tmp_path).read() == pytest.approx(0.5 * 5.02)


def test_iio_a_processed_channel(tmp_path: Path):
    tree(tmp_path, {"iio:device3/name": "pac1934", "iio:device3/in_power_input": 1500.5})
    assert IioMeter("pac1934", root=tmp_path).read() == pytest.approx(1.5005)


def test_iio_faults(tmp_path: Path):
    meter = IioMeter("ina219", root=tree(tmp_path, INA219))
    tree(tmp_path, {"iio:device0/in_power2_raw": "busy"})
    with pytest.raises(Unreadable, match=r"in_power2_raw: 'busy' is not a number"):
        meter.read()
    for raw in (3200, -3200):
        tree(tmp_path, {"iio:device0/in_current3_raw": raw})
        with pytest.raises(Unreadable, match=r"3.2 A is the shunt's full scale: it has overflowed"):
            meter.read()
    for shunt in (0, -1):
        tree(tmp_path, {"iio:device0/in_shunt_resistor": shunt})
        with pytest.raises(NomulError, match=rf"in_shunt_resistor: {shunt} Ω; it must be above 0"):
            IioMeter("ina219", root=tmp_path)
    tree(tmp_path, {"iio:device1/name": "bmp280", "iio:device1/in_temp_input": 20})
    with pytest.raises(NomulError, match=r"bmp280 has neither a power nor"):
        IioMeter("bmp280", root=tmp_path)


# RAPL

ZONES = {
    "intel-rapl/enabled": 1,
    "intel-rapl:0/name": "package-0",
    "intel-rapl:0/energy_uj": 262_000_000_000,
    "intel-rapl:0/max_energy_range_uj": 262_143_328_850,
    "intel-rapl:0/constraint_0_max_power_uw": 65_000_000,
    "intel-rapl:0:0/name": "core",
    "intel-rapl:0:0/energy_uj": 1,
    "intel-rapl:0:0/max_energy_range_uj": 262_143_328_850,
    "intel-rapl:0:1/name": "dram",
    "intel-rapl:0:1/energy_uj": 100_000_000,
    "intel-rapl:0:1/max_energy_range_uj": 65_712_999_613,
    "intel-rapl:1/name": "psys",
    "intel-rapl:1/energy_uj": 5,
    "intel-rapl:1/max_energy_range_uj": 262_143_328_850,
}


def test_rapl_adds_zones_and_wraps(tmp_path: Path):
    clock = Clock()
    meter = RaplMeter(root=tree(tmp_path, ZONES), clock=clock)
    assert meter.quantity == "joules"
    assert "package-0, dram" in meter.includes
    assert meter.read() == 0
    clock.now += 4
    tree(tmp_path, {"intel-rapl:0/energy_uj": 56_671_150, "intel-rapl:0:1/energy_uj": 103_000_000})
    assert meter.read() == pytest.approx(200.0 + 3.0)  # 143.33 J to the end of the counter, 56.67 J after


def test_rapl_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree(tmp_path, ZONES)
    read = Path.read_text

    def refuse(path: Path, *arguments: object, **more: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(NomulError, match=r"may not be read: sudo chmod a.r .*energy_uj"):
        RaplMeter(root=tmp_path)


def test_rapl_without_zones(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no RAPL zones"):
        RaplMeter(root=tmp_path)
    tree(tmp_path, ZONES | {"intel-rapl:0/max_energy_range_uj": 0})
    with pytest.raises(NomulError, match=r"max_energy_range_uj: 0 J"):
        RaplMeter(root=tmp_path)
