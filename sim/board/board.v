// SPDX-License-Identifier: Apache-2.0
// What Verilator compiles: the chip, its reset from a flip-flop.
//
// In the exported Verilog reset is part of all next-state logic. Were it an input of the whole, Verilator would compute
// that logic three times a cycle: whenever inputs may have changed, and at the clock's edge.
module board(
    input clk, input rst,
    input [7:0] rx_payload, input rx_valid, output rx_ready,
    output [7:0] tx_payload, output tx_valid, input tx_ready,
    output busy
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    top top(
        .clk(clk), .rst(reset),
        .rx__payload(rx_payload), .rx__valid(rx_valid), .rx__ready(rx_ready),
        .tx__payload(tx_payload), .tx__valid(tx_valid), .tx__ready(tx_ready),
        .busy(busy)
    );
endmodule
