// SPDX-License-Identifier: Apache-2.0
// What Verilator compiles: the chip, its reset from a flip-flop.
//
// In the exported Verilog reset is part of all next-state logic. Were it an input of the whole, Verilator would compute
// that logic three times a cycle: whenever inputs may have changed, and at the clock's edge.
module board(
    input clk, input rst,
    input [7:0] rx_payload, input rx_valid, output rx_ready,
    output [7:0] tx_payload, output tx_valid, input tx_ready,
`ifdef DRAM
    output ready,
`elsif MEMORY_BYTES
    output [38:0] command_payload, output command_valid, input command_ready,
    output [8*`WORD-1:0] write_payload, output write_valid, input write_ready,
    input read_valid, input [8*`WORD-1:0] read_data, input read_error, input write_error,
`endif
    output busy
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    top top(
        .clk(clk), .rst(reset),
        .rx__payload(rx_payload), .rx__valid(rx_valid), .rx__ready(rx_ready),
        .tx__payload(tx_payload), .tx__valid(tx_valid), .tx__ready(tx_ready),
`ifdef HOSTED
        .memory_ready(ready),
`elsif DRAM
        .ready(ready),
`elsif MEMORY_BYTES
        .memory__command__payload(command_payload), .memory__command__valid(command_valid),
        .memory__command__ready(command_ready),
        .memory__write__payload(write_payload), .memory__write__valid(write_valid), .memory__write__ready(write_ready),
        .memory__read_valid(read_valid), .memory__read_data(read_data), .memory__read_error(read_error),
        .memory__write_error(write_error), .memory__unacknowledged(1'b0),
`endif
        .busy(busy)
    );
endmodule
