# amaranth: UnusedElaboratable=no
# SPDX-License-Identifier: Apache-2.0
"""Dividers of the PLL: in the data sheet's ranges, exact, or refused with the nearest that there is."""

from __future__ import annotations

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomul.hw.boards.pll import DETECTOR_HZ, DIVIDERS, OUTPUT_HZ, VCO_HZ, Clocks, PllPlan, plan
from nomul.model.errors import NomulError

INPUTS = st.integers(10, 400).map(lambda mhz: mhz * 1_000_000)
CLOCKS = st.lists(st.integers(25, 3200).map(lambda eighths: eighths * 125_000), min_size=1, max_size=3)


def possible(input_hz: int, outputs: list[int]) -> bool:
    """Whether any dividers at all give the outputs: the slow way."""
    return any(
        VCO_HZ[0] <= (vco := Fraction(input_hz * feedback, input_div)) <= VCO_HZ[1]
        and DETECTOR_HZ[0] <= Fraction(input_hz, input_div) <= DETECTOR_HZ[1]
        and all((vco / out).denominator == 1 and vco / out <= 128 for out in outputs)
        for input_div in range(1, 41)
        for feedback in range(1, 129)
    )


def in_range(found: PllPlan) -> bool:
    return (
        found.input_div in DIVIDERS
        and found.feedback_div in DIVIDERS
        and all(div in DIVIDERS for div in found.output_divs)
        and DETECTOR_HZ[0] <= found.detector_hz <= DETECTOR_HZ[1]
        and VCO_HZ[0] <= found.vco_hz <= VCO_HZ[1]
        and all(OUTPUT_HZ[0] <= clock <= OUTPUT_HZ[1] for clock in found.outputs_hz)
    )


@settings(max_examples=60)
@given(INPUTS, CLOCKS)
def test_exact_or_refused_when_there_is_none(input_hz: int, outputs: list[int]):
    if not possible(input_hz, outputs):
        with pytest.raises(NomulError, match=r"; the nearest is "):
            plan(input_hz, outputs)
        return
    found = plan(input_hz, outputs)
    assert in_range(found)
    assert found.outputs_hz == tuple(outputs)


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 128), st.lists(st.integers(1, 128), min_size=1, max_size=3), INPUTS)
def test_whatever_can_be_made_is_found(input_div: int, feedback: int, divs: list[int], input_hz: int):
    made = PllPlan(input_hz=input_hz, input_div=input_div, feedback_div=feedback, output_divs=tuple(divs))
    if in_range(made) and all(clock.denominator == 1 for clock in made.outputs_hz):
        found = plan(input_hz, [int(clock) for clock in made.outputs_hz])
        assert found.outputs_hz == made.outputs_hz
        assert found.input_div <= made.input_div


@settings(max_examples=40)
@given(INPUTS, st.integers(25, 3200).map(lambda eighths: eighths * 125_000))
def test_the_nearest_is_nearest(input_hz: int, wanted: int):
    others = [
        Fraction(input_hz * feedback, input_div * div)
        for input_div in range(1, 41) if DETECTOR_HZ[0] <= Fraction(input_hz, input_div)
        for feedback in range(1, 129) if VCO_HZ[0] <= Fraction(input_hz * feedback, input_div) <= VCO_HZ[1]
        for div in range(1, 129)
    ]  # fmt: skip
    best = min(abs(one - wanted) for one in others if OUTPUT_HZ[0] <= one <= OUTPUT_HZ[1])
    if best == 0:
        assert plan(input_hz, [wanted]).outputs_hz == (wanted,)
        return
    with pytest.raises(NomulError) as refused:
        plan(input_hz, [wanted])
    told = float(re.search(r"the nearest is ([\d.]+) MHz$", str(refused.value))[1]) * 1e6
    assert abs(told - wanted) <= best + 1


@pytest.mark.parametrize(
    ("input_hz", "outputs", "message"),
    [
        (9_000_000, [90_000_000], "PLL: the input is 9 MHz; it must be 10 MHz to 400 MHz"),
        (25_000_000, [], "PLL: 0 outputs; there must be 1 to 3"),
        (25_000_000, [90_000_000] * 4, "PLL: 4 outputs; there must be 1 to 3"),
        (25_000_000, [500_000_000], "PLL: an output is 500 MHz; it must be 3.125 MHz to 400 MHz"),
        (25_000_000, [91_000_000], "PLL: 25 MHz gives no 91 MHz; the nearest is 91.0714286 MHz"),
        (48_000_000, [90_000_000, 50_000_000], "PLL: 48 MHz gives no 90 MHz and 50 MHz; the nearest is 89.6 MHz and "
         "49.7777778 MHz"),
    ],
)  # fmt: skip
def test_refuses(input_hz: int, outputs: list[int], message: str):
    with pytest.raises(NomulError, match=f"^{re.escape(message)}$"):
        plan(input_hz, outputs)


def test_parameters_are_those_of_the_plan():
    found = plan(25_000_000, [90_000_000, 45_000_000]).parameters()
    assert (found["CLKI_DIV"], found["CLKFB_DIV"], found["FEEDBK_PATH"]) == (1, 18, "INT_OS3")
    assert (found["CLKOP_DIV"], found["CLKOS_DIV"], found["CLKOS3_DIV"]) == (5, 10, 1)
    assert (found["CLKOP_CPHASE"], found["CLKOS_CPHASE"]) == (4, 9)
    enabled = {name for name, value in found.items() if value == "ENABLED"}
    assert enabled == {"CLKOP_ENABLE", "CLKOS_ENABLE", "CLKOS3_ENABLE"}


def test_a_domain_for_each_output():
    with pytest.raises(ValueError, match=r"^Clocks: 2 domains and 1 outputs$"):
        Clocks(pll=plan(25_000_000, [90_000_000]), domains=["sync", "usb"])
