# SPDX-License-Identifier: Apache-2.0
"""A core and the memory controller of an ECPIX-5 on one chip, to see whether they fit and at which clock.

It is no bitstream: link and initialisation hang on shift registers, so that nothing is optimised away.
"""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from nomul.hw.build.design import design
from nomul.hw.build.synth import Synthesis, Target, synthesise
from nomul.model.streamed_config import StreamedConfig

from .boards import ECPIX5
from .controller import Controller, generate

__all__ = ["with_controller"]

_SPEED = 8
_MODULE = "fitting"

#: Subsignals of the board's memory, by the names of the controller's pins. The board has neither CS nor reset.
_PINS = {
    "a": "a", "ba": "ba", "cas_n": "cas", "cke": "clk_en", "clk_p": "clk", "dm": "dm", "dq": "dq",
    "dqs_p": "dqs", "odt": "odt", "ras_n": "ras", "we_n": "we",
}  # fmt: skip


def _constraints() -> str:
    """Pins and clock of the board."""
    platform = ECPIX585Platform()
    lines = []

    def place(port: str, site: str, attributes: dict[str, object]) -> None:
        lines.append(f'LOCATE COMP "{port}" SITE "{site}";')
        text = " ".join(f"{key}={value}" for key, value in attributes.items())
        lines.append(f'IOBUF PORT "{port}" {text};')

    memory = platform.resources["ddr3", 0]
    common = dict(memory.attrs)
    parts = {part.name: part for part in memory.ios}
    for port, name in _PINS.items():
        pins = parts[name].ios[0]
        names = getattr(pins, "p", pins).names
        attributes = {**common, **parts[name].attrs}
        for k, site in enumerate(names):
            place(f"ddram_{port}[{k}]" if len(names) > 1 else f"ddram_{port}", site, attributes)
    clock = platform.resources["clk100", 0]
    place("clk", clock.ios[0].names[0], dict(clock.attrs))
    lines.append('FREQUENCY PORT "clk" 100 MHZ;')
    uart = {part.name: part for part in platform.resources["uart", 0].ios}
    attributes = dict(platform.resources["uart", 0].attrs)
    place("rx", uart["rx"].ios[0].names[0], attributes)
    place("tx", uart["tx"].ios[0].names[0], attributes)
    return "\n".join(lines) + "\n"


def _around(controller: Controller) -> str:
    """The chip: controller, core, and two shift registers in place of what is not there."""
    text = controller.verilog
    for name in ("dq", "dqs_p"):  # LiteX takes pins of which it sees only parts for inputs
        text = _as_inout(text, name)
    ios = {
        "a": 15, "ba": 3, "cas_n": 1, "cke": 1, "clk_p": 1, "dm": 2, "dq": 16, "dqs_p": 2, "odt": 1,
        "ras_n": 1, "we_n": 1,
    }  # fmt: skip
    ports = ", ".join(
        f"{'inout' if name in ('dq', 'dqs_p') else 'output'} [{bits - 1}:0] ddram_{name}"
        if bits > 1 else f"output ddram_{name}"
        for name, bits in ios.items()
    )
    connected = ", ".join(f".ddram_{name}(ddram_{name})" for name in ios)
    word = 8 * controller.word_bytes
    return text + f"""
module {_MODULE}(input clk, input rx, output reg tx, {ports});
    wire user_clk, user_rst;
    wire cmd_ready, cmd_valid, cmd_we, rdata_valid, wdata_ready, wb_ack, wb_err;
    wire [{controller.address_bits - 1}:0] cmd_addr;
    wire [{word - 1}:0] rdata, wdata;
    wire [31:0] wb_dat_r;
    wire [7:0] tx_payload;
    wire rx_ready, tx_valid, busy;
    reg [85:0] in;
    always @(posedge user_clk) begin
        in <= {{in[84:0], rx}};
        tx <= ^{{tx_payload, rx_ready, tx_valid, busy, wb_dat_r, wb_ack, wb_err}};
    end
    {controller.module} dram(
        .clk(clk), .rst(1'b0), .user_clk(user_clk), .user_rst(user_rst), {connected},
        .user_port_cmd_addr(cmd_addr), .user_port_cmd_ready(cmd_ready), .user_port_cmd_valid(cmd_valid),
        .user_port_cmd_we(cmd_we), .user_port_rdata_data(rdata), .user_port_rdata_valid(rdata_valid),
        .user_port_wdata_data(wdata), .user_port_wdata_ready(wdata_ready),
        .wb_ctrl_ack(wb_ack), .wb_ctrl_adr({{14'b0, in[15:0]}}), .wb_ctrl_bte(2'b0), .wb_ctrl_cti(3'b0),
        .wb_ctrl_cyc(in[16]), .wb_ctrl_dat_r(wb_dat_r), .wb_ctrl_dat_w(in[48:17]), .wb_ctrl_err(wb_err),
        .wb_ctrl_sel(in[52:49]), .wb_ctrl_stb(in[53]), .wb_ctrl_we(in[54])
    );
    top top(
        .clk(user_clk), .rst(user_rst), .enable(in[55]),
        .rx__payload(in[63:56]), .rx__valid(in[64]), .rx__ready(rx_ready),
        .tx__payload(tx_payload), .tx__valid(tx_valid), .tx__ready(in[65]), .busy(busy),
        .native__cmd_valid(cmd_valid), .native__cmd_ready(cmd_ready), .native__cmd_we(cmd_we),
        .native__cmd_addr(cmd_addr), .native__wdata_ready(wdata_ready), .native__wdata_data(wdata),
        .native__rdata_valid(rdata_valid), .native__rdata_data(rdata)
    );
endmodule
"""


def _as_inout(text: str, name: str) -> str:
    before, after = text.split(f"ddram_{name},", 1)
    head, _, kind = before.rpartition("input  wire")
    return f"{head}inout  wire{kind}ddram_{name},{after}"


def with_controller(config: StreamedConfig, *, seeds: tuple[int, ...], limit_s: int = 3600) -> Synthesis:
    """Area and clock of a streamed core with link behind the real controller, on the chip of an ECPIX-5.

    Parameters
    ----------
    config : StreamedConfig
        For the memory of an ECPIX-5.
    seeds : tuple of int
    limit_s : int
        Seconds that each run of a tool may take.

    Raises
    ------
    NomulError
        If a tool fails, is missing, or takes too long.
    """
    controller = generate(ECPIX5, model=False)
    target = Target(
        part="LFE5UM5G-85F", speed=_SPEED, arguments=("--um5g-85k", "--package", "CABGA554"),
        constraints=_constraints(),
    )  # fmt: skip
    return synthesise(
        design(config, ECPIX5.clock_hz), name="top", seeds=seeds, freq=ECPIX5.clock_hz // 10**6,
        limit_s=limit_s, target=target, around=(_around(controller), _MODULE),
    )  # fmt: skip
