// SPDX-License-Identifier: Apache-2.0
// What Verilator compiles: the memory behind its controller under names that C++ can say, its reset from a flip-flop.
module dram(
    input clk, input rst, output ready,
    input [31:0] address, input [5:0] last, input write, input command_valid, output command_ready,
    input [`BITS-1:0] write_data, input write_valid, output write_ready,
    output [`BITS-1:0] read_data, output read_valid
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    memory memory(
        .clk(clk), .rst(reset), .ready(ready),
        .memory__command__payload({write, last, address}),
        .memory__command__valid(command_valid), .memory__command__ready(command_ready),
        .memory__write__payload(write_data), .memory__write__valid(write_valid), .memory__write__ready(write_ready),
        .memory__read_data(read_data), .memory__read_valid(read_valid), .memory__read_error(), .memory__write_error(),
        .memory__unacknowledged()
    );
endmodule
