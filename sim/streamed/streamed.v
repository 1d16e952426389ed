// SPDX-License-Identifier: Apache-2.0
// What Verilator compiles: a streamed core under names that C++ can say, its reset from a flip-flop (see board.v).
module streamed(
    input clk, input rst,
    input [`TOKENS-1:0] token_payload, input token_valid, output token_ready,
    output [16*`LANES-1:0] result_payload, output result_valid, input result_ready,
    input [31:0] bus_address, input bus_read, input bus_write, input [7:0] bus_write_data,
    output [7:0] bus_read_data, output bus_done, output bus_error,
`ifdef DRAM
    output ready,
`else
    output [38:0] command_payload, output command_valid, input command_ready,
    output [8*`WORD-1:0] write_payload, output write_valid, input write_ready,
    input read_valid, input [8*`WORD-1:0] read_data, input read_error, input write_error,
`endif
    input give_up, output busy,
    output seen_word, seen_acts, seen_sums, seen_store, seen_keep, seen_h, seen_activated,
    output [31:0] acts, store, keep, h, activated, output [32*`LANES-1:0] sums
);
    reg reset = 1;
    always @(posedge clk) reset <= rst;
    core core(
        .clk(clk), .rst(reset),
        .token_i__payload(token_payload), .token_i__valid(token_valid), .token_i__ready(token_ready),
        .token_o__payload(result_payload), .token_o__valid(result_valid), .token_o__ready(result_ready),
        .bus__address(bus_address), .bus__read(bus_read), .bus__write(bus_write), .bus__write_data(bus_write_data),
        .bus__read_data(bus_read_data), .bus__done(bus_done), .bus__error(bus_error),
`ifdef DRAM
        .ready(ready),
`else
        .memory__command__payload(command_payload), .memory__command__valid(command_valid),
        .memory__command__ready(command_ready),
        .memory__write__payload(write_payload), .memory__write__valid(write_valid), .memory__write__ready(write_ready),
        .memory__read_valid(read_valid), .memory__read_data(read_data), .memory__read_error(read_error),
        .memory__write_error(write_error), .memory__unacknowledged(1'b0),
`endif
        .abort(give_up), .busy(busy), .error(),
        .seen_word(seen_word), .seen_acts(seen_acts), .seen_sums(seen_sums), .seen_store(seen_store), .seen_keep(seen_keep), .seen_h(seen_h),
        .seen_activated(seen_activated),
        .acts(acts), .sums(sums), .store(store), .keep(keep), .h(h), .activated(activated)
    );
endmodule
