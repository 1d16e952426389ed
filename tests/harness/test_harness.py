# SPDX-License-Identifier: Apache-2.0
"""The harness itself: packing equals Amaranth's, and a failing testbench fails the test."""

from __future__ import annotations

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from nomul.sim.harness import pack_bits, run, unpack_bits

LAYOUT = data.StructLayout({
    "x": data.ArrayLayout(signed(5), 3),
    "y": data.StructLayout({"a": 3, "b": signed(2)}),
    "last": 1,
})


class Increment(wiring.Component):
    """Adds one to each value, or with a fault withdraws what it offers."""

    def __init__(self, *, fault: bool = False):
        self.fault = fault
        super().__init__({
            "i": In(stream.Signature(signed(8))),
            "o": Out(stream.Signature(signed(9))),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload + 1)]
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        if self.fault:
            m.d.sync += self.o.valid.eq(self.i.valid & self.i.ready)
        return m


def test_packing_is_amaranths(rng):
    for _ in range(50):
        value = {"x": [int(v) for v in rng.integers(-16, 16, 3)],
                 "y": {"a": int(rng.integers(8)), "b": int(rng.integers(-2, 2))}, "last": 1}
        bits = pack_bits(LAYOUT, value)
        assert bits == LAYOUT.const(value).as_bits()
        assert unpack_bits(LAYOUT, bits) == value


@pytest.mark.parametrize("value", [{"x": [16, 0, 0]}, {"x": [0, 0]}, {"z": [0, 0, 0]}])
def test_packing_refuses_what_does_not_fit(value):
    with pytest.raises(ValueError, match=r"does not fit|has the fields"):
        pack_bits(data.StructLayout({"x": data.ArrayLayout(signed(5), 3)}), value)


def test_run():
    run(Increment(), "harness_tb", parameters={"fault": False, "add": 1})


@pytest.mark.parametrize(("parameters", "message"), [
    ({"fault": False, "add": 2}, "increments"),           # a wrong expectation
    ({"fault": True, "add": 1}, "withdrawn"),             # a broken stream
    ({"fault": False}, "KeyError"),                       # a testbench that fails to load
])
def test_a_failing_testbench_fails(parameters, message):
    with pytest.raises(AssertionError, match=message):
        run(Increment(fault=parameters["fault"]), "harness_tb", parameters=parameters)


def test_a_run_without_tests_fails():
    with pytest.raises(AssertionError, match=r"no test ran|without results"):
        run(Increment(), "harness_tb", parameters={"fault": False, "add": 1}, tests="nothing")


def test_a_run_that_hangs_is_ended():
    with pytest.raises(AssertionError, match="without results"):
        run(Increment(), "harness_tb", limit_s=3,
            parameters={"fault": False, "add": 1, "hang": True})
