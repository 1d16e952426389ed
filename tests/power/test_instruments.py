# SPDX-License-Identifier: Apache-2.0
"""SCPI instruments, simulated by pyvisa-sim; a GPU, by a module in place of pynvml."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import pytest

from nomul.host.power import Unreadable, open_meter
from nomul.host.power.nvml import NvmlMeter
from nomul.host.power.scpi import ScpiMeter
from nomul.model.errors import NomulError

SIMULATED = f"{Path(__file__).with_name('instruments.yaml')}@sim"


def scpi(name: str) -> ScpiMeter:
    return ScpiMeter(f"TCPIP::{name}::INSTR", library=SIMULATED)


def test_a_supply_that_knows_power():
    meter = scpi("supply")
    assert meter.read() == 2.5
    assert meter.name == "scpi ACME PSU-3303"
    assert meter.label == "measured"
    meter.close()
    meter.close()
    with pytest.raises(Unreadable, match=r"no answer to MEAS:POW"):
        meter.read()


def test_a_meter_of_volts_and_amperes():
    meter = scpi("meter")
    assert meter.read() == 2.5
    meter.close()


def test_an_overload():
    with pytest.raises(NomulError, match=r"must know MEAS:POW"):
        scpi("overload")


def test_an_overload_in_mid_run(monkeypatch: pytest.MonkeyPatch):
    meter = scpi("supply")
    for answer, said in [("9.91E37", "overflows"), ("-9.9E37", "overflows"), ("inf", "overflows"),
                         ("", "an empty answer"), ("ERROR", "'ERROR' in answer"), ("\xb5", "no answer")]:  # fmt: skip
        monkeypatch.setattr(meter._device, "read_raw", answer.encode)
        with pytest.raises(Unreadable, match=said):
            meter.read()
    monkeypatch.undo()
    meter.close()


@pytest.mark.parametrize("name", ["nonsense", "silent"])
def test_instruments_that_know_nothing(name: str):
    with pytest.raises(NomulError, match=f"scpi:TCPIP::{name}::INSTR: .*must know MEAS:POW"):
        scpi(name)


def test_no_such_resource():
    with pytest.raises(NomulError, match=r"scpi:TCPIP::nobody::INSTR: an empty answer to \*IDN"):
        scpi("nobody")
    with pytest.raises(NomulError, match=r"scpi:nonsense: does not open"):
        ScpiMeter("nonsense", library=SIMULATED)
    with pytest.raises(NomulError, match=r"VISA library"):
        ScpiMeter("TCPIP::x::INSTR", library="/nowhere.yaml@sim")


def test_a_real_backend_where_nobody_listens():
    """Within its time limit: refused at once where the port is closed, given up where nobody answers."""
    begin = time.monotonic()
    with pytest.raises(NomulError, match=r"scpi:TCPIP::127.0.0.1::9::SOCKET: .*Connection refused"):
        open_meter("scpi:TCPIP::127.0.0.1::9::SOCKET")
    assert time.monotonic() - begin < 10
    with socket.create_server(("127.0.0.1", 0)) as mute:
        begin = time.monotonic()
        with pytest.raises(NomulError, match=r"no answer to \*IDN"):
            open_meter(f"scpi:TCPIP::127.0.0.1::{mute.getsockname()[1]}::SOCKET")
        assert 0.5 < time.monotonic() - begin < 10


class Gpu:
    """The part of pynvml that is used."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True, counter: bool = True):
        self.driver, self.counter, self.lost = driver, counter, False
        self.energy_mj, self.power_mw, self.open = 5_000_000, 123_456, 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"gpu {index}"

    def nvmlDeviceGetName(self, device: str) -> str:
        return "RTX 0000"

    def nvmlDeviceGetPowerManagementLimitConstraints(self, device: str) -> list[int]:
        return [100_000, 700_000]

    def _ask(self, value: int) -> int:
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return value

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> int:
        if not self.counter:
            raise self.NVMLError("Not Supported")
        return self._ask(self.energy_mj)

    def nvmlDeviceGetPowerUsage(self, device: str) -> int:
        return self._ask(self.power_mw)


def test_gpu_with_a_counter():
    gpu = Gpu()
    meter = NvmlMeter(library=gpu)
    assert (meter.quantity, meter.name, meter.range_w) == ("joules", "nvml RTX 0000", (0.0, 1400.0))
    gpu.energy_mj += 2500
    assert meter.read() == pytest.approx(2.5)
    gpu.lost = True
    with pytest.raises(Unreadable, match=r"GPU is lost"):
        meter.read()
    meter.close()
    meter.close()
    assert gpu.open == 0


def test_gpu_without_a_counter():
    meter = NvmlMeter(library=Gpu(counter=False))
    assert meter.quantity == "watts"
    assert meter.read() == pytest.approx(123.456)


def test_gpus_that_are_not_there():
    gpu: Any = Gpu(driver=False)
    with pytest.raises(NomulError, match=r"no driver .Driver Not Loaded"):
        NvmlMeter(library=gpu)
    gpu = Gpu()
    with pytest.raises(NomulError, match=r"no GPU 3; there are 1, counted from 0"):
        NvmlMeter(3, library=gpu)
    assert gpu.open == 0


def test_the_real_library():
    """Where there is no driver, which is where tests run; else it works."""
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(NomulError, match=r"nvml: no driver"):
            open_meter("nvml")
    else:
        meter = NvmlMeter()
        assert meter.read() >= 0
        meter.close()
