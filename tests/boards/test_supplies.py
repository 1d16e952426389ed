# SPDX-License-Identifier: Apache-2.0
"""Supplies of banks: what the pulses' density makes of the regulators' network, and what is refused."""

from __future__ import annotations

import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from nomul.hw.boards.board import BankSupplies
from nomul.hw.boards.registry import BOARDS
from nomul.hw.boards.supplies import Supplies, density

PINS = BankSupplies(resource="vccio_ctrl", volts=(1.8, 1.2, 3.3))


def output(share: float) -> float:
    """What a regulator gives that holds its node at 0.6 V: 68 kΩ from the filtered pulses, 53.6 kΩ from its output,
    13 kΩ to ground."""
    return 0.6 + 53_600 * (0.6 / 13_000 - (3.3 * share - 0.6) / 68_000)


@given(st.floats(1.0, 3.3))
def test_a_density_gives_its_volts(volts: float):
    assert output(density(volts) / (1 << 16)) == pytest.approx(volts, abs=1e-4)


@pytest.mark.parametrize("volts", [0.5, 4.0])
def test_what_no_density_gives(volts: float):
    with pytest.raises(ValueError, match=f"^supplies: {volts} V is not within the regulators' range$"):
        density(volts)


def test_pulses_are_as_dense_as_they_should_be_and_regulators_wait():
    supplies = Supplies(supplies=PINS, clock_hz=200_000)
    assert (supplies.settling, supplies.starting) == (10_880, 400)
    seen: list[tuple[int, int, int]] = []

    async def watch(ctx) -> None:
        outputs = supplies.supply_pulses, supplies.supply_on, supplies.good
        async for _, _, pulses, on, good in ctx.tick().sample(*outputs):
            seen.append((pulses, on, good))
            if len(seen) == 12_000:
                return

    simulator = Simulator(supplies)
    simulator.add_clock(1e-6)
    simulator.add_testbench(watch)
    simulator.run()
    for k, volts in enumerate(PINS.volts):
        filtered = share = density(volts) / (1 << 16)
        for pulses, _, _ in seen:  # of the filter, whose time constant is 1360 of these cycles, the ripple
            filtered += ((pulses >> k & 1) - filtered) / 1360
            assert output(filtered) == pytest.approx(output(share), abs=0.01)
        assert sum(pulses >> k & 1 for pulses, _, _ in seen) == pytest.approx(len(seen) * share, abs=1.5)
    on, good = ([one[k] for one in seen].index(1) for k in (1, 2))
    assert abs(on - supplies.settling) <= 2
    assert abs(good - on - supplies.starting) <= 2


def test_the_transceivers_bank_has_the_voltage_of_its_pads():
    board = BOARDS["butterstick"]
    assert board.supplies.volts[2] == 1.8
    assert board.link.attributes["IO_TYPE"] == "LVCMOS18"
    assert len(board.pins("vccio_ctrl", "pdm").sites) == len(board.supplies.volts)
