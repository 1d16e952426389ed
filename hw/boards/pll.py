# SPDX-License-Identifier: Apache-2.0
"""The PLL of an ECP5: its dividers, and clocks with resets that wait for its lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out

from nomul.model.errors import NomulError

__all__ = ["Clocks", "PllPlan", "plan"]

# Lattice, ECP5 and ECP5-5G Family Data Sheet (FPGA-DS-02012), table "sysCLOCK PLL Timing", in Hz.
DETECTOR_HZ = INPUT_HZ = (10_000_000, 400_000_000)  # inputs from 8 MHz on, but no detector for them
VCO_HZ = (400_000_000, 800_000_000)
OUTPUT_HZ = (3_125_000, 400_000_000)
DIVIDERS = range(1, 129)  #: of input, feedback and each output

_OUTPUTS = ("CLKOP", "CLKOS", "CLKOS2")  # the fourth, CLKOS3, is the feedback


@dataclass(frozen=True, kw_only=True)
class PllPlan:
    """Dividers of a PLL.

    The VCO runs at ``input_hz · feedback_div / input_div``; output ``k`` at that over
    ``output_divs[k]``.

    Attributes
    ----------
    input_hz : int
    input_div, feedback_div : int
        Of the input, and of the feedback, which comes from the VCO itself (CLKOS3 divided by 1).
    output_divs : tuple of int
        One to three.
    """

    input_hz: int
    input_div: int
    feedback_div: int
    output_divs: tuple[int, ...]

    @property
    def detector_hz(self) -> Fraction:
        """At the phase detector."""
        return Fraction(self.input_hz, self.input_div)

    @property
    def vco_hz(self) -> Fraction:
        """Of the oscillator."""
        return self.detector_hz * self.feedback_div

    @property
    def outputs_hz(self) -> tuple[Fraction, ...]:
        """Of each output."""
        return tuple(self.vco_hz / div for div in self.output_divs)

    def parameters(self) -> dict[str, int | str]:
        """Of the primitive EHXPLLL, all phases 0."""
        found: dict[str, int | str] = {
            "CLKI_DIV": self.input_div,
            "CLKFB_DIV": self.feedback_div,
            "FEEDBK_PATH": "INT_OS3",
        }
        for name, div in zip((*_OUTPUTS, "CLKOS3"), (*self._padded, 1), strict=True):
            used = div is not None
            found[f"{name}_ENABLE"] = "ENABLED" if used else "DISABLED"
            found[f"{name}_DIV"] = div or 1
            found[f"{name}_CPHASE"] = (div or 1) - 1
            found[f"{name}_FPHASE"] = 0
        return found

    @property
    def _padded(self) -> tuple[int | None, ...]:
        return (*self.output_divs, *[None] * (len(_OUTPUTS) - len(self.output_divs)))


def _vcos(input_hz: int) -> Iterator[tuple[int, int]]:
    """Input and feedback dividers with detector and VCO in range, from the fastest detector down."""
    for input_div in DIVIDERS:
        if not DETECTOR_HZ[0] * input_div <= input_hz <= DETECTOR_HZ[1] * input_div:
            continue
        for feedback_div in DIVIDERS:
            if VCO_HZ[0] * input_div <= input_hz * feedback_div <= VCO_HZ[1] * input_div:
                yield input_div, feedback_div


def plan(input_hz: int, outputs_hz: Sequence[int]) -> PllPlan:
    """Dividers that give exactly the wanted clocks.

    Of several the fastest phase detector wins, which follows the input best; then the VCO in the middle
    of its range.

    Parameters
    ----------
    input_hz : int
        Of the oscillator.
    outputs_hz : sequence of int
        One to three clocks, all of one VCO.

    Raises
    ------
    NomulError
        If the input or an output is outside the PLL's range, or no dividers give the outputs; with the
        nearest frequencies that they could give.
    """
    if not INPUT_HZ[0] <= input_hz <= INPUT_HZ[1]:
        raise NomulError(f"PLL: the input is {_mhz(input_hz)}; it must be {_range(INPUT_HZ)}")
    if not 1 <= len(outputs_hz) <= len(_OUTPUTS):
        raise NomulError(f"PLL: {len(outputs_hz)} outputs; there must be 1 to {len(_OUTPUTS)}")
    for wanted in outputs_hz:
        if not OUTPUT_HZ[0] <= wanted <= OUTPUT_HZ[1]:
            raise NomulError(f"PLL: an output is {_mhz(wanted)}; it must be {_range(OUTPUT_HZ)}")
    found = [
        PllPlan(input_hz=input_hz, input_div=input_div, feedback_div=feedback_div,
                output_divs=tuple(found))
        for input_div, feedback_div in _vcos(input_hz)
        if (found := _dividers(Fraction(input_hz * feedback_div, input_div), outputs_hz))
    ]  # fmt: skip
    if not found:
        raise NomulError(f"PLL: {_mhz(input_hz)} gives no {_list(outputs_hz)}; {_nearest(input_hz, outputs_hz)}")
    middle = sum(VCO_HZ) // 2
    return min(found, key=lambda one: (one.input_div, abs(one.vco_hz - middle)))


def _dividers(vco_hz: Fraction, outputs_hz: Sequence[int]) -> list[int]:
    """Dividers from a VCO to the outputs, exactly; empty if there are none."""
    ratios = [vco_hz / wanted for wanted in outputs_hz]
    if all(ratio.denominator == 1 and ratio in DIVIDERS for ratio in ratios):
        return [int(ratio) for ratio in ratios]
    return []


def _nearest(input_hz: int, outputs_hz: Sequence[int]) -> str:
    """What could be had instead, for a message."""
    best: tuple[Fraction, list[Fraction]] = Fraction(1 << 62), []
    for input_div, feedback_div in _vcos(input_hz):
        vco = Fraction(input_hz * feedback_div, input_div)
        given = [vco / min(max(round(vco / wanted), 1), DIVIDERS[-1]) for wanted in outputs_hz]
        if any(not OUTPUT_HZ[0] <= one <= OUTPUT_HZ[1] for one in given):
            continue
        worst = max(abs(one - wanted) / wanted for one, wanted in zip(given, outputs_hz, strict=True))
        if worst < best[0]:
            best = worst, given
    return f"the nearest is {_list(best[1])}"


def _mhz(hz: int | Fraction) -> str:
    return f"{float(hz) / 1e6:.9g} MHz"


def _range(limits: tuple[int, int]) -> str:
    return f"{_mhz(limits[0])} to {_mhz(limits[1])}"


def _list(clocks: Sequence[int | Fraction]) -> str:
    return " and ".join(map(_mhz, clocks))


class Clocks(wiring.Component):
    """A PLL, which drives clock and reset of domains that are there around it.

    A domain's reset is asserted at once when the PLL is reset or not locked, and released two edges of
    its own clock after the lock.

    Parameters
    ----------
    pll : PllPlan
    domains : sequence of str
        A name for each output.
    held : bool
        Whether there is ``hold``.

    Members
    -------
    clk : ``In(1)``
        From the oscillator.
    reset : ``In(1)``
        Asynchronous.
    hold : ``In(1)``
        With ``held``, from a register: resets of all domains but the first last while it is high.
    locked : ``Out(1)``
    """

    def __init__(self, *, pll: PllPlan, domains: Sequence[str], held: bool = False):
        if len(domains) != len(pll.output_divs):
            raise ValueError(f"Clocks: {len(domains)} domains and {len(pll.output_divs)} outputs")
        self.pll = pll
        self.domains = tuple(domains)
        self.held = held
        super().__init__({"clk": In(1), "reset": In(1), "locked": Out(1), **({"hold": In(1)} if held else {})})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        connections: dict[str, object] = {
            "i_CLKI": self.clk, "i_RST": self.reset, "i_STDBY": 0, "o_LOCK": self.locked,
            "i_CLKFB": 0, "i_PHASESEL0": 0, "i_PHASESEL1": 0, "i_PHASEDIR": 1, "i_PHASESTEP": 1,
            "i_PHASELOADREG": 1, "i_PLLWAKESYNC": 0, "i_ENCLKOP": 0, "i_ENCLKOS": 0,
            "i_ENCLKOS2": 0, "i_ENCLKOS3": 0,
        }  # fmt: skip
        out_of_lock = Signal()
        m.d.comb += out_of_lock.eq(~self.locked | self.reset)
        waits = out_of_lock
        if self.held:
            waits = Signal()
            m.d.comb += waits.eq(out_of_lock | self.hold)
        for k, (name, output) in enumerate(zip(self.domains, _OUTPUTS, strict=False)):
            connections[f"o_{output}"] = ClockSignal(name)
            m.submodules[f"reset_{name}"] = ResetSynchronizer(waits if k else out_of_lock, domain=name)
        m.submodules.pll = Instance(
            "EHXPLLL",
            # What the analogue part is set to for any of these clocks, as the vendor's tool does.
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            a_FREQUENCY_PIN_CLKI=f"{self.pll.input_hz / 1e6:.6f}",
            **{f"p_{name}": value for name, value in self.pll.parameters().items()},
            **connections,
        )
        return m
