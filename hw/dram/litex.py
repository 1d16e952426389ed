# SPDX-License-Identifier: Apache-2.0
# mypy: ignore-errors
"""The process that makes a controller with LiteX: a request of :mod:`nomul.hw.dram.controller` in, its answer out.

``python -m nomul.hw.dram.litex REQUEST.json ANSWER.json``. Nothing else of nomul imports this module.
"""

import json
import re
import sys
from pathlib import Path

import litedram.init
import litedram.modules
import litedram.phy
import litedram.phy.model
from litedram.core import LiteDRAMCore
from litedram.core.controller import ControllerSettings
from litedram.core.refresher import Refresher
from litedram.gen import LiteDRAMECP5DDRPHYCRG, get_dram_ios
from litedram.modules import DDR3Module, SDRModule, _SpeedgradeTimings, _TechnologyTimings
from litedram.phy import dfi as dfi_bus
from litex.build.generic_platform import GenericPlatform, Pins, Subsignal
from litex.build.io import DDROutput
from litex.build.lattice import LatticePlatform
from litex.soc.cores.clock import ECP5PLL
from litex.soc.integration.soc_core import SoCMini
from litex.soc.interconnect import wishbone
from migen import (
    Cat,
    ClockDomain,
    ClockSignal,
    If,
    Instance,
    Module,
    Record,
    Replicate,
    Signal,
    log2_int,
)
from migen.fhdl.structure import _Assign
from migen.genlib.record import DIR_M_TO_S

from .ordered import OrderedCore
from .refresh import GroupRefresher

_TIMINGS = {
    "tRP": "t_rp", "tRCD": "t_rcd", "tWR": "t_wr", "tRFC": "t_rfc", "tFAW": "t_faw", "tRAS": "t_ras",
    "tWTR": "t_wtr", "tCCD": "t_ccd", "tRRD": "t_rrd", "tZQCS": "t_zqcs",
}  # fmt: skip


def memory_module(board, *, datasheet):
    """LiteDRAM's description of the part, with the data sheet's timings or with its own."""
    part = board["part"]
    clock, rate = board["clock_hz"], "1:2"
    if not datasheet:
        return getattr(litedram.modules, part["litedram"])(clock, rate)
    times = {
        name: None if part[field] is None else (part[field]["clocks"], part[field]["ns"])
        for name, field in _TIMINGS.items()
    }
    technology = ("tWTR", "tCCD", "tRRD", "tZQCS")
    base = {"DDR3": DDR3Module, "SDR": SDRModule}[part["kind"]]
    described = type(
        "Part",
        (base,),
        {
            "nbanks": part["banks"],
            "nrows": part["rows"],
            "ncols": part["columns"],
            "technology_timings": _TechnologyTimings(
                tREFI=part["t_refi_ns"], **{name: times[name] for name in technology}
            ),
            "speedgrade_timings": {
                "default": _SpeedgradeTimings(
                    **{name: times[name] for name in times if name not in technology}
                )
            },
        },
    )
    return described(clock, rate)


def pins(board):
    """The memory's pins, in LiteX's way."""
    kind = type(
        "Shape", (), {"nrows": board["part"]["rows"], "nbanks": board["part"]["banks"]}
    )
    return get_dram_ios(
        {
            "memtype": board["part"]["kind"],
            "sdram_module": kind,
            "sdram_module_nb": board["part"]["data_bits"] // 8,
            "sdram_rank_nb": 1,
        }
    )


def make_phy(board, pads):
    """The board's PHY."""
    make = getattr(litedram.phy, board["phy"])
    options = {"cl": board["cl"]}
    if board["part"]["kind"] == "DDR3":
        options |= {"cwl": board["cwl"], "cmd_delay": board["command_delay"]}
    phy = make(pads, sys_clk_freq=board["clock_hz"], **options)
    if board["part"]["kind"] == "SDR":
        phy = Registered(phy)
    if not board["terminated"]:
        phy.settings.rtt_nom = "disabled"
    return phy


def phy_settings(board):
    """Settings of the board's PHY, from one that is made for them and not used."""
    (name, _, *signals) = pins(board)[0]  # with the SDR's clock nothing is read
    layout = [(signal.name, len(signal.constraints[0].identifiers)) for signal in signals]
    return make_phy(board, Record(layout, name=name)).settings


def tell_all_phases(phy):
    """Mends the model: it tells phase 0 alone that data were read, and registers of the others see none."""
    valid = [phase.rddata_valid for phase in phy.dfi.phases]
    (told,) = (
        one for one in phy._fragment.comb
        if isinstance(one, _Assign) and isinstance(one.l, Cat) and list(map(id, one.l.l)) == list(map(id, valid))
    )  # fmt: skip
    told.r = Replicate(told.r, len(valid))


def checked_hz(board):
    """The clock for the model's check of timings: a little faster, so that a clock of the part is whole ps.

    The check rounds clocks down and sums of them not, and would find that four clocks are not four clocks.
    """
    period = int(1e12 / board["clock_hz"] / 2)
    return 1e12 / 2 / (period + 0.001)


class Registered(Module):
    """An SDR PHY behind registers for commands and data: from there to the pads' registers they have half a cycle."""

    def __init__(self, phy):
        self.submodules.phy = phy
        self.settings = settings = phy.settings
        settings.read_latency += 1
        p0 = phy.dfi.phases[0]
        self.dfi = dfi_bus.Interface(len(p0.address), len(p0.bank), len(p0.cs_n), len(p0.wrdata), len(phy.dfi.phases))
        for ours, its in zip(self.dfi.phases, phy.dfi.phases, strict=True):
            for name, _, direction in ours.layout:
                if direction == DIR_M_TO_S:
                    self.sync += getattr(its, name).eq(getattr(ours, name))
                else:
                    self.comb += getattr(ours, name).eq(getattr(its, name))


class Bank(Module):
    """Takes the place of a bank of LiteDRAM's model: the same, but its words lie outside (``bank.sv``)."""

    number = 0  # banks made so far
    bank_bits = 0
    beats = 1  # of a word

    def __init__(self, data_width, nrows, ncols, burst_length, nphases, we_granularity, init):
        self.activate = Signal()
        self.activate_row = Signal(max=nrows)
        self.precharge = Signal()
        self.write = Signal()
        self.write_col = Signal(max=ncols)
        self.write_data = Signal(data_width)
        self.write_mask = Signal(data_width // 8)
        self.read = Signal()
        self.read_col = Signal(max=ncols)
        self.read_data = Signal(data_width)

        active, row = Signal(), Signal(max=nrows)
        self.sync += If(self.precharge, active.eq(0)).Elif(
            self.activate, active.eq(1), row.eq(self.activate_row)
        )
        # A word is what the port moves; the model counts beats of two phases only.
        align = log2_int(Bank.beats)
        column_bits = log2_int(ncols) - align
        address_bits = log2_int(nrows) + column_bits
        at = {}
        for name in ("read", "write"):
            at[name] = Signal(address_bits)
            column = getattr(self, f"{name}_col")
            self.comb += at[name].eq((row << column_bits) | column[align:])
        self.specials += Instance(
            "nomul_dram_bank",
            p_BANK=Bank.number,
            p_BANK_BITS=Bank.bank_bits,
            p_COLUMN_BITS=column_bits,
            p_ADDRESS_BITS=address_bits,
            p_BYTES=data_width // 8,
            i_clk=ClockSignal(),
            i_activate=self.activate & ~self.precharge,
            i_read=self.read & active,
            i_read_address=at["read"],
            o_read_data=self.read_data,
            i_write=self.write & active,
            i_write_address=at["write"],
            i_write_data=self.write_data,
            i_write_mask=self.write_mask,
        )
        Bank.number += 1


class ModelClocks(Module):
    """Clock and reset of everything from two inputs."""

    def __init__(self, platform):
        self.clock_domains.cd_sys = ClockDomain()
        self.comb += [
            self.cd_sys.clk.eq(platform.request("clk")),
            self.cd_sys.rst.eq(platform.request("rst")),
        ]


class HalfRateClocks(Module):
    """System clock and twice that from the board's oscillator, for SDR; and that again, later, for the part."""

    def __init__(self, platform, board):
        self.clock_domains.cd_sys = ClockDomain()
        self.clock_domains.cd_sys2x = ClockDomain()
        self.clock_domains.cd_part = ClockDomain(reset_less=True)
        self.submodules.pll = pll = ECP5PLL()
        self.comb += [pll.reset.eq(platform.request("rst")), platform.request("pll_locked").eq(pll.locked)]
        pll.register_clkin(platform.request("clk"), board["input_hz"])
        pll.create_clkout(self.cd_sys, board["clock_hz"], margin=0)
        pll.create_clkout(self.cd_sys2x, 2 * board["clock_hz"], margin=0)
        pll.create_clkout(
            self.cd_part, 2 * board["clock_hz"], phase=board["clock_phase"], margin=0, with_reset=False
        )
        self.specials += DDROutput(1, 0, platform.request("sdram_clk"), ClockSignal("part"))


class Standalone(SoCMini):
    """Clocks, PHY or model, controller, native port, and a bus to the registers."""

    def __init__(self, platform, request):
        board, settings = request["board"], request["settings"]
        clock = board["clock_hz"]
        SoCMini.__init__(self, platform, clock, csr_data_width=32, with_ctrl=False)
        part = memory_module(board, datasheet=settings["datasheet"])
        if request["model"]:
            self.submodules.crg = ModelClocks(platform)
            self.submodules.phy = phy = litedram.phy.model.SDRAMPHYModel(
                memory_module(board, datasheet=True),
                settings=phy_settings(board),
                clk_freq=checked_hz(board),
                verbosity=int(request["check"]),
            )
            tell_all_phases(phy)
        elif board["phy"] == "ECP5DDRPHY":
            self.submodules.crg = LiteDRAMECP5DDRPHYCRG(
                platform,
                {
                    "memtype": "DDR3",
                    "input_clk_freq": board["input_hz"],
                    "sys_clk_freq": clock,
                    "init_clk_freq": 25e6,
                },
            )
            self.submodules.phy = phy = make_phy(board, platform.request("ddram"))
            self.comb += [
                self.crg.stop.eq(phy.init.stop),
                self.crg.reset.eq(phy.init.reset),
            ]
        else:
            self.submodules.crg = HalfRateClocks(platform, board)
            self.submodules.phy = phy = make_phy(board, platform.request("sdram"))

        controller_settings = ControllerSettings(
            cmd_buffer_depth=settings["buffer_depth"],
            cmd_buffer_buffered=settings["buffered"],
            read_time=settings["read_time"],
            write_time=settings["write_time"],
            with_refresh=settings["refresh"],
            refresh_cls=GroupRefresher if settings["bare_refresh"] else Refresher,
            refresh_postponing=settings["postponing"],
            with_auto_precharge=settings["auto_precharge"],
        )
        core = OrderedCore if settings["ordered"] else LiteDRAMCore
        self.submodules.sdram = sdram = core(
            phy=phy,
            geom_settings=part.geom_settings,
            timing_settings=part.timing_settings,
            clk_freq=clock,
            controller_settings=controller_settings,
        )
        self.port = port = sdram.port if settings["ordered"] else sdram.crossbar.get_port()
        self.phy_settings, self.timing = phy.settings, part.timing_settings

        platform.add_extension(
            [
                (
                    "user_port",
                    0,
                    Subsignal("cmd_valid", Pins(1)),
                    Subsignal("cmd_ready", Pins(1)),
                    Subsignal("cmd_we", Pins(1)),
                    Subsignal("cmd_addr", Pins(port.address_width)),
                    Subsignal("wdata_ready", Pins(1)),
                    Subsignal("wdata_data", Pins(port.data_width)),
                    Subsignal("rdata_valid", Pins(1)),
                    Subsignal("rdata_data", Pins(port.data_width)),
                )
            ]
        )
        io = platform.request("user_port")
        self.comb += [
            port.cmd.valid.eq(io.cmd_valid),
            io.cmd_ready.eq(port.cmd.ready),
            port.cmd.we.eq(io.cmd_we),
            port.cmd.addr.eq(io.cmd_addr),
            port.wdata.valid.eq(1),
            port.wdata.we.eq((1 << port.data_width // 8) - 1),
            port.wdata.data.eq(io.wdata_data),
            io.wdata_ready.eq(port.wdata.ready),
            io.rdata_valid.eq(port.rdata.valid),
            io.rdata_data.eq(port.rdata.data),
            port.rdata.ready.eq(1),
        ]
        bus = wishbone.Interface()
        self.bus.add_master(master=bus)
        platform.add_extension(bus.get_ios("wb_ctrl"))
        self.comb += bus.connect_to_pads(platform.request("wb_ctrl"), mode="slave")
        if not request["model"]:
            outputs = platform.request("user_clk"), platform.request("user_rst")
            self.comb += [
                outputs[0].eq(self.crg.cd_sys.clk),
                outputs[1].eq(self.crg.cd_sys.rst),
            ]


def make(request):
    """The answer to a request, as a dictionary."""
    board = request["board"]
    names = ["clk", "rst"]
    if request["model"]:
        platform = GenericPlatform("model", [])
        Bank.bank_bits = log2_int(board["part"]["banks"])
        Bank.beats = 8 if board["part"]["kind"] == "DDR3" else 2
        litedram.phy.model.BankModel = Bank  # the model offers no other way to replace its memories
    else:
        platform = LatticePlatform(board["device"], io=[], toolchain="trellis")
        platform.add_extension(pins(board))
        names += ["pll_locked", "user_clk", "user_rst"]
        if board["part"]["kind"] == "SDR":
            names.append("sdram_clk")
    platform.add_extension([(name, 0, Pins(1)) for name in names])

    soc = Standalone(platform, request)
    soc.finalize()
    if not request["model"]:
        _check_clocks(soc.crg.pll, board)
    name = f"nomul_dram_{'model' if request['model'] else board['part']['kind'].lower()}"
    made = platform.get_verilog(soc, name=name)
    text = str(made.main_source)
    # The banner has a date, the tree of modules no order, the rest are separators; who simulates gives the time scale.
    text = re.sub(r"^/\*\n.*?^\*/\n", "", text, flags=re.M | re.S)
    text = re.sub(r"^(?://.*|`timescale.*|\s*)\n", "", text, flags=re.M)
    if request["model"]:
        text += Path(__file__).with_name("bank.sv").read_text()
    # LiteX takes pins of which it sees only parts for inputs.
    text = re.sub(r"^    input  (wire.* (?:ddram|sdram)_(?:dq|dqs_p),?)$", r"    inout  \1", text, flags=re.M)
    if made.data_files:
        raise SystemExit(f"unexpected data files: {sorted(made.data_files)}")

    registers = {
        f"{region}_{csr.name}": info.origin + 4 * offset
        for region, info in soc.csr_regions.items()
        for csr, offset in _placed(info.obj)
    }
    phy = soc.phy_settings
    if board["part"]["kind"] == "SDR":
        steps = _sdr_sequence(phy.cl, soc.timing.tRFC)
    else:
        steps, _ = litedram.init.get_sdram_phy_init_sequence(phy, soc.timing)
    return {
        "module": name,
        "verilog": text,
        "word_bytes": soc.port.data_width // 8,
        "address_bits": soc.port.address_width,
        "registers": registers,
        "init": [_step(*step) for step in steps],
        "phy": {
            key: getattr(phy, key)
            for key in (
                "nphases", "rdphase", "wrphase", "cl", "cwl", "read_latency", "write_latency", "dfi_databits",
                "delays", "bitslips",
            )
        },
        "timing": {
            key: getattr(soc.timing, key)
            for key in ("tREFI", "tRC", *_TIMINGS)
        },
    }  # fmt: skip


#: Bits of the registers ``command`` and ``dfii_control``, by LiteX's names for them in C.
_BITS = {
    "DFII_COMMAND_CS": 0x01, "DFII_COMMAND_WE": 0x02, "DFII_COMMAND_CAS": 0x04, "DFII_COMMAND_RAS": 0x08,
    "DFII_CONTROL_CKE": 0x02, "DFII_CONTROL_ODT": 0x04, "DFII_CONTROL_RESET_N": 0x08,
}  # fmt: skip


def _check_clocks(pll, board):
    """Refuses clocks that are only about right, which is all that LiteX's search promises."""
    made = pll.params
    divs = {name: made.get(f"p_CLKO{name}_DIV") for name in ("P", "S", "S2", "S3")}
    feedback = made["p_CLKFB_DIV"] * divs[made["p_FEEDBK_PATH"].removeprefix("INT_O")]
    vco = board["input_hz"] * feedback / made["p_CLKI_DIV"]
    for div, (_, wanted, *_) in zip(divs.values(), pll.clkouts.values(), strict=False):
        ours = wanted in (board["clock_hz"], 2 * board["clock_hz"])  # not that of the PHY's start
        if ours and abs(vco / div - wanted) > 1:
            given, asked = (f"{hz / 1e6:.6g}" for hz in (vco / div, wanted))
            raise SystemExit(f"PLL: {board['input_hz'] / 1e6:g} MHz gives {given} MHz, not {asked} MHz")


def _sdr_sequence(cl, refresh):
    """Steps that start an SDR part (JESD21-C, 3.11.5): LiteDRAM's sets a reserved bit of the mode register for a while.

    Bursts of two, sequential: a system cycle's worth.
    """
    command = "DFII_COMMAND_CS|DFII_COMMAND_RAS|DFII_COMMAND_"
    return [
        ("Bring CKE high", 0, 0, "DFII_CONTROL_CKE|DFII_CONTROL_ODT|DFII_CONTROL_RESET_N", 20000),
        ("Precharge all", 1 << 10, 0, f"{command}WE", 4),
        *[("Auto refresh", 0, 0, f"{command}CAS", refresh)] * 8,
        (f"Load mode register, CL={cl}, BL=2", cl << 4 | 1, 0, f"{command}CAS|DFII_COMMAND_WE", 4),
    ]


def _step(what, address, bank, command, cycles):
    """A step of LiteDRAM's sequence."""
    names = command.split("|")
    control = names[0].startswith("DFII_CONTROL")
    bits = sum(_BITS[name] for name in names)
    return {"what": what, "address": address, "bank": bank, "command": bits, "control": control, "cycles": cycles}


def _placed(registers):
    """Registers of a region with their places, in 32-bit words."""
    place = 0
    for register in registers:
        yield register, place
        place += (register.size + 31) // 32


def main(arguments):
    source, target = map(Path, arguments)
    target.write_text(json.dumps(make(json.loads(source.read_text()))))


if __name__ == "__main__":
    main(sys.argv[1:])
