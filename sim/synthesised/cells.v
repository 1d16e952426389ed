// SPDX-License-Identifier: Apache-2.0
// What yosys has no simulation models of: the ECP5's block RAM, multiplier and PLL, as far as yosys and nomul's netlist
// passes use them. A mode that is not modelled ends the simulation with a word.

// 18 Kbit: 2048 bytes of 9 bits. Address bit 0 is a bit of widths below 9, whose ninth bits are left out.
//
// Contents, output latches and registers begin at what configuration leaves there. What a port reads while the other
// writes it is not promised by the part: here it is the inverse of what was there, so that nothing can rely on it.
module DP16KD(
    input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2,
        DIA1, DIA0, ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0, CEA,
        OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
    input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2,
        DIB1, DIB0, ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0, CEB,
        OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
    output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2,
        DOA1, DOA0,
    output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2,
        DOB1, DOB0
);
    parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;  // 1, 2, 4, 9, 18; 36 at A: A is written, B is read
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG";
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC";
    parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000";
    parameter WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB";
    parameter GSR = "AUTO", WID = 0, INIT_DATA = "STATIC";
    parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0, INITVAL_04 = 0, INITVAL_05 = 0;
    parameter [319:0] INITVAL_06 = 0, INITVAL_07 = 0, INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0;
    parameter [319:0] INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0, INITVAL_10 = 0, INITVAL_11 = 0;
    parameter [319:0] INITVAL_12 = 0, INITVAL_13 = 0, INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0;
    parameter [319:0] INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0, INITVAL_1C = 0, INITVAL_1D = 0;
    parameter [319:0] INITVAL_1E = 0, INITVAL_1F = 0, INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0;
    parameter [319:0] INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0, INITVAL_28 = 0, INITVAL_29 = 0;
    parameter [319:0] INITVAL_2A = 0, INITVAL_2B = 0, INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0;
    parameter [319:0] INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0, INITVAL_34 = 0, INITVAL_35 = 0;
    parameter [319:0] INITVAL_36 = 0, INITVAL_37 = 0, INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0;
    parameter [319:0] INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0;
    localparam [20479:0] INITIAL =
        {INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
        INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
        INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
        INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
        INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
        INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
        INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00};
    localparam WIDE = DATA_WIDTH_A == 36;

    wire [17:0] dia =
        {DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3,
        DIA2, DIA1, DIA0};
    wire [17:0] dib =
        {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3,
        DIB2, DIB1, DIB0};
    wire [13:0] ada =
        {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] adb =
        {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
    wire clka = CLKAMUX == "INV" ? ~CLKA : CLKA, clkb = CLKBMUX == "INV" ? ~CLKB : CLKB;
    wire cea = CEA & ~CSA0 & ~CSA1 & ~CSA2, ceb = CEB & ~CSB0 & ~CSB1 & ~CSB2;
    wire writes_a = cea & WEA & ~RSTA, writes_b = ceb & WEB & ~RSTB & ~WIDE;

    reg [8:0] bytes[0:2047];
    reg [35:0] read_a = 0, read_b = 0, out_a = 0, out_b = 0;
    integer k;
    initial begin
        for (k = 0; k < 2048; k = k + 1) bytes[k] = INITIAL[20 * (k / 2) + 9 * (k % 2) +: 9];
        if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000" || INIT_DATA != "STATIC") begin
            $display("DP16KD: a mode that is not modelled");
            $fatal;
        end
    end

    // First byte and bytes of an access.
    function integer first(input [13:0] at, input integer width);
        first = width == 36 ? {21'b0, at[13:5], 2'b0} : width == 18 ? {21'b0, at[13:4], 1'b0} : {21'b0, at[13:3]};
    endfunction
    function integer count(input integer width);
        count = width == 36 ? 4 : width == 18 ? 2 : 1;
    endfunction
    // Of these, those that are written: their enables are the lowest address bits.
    function [3:0] enabled(input [13:0] at, input integer width);
        enabled = width == 36 ? at[3:0] : width == 18 ? {2'b0, at[1:0]} : 4'b1;
    endfunction
    // Bits within a byte.
    function integer offset(input [13:0] at, input integer width);
        offset = width == 4 ? {29'b0, at[2], 2'b0} : width == 2 ? {29'b0, at[2:1], 1'b0} : {29'b0, at[2:0]};
    endfunction

    function [35:0] contents(input [13:0] at, input integer width);
        integer j;
        begin
            contents = 0;
            for (j = 0; j < 4; j = j + 1) if (j < count(width)) contents[9 * j +: 9] = bytes[first(at, width) + j];
            if (width < 9) contents = (contents >> offset(at, width)) & ((36'd1 << width) - 36'd1);
        end
    endfunction
    // The byte that an access leaves.
    function [8:0] written(input [13:0] at, input integer width, input integer j, input [35:0] data);
        reg [8:0] mask;
        begin
            mask = width < 9 ? ((9'd1 << width) - 9'd1) << offset(at, width) : 9'h1ff;
            written = (bytes[first(at, width) + j] & ~mask)
                    | ((width < 9 ? data[8:0] << offset(at, width) : data[9 * j +: 9]) & mask);
        end
    endfunction
    // Whether a read meets a write.
    function meets(input [13:0] ra, input integer rw, input [13:0] wa, input integer ww);
        integer i, j, coarse;
        reg [3:0] some;
        begin
            some = enabled(wa, ww);
            coarse = rw > ww ? rw : ww;
            meets = 0;
            for (i = 0; i < 4; i = i + 1)
                for (j = 0; j < 4; j = j + 1)
                    if (i < count(rw) && j < count(ww) && some[j] && first(ra, rw) + i == first(wa, ww) + j) meets = 1;
            if (coarse < 9 && offset(ra, coarse) != offset(wa, coarse)) meets = 0;
        end
    endfunction

    // Asynchronous resets are not modelled; yosys sets the mode also where there is none.
    always @(posedge clka or posedge clkb)
        if (RESETMODE != "SYNC" && (RSTA || RSTB)) begin
            $display("DP16KD: a mode that is not modelled");
            $fatal;
        end

    integer j;
    wire [35:0] data_a = WIDE ? {dib, dia} : {18'b0, dia}, data_b = {18'b0, dib};
    always @(posedge clka) begin
        if (writes_a)
            for (j = 0; j < 4; j = j + 1)
                if (j < count(DATA_WIDTH_A) && enabled(ada, DATA_WIDTH_A)[j])
                    bytes[first(ada, DATA_WIDTH_A) + j] <= written(ada, DATA_WIDTH_A, j, data_a);
        if (!WIDE) begin
            if (RSTA) read_a <= 0;
            else if (cea && (!WEA || WRITEMODE_A == "READBEFOREWRITE"))
                read_a <= contents(ada, DATA_WIDTH_A)
                    ^ {36{writes_b && meets(ada, DATA_WIDTH_A, adb, DATA_WIDTH_B)}};
            else if (cea && WRITEMODE_A == "WRITETHROUGH") read_a <= data_a;
            if (RSTA) out_a <= 0;
            else if (OCEA) out_a <= read_a;
        end
    end
    integer l;
    always @(posedge clkb) begin
        if (writes_b)
            for (l = 0; l < 2; l = l + 1)
                if (l < count(DATA_WIDTH_B) && enabled(adb, DATA_WIDTH_B)[l])
                    bytes[first(adb, DATA_WIDTH_B) + l] <= written(adb, DATA_WIDTH_B, l, data_b);
        if (RSTB) read_b <= 0;
        else if (ceb && (!WEB || WIDE || WRITEMODE_B == "READBEFOREWRITE"))
            read_b <= contents(adb, DATA_WIDTH_B)
                ^ {36{writes_a && meets(adb, DATA_WIDTH_B, ada, DATA_WIDTH_A)}};
        else if (ceb && WRITEMODE_B == "WRITETHROUGH") read_b <= data_b;
        if (RSTB) out_b <= 0;
        else if (OCEB) out_b <= read_b;
    end

    wire [35:0] a = REGMODE_A == "OUTREG" ? out_a : read_a, b = REGMODE_B == "OUTREG" ? out_b : read_b;
    wire [35:0] both = DATA_WIDTH_B == 36 ? b : {b[17:0], 18'b0};
    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3,
        DOA2, DOA1, DOA0} = WIDE ? both[17:0] : a[17:0];
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3,
        DOB2, DOB1, DOB0} = WIDE ? both[35:18] : b[17:0];
endmodule

// 18 by 18 bits, signed or not; with a register behind it or none.
module MULT18X18D(
    input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0, B17, B16, B15, B14, B13,
        B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0, C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7,
        C6, C5, C4, C3, C2, C1, C0,
    input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB, CLK0, CE0, RST0,
    output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16, P15,
        P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
    parameter REG_INPUTA_CLK = "NONE", REG_INPUTB_CLK = "NONE", REG_INPUTC_CLK = "NONE", REG_PIPELINE_CLK = "NONE";
    parameter REG_OUTPUT_CLK = "NONE", REG_OUTPUT_CE = "CE0", REG_OUTPUT_RST = "RST0";
    initial
        if (REG_INPUTA_CLK != "NONE" || REG_INPUTB_CLK != "NONE" || REG_PIPELINE_CLK != "NONE"
            || (REG_OUTPUT_CLK != "NONE" && REG_OUTPUT_CLK != "CLK0")) begin
            $display("MULT18X18D: a mode that is not modelled");
            $fatal;
        end
    wire [17:0] a =
        {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
    wire [17:0] b =
        {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
    wire signed [35:0] wide_a = {{18{SIGNEDA & a[17]}}, a}, wide_b = {{18{SIGNEDB & b[17]}}, b};
    wire signed [35:0] product = wide_a * wide_b;
    reg [35:0] registered = 0;
    always @(posedge CLK0)
        if (RST0) registered <= 0;
        else if (CE0) registered <= product;
    wire [35:0] p = REG_OUTPUT_CLK == "CLK0" ? registered : product;
    assign {P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18, P17, P16,
        P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0} = p;
endmodule

// Bypassed: every output is the input clock. It locks after a while, and loses its lock when the input has paused.
module EHXPLLL(
    input CLKI, CLKFB, PHASESEL1, PHASESEL0, PHASEDIR, PHASESTEP, PHASELOADREG, STDBY, PLLWAKESYNC, RST,
    input ENCLKOP, ENCLKOS, ENCLKOS2, ENCLKOS3,
    output CLKOP, CLKOS, CLKOS2, CLKOS3, LOCK, INTLOCK, REFCLK, CLKINTFB
);
    parameter CLKI_DIV = 1, CLKFB_DIV = 1, CLKOP_DIV = 8, CLKOS_DIV = 8, CLKOS2_DIV = 8, CLKOS3_DIV = 8;
    parameter CLKOP_ENABLE = "ENABLED", CLKOS_ENABLE = "DISABLED";
    parameter CLKOS2_ENABLE = "DISABLED", CLKOS3_ENABLE = "DISABLED";
    parameter CLKOP_CPHASE = 0, CLKOS_CPHASE = 0, CLKOS2_CPHASE = 0, CLKOS3_CPHASE = 0;
    parameter CLKOP_FPHASE = 0, CLKOS_FPHASE = 0, CLKOS2_FPHASE = 0, CLKOS3_FPHASE = 0;
    parameter FEEDBK_PATH = "CLKOP", CLKOP_TRIM_POL = "RISING", CLKOS_TRIM_POL = "RISING";
    parameter CLKOP_TRIM_DELAY = 0, CLKOS_TRIM_DELAY = 0;
    parameter OUTDIVIDER_MUXA = "DIVA", OUTDIVIDER_MUXB = "DIVB", OUTDIVIDER_MUXC = "DIVC", OUTDIVIDER_MUXD = "DIVD";
    parameter PLL_LOCK_MODE = 0, PLL_LOCK_DELAY = 200, STDBY_ENABLE = "DISABLED", REFIN_RESET = "DISABLED";
    parameter SYNC_ENABLE = "DISABLED", INT_LOCK_STICKY = "ENABLED", DPHASE_SOURCE = "DISABLED";
    parameter PLLRST_ENA = "DISABLED", INTFB_WAKE = "DISABLED";
    localparam LOCKS_AFTER = 32;  // cycles
    reg [5:0] cycles = 0;
    realtime edge_before = 0, period = 0;
    always @(posedge CLKI) begin
        period <= $realtime - edge_before;
        edge_before <= $realtime;
    end
    always @(posedge CLKI or posedge RST)
        if (RST) cycles <= 0;
        else if (LOCK && $realtime - edge_before > 2 * period) cycles <= 0;
        else if (!LOCK) cycles <= cycles + 1;
    assign LOCK = cycles == LOCKS_AFTER;
    assign INTLOCK = LOCK, REFCLK = CLKI, CLKINTFB = CLKI;
    assign CLKOP = CLKI, CLKOS = CLKI, CLKOS2 = CLKI, CLKOS3 = CLKI;
endmodule
