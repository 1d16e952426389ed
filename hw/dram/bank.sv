// SPDX-License-Identifier: Apache-2.0
// The words of one bank of the simulated memory. They lie in the simulating program, which may map a file of any size:
// word addresses are those of the controller's port, so that the file is the memory as the port sees it.
//
// Reads answer in the same cycle, with zeros when there are none; the PHY's latency is around this.
module nomul_dram_bank #(
    parameter int BANK = 0, parameter int BANK_BITS = 3, parameter int COLUMN_BITS = 7, parameter int ADDRESS_BITS = 22,
    parameter int BYTES = 16
) (
    input clk, input activate,
    input read, input [ADDRESS_BITS-1:0] read_address, output reg [8*BYTES-1:0] read_data,
    input write, input [ADDRESS_BITS-1:0] write_address, input [8*BYTES-1:0] write_data, input [BYTES-1:0] write_mask
);
    import "DPI-C" function void nomul_dram_activate();
    import "DPI-C" function void nomul_dram_read(input int unsigned address, output bit [8*BYTES-1:0] data);
    import "DPI-C" function void nomul_dram_write(
        input int unsigned address, input bit [8*BYTES-1:0] data, input bit [BYTES-1:0] mask);

    // From row and column of a bank to the word: the bank's number lies between them.
    function automatic int unsigned word(input [ADDRESS_BITS-1:0] address);
        word = 32'(address >> COLUMN_BITS) << (BANK_BITS + COLUMN_BITS) | 32'(BANK) << COLUMN_BITS
             | 32'(address) & ((32'd1 << COLUMN_BITS) - 1);
    endfunction

    always @* begin
        read_data = 0;
        if (read) nomul_dram_read(word(read_address), read_data);
    end
    always @(posedge clk) if (activate) nomul_dram_activate();
    always @(posedge clk) if (write) nomul_dram_write(word(write_address), write_data, write_mask);
endmodule
