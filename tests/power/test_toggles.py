# SPDX-License-Identifier: Apache-2.0
"""Toggles counted in VCD files: of a design whose toggles are known, and of files that are wrong."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from nomul.hw.build.verilog import convert
from nomul.model.errors import NomulError
from nomul.sim.toggles import Toggles, count_toggles, kinds_of
from nomul.sim.verilate import verilate

CYCLES = 256
MAIN = """
#include "Vtop.h"
#include "verilated.h"
#include "verilated_vcd_c.h"
int main(int, char** argv) {
    VerilatedContext context;
    context.traceEverOn(true);
    Vtop top{&context};
    VerilatedVcdC trace;
    top.trace(&trace, 99);
    trace.open(argv[1]);
    top.rst = 0;
    // 256 cycles in a row, then 100 unseen ones, and one more.
    for (int cycle = 0; cycle <= 256 + 100 + 1; ++cycle) {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
        if (cycle <= 256 || cycle > 256 + 99) trace.dump(cycle);
    }
    trace.close();
    top.final();
}
"""


class Unit(wiring.Component):
    """A counter of 8 bits, its Gray code, and a memory that it reads: 16 words of 4 bits, 0 5 0 5 …"""

    def __init__(self) -> None:
        super().__init__({"gray": Out(8), "data": Out(4)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=4, depth=16, init=[0, 5] * 8)
        port = memory.read_port()
        count = Signal(8)
        m.d.sync += count.eq(count + 1)
        m.d.comb += [self.gray.eq(count ^ (count >> 1)), port.addr.eq(count), self.data.eq(port.data)]
        return m


class Top(wiring.Component):
    """The unit, and a flip-flop that nobody sets."""

    def __init__(self) -> None:
        super().__init__({"out": Out(8), "hold": In(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unit = unit = Unit()
        still = Signal()
        m.d.sync += still.eq(still | self.hold)
        m.d.comb += self.out.eq(unit.gray ^ unit.data ^ still)
        return m


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    text = convert(Top(), "top")
    program = verilate("top", {"top.v": text, "main.cpp": MAIN}, what="counter", traced=True)
    path = tmp_path_factory.mktemp("vcd") / "trace.vcd"
    subprocess.run([str(program), str(path)], check=True, timeout=60)
    return path, text


def counted(path: Path, text: str) -> dict[str, Toggles]:
    return count_toggles(
        path,
        kinds_of(text),
        module_of=lambda scope: ".".join(scope[scope.index("top") :]) if "top" in scope else "",
        unit_of=lambda scope: scope[-1] if "top" in scope else None,
    )


def test_a_counter(traced: tuple[Path, str]):
    found = counted(*traced)
    unit, top = found["unit"], found["top"]
    assert unit.cycles == top.cycles == CYCLES + 1
    assert unit.bits["ff"] == 8
    # A whole turn, in which bit k changes 256 / 2^k times, and the step that is seen at the end.
    changes = sum(CYCLES >> k for k in range(8)) + (357 ^ 358).bit_count()
    assert unit.changes["ff"] == changes
    assert (unit.reads, unit.accesses) == (1, CYCLES + 1)
    assert unit.rates()["ff"] == changes / (8 * (CYCLES + 1))
    assert unit.rates()["bram"] == 1
    assert (top.bits["ff"], top.changes["ff"]) == (1, 0)
    assert top.rates()["ff"] == 0


# Files by hand

HEAD = """$scope module top $end
 $var wire 1 a clk $end
 $var wire 4 b value [3:0] $end
 $var wire 1 c flag $end
 $scope module part $end
  $var wire 4 b seen [3:0] $end
  $var wire 2 d sum $end
 $upscope $end
$upscope $end
$enddefinitions $end
"""
VERILOG = """
module top(clk);
  reg [3:0] value = 4'h0;
  wire flag;
endmodule
module \\top.part (clk);
  wire [1:0] sum;
endmodule
"""


def by_hand(tmp_path: Path, body: str) -> dict[str, Toggles]:
    path = tmp_path / "t.vcd"
    path.write_text(HEAD + body)
    return counted(path, VERILOG)


def test_by_hand(tmp_path: Path):
    body = "#5\nb0000 b\n0c\nb00 d\n1a\n#6\nb1111 b\n1c\n0a\n#7\nb1110 b\nbx1 d\n#20\nb0001 b\nb11 d\n#21\nb0000 b\n"
    found = by_hand(tmp_path, body)
    top, part = found["top"], found["part"]
    assert top.cycles == part.cycles == 3
    assert top.changes == {"ff": 4 + 1 + 1, "comb": 1}
    assert part.changes == {"ff": 0, "comb": 1}
    assert top.bits == {"ff": 4, "comb": 1}
    assert part.bits == {"ff": 0, "comb": 2}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("", "no two cycles in a row"),
        ("#1\n1c\n#3\n0c\n", "no two cycles in a row"),
        ("#1\nb01\n", "line 12: 'b01' is no VCD"),
        ("#one\n", "line 11: '#one' is no VCD"),
        ("#1\nb2 b\n", "line 12: 'b2 b' is no VCD"),
    ],
)
def test_bad_bodies(tmp_path: Path, body: str, said: str):
    with pytest.raises(NomulError, match=said):
        by_hand(tmp_path, body)


def test_bad_files(tmp_path: Path):
    with pytest.raises(NomulError, match=r"no such file"):
        counted(tmp_path / "none", "")
    (tmp_path / "cut").write_text(HEAD[:80])
    with pytest.raises(NomulError, match=r"ends before its definitions|declares no signal"):
        counted(tmp_path / "cut", "")
