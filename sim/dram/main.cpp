// SPDX-License-Identifier: Apache-2.0
// Sends bursts to the memory behind its controller, as fast as it takes them or with gaps, and keeps what it answers.
//
// argv: BYTES WORD_BYTES IMAGE BURSTS WRITES READS STALL SEED LIMIT
//   BYTES, WORD_BYTES  size of the memory, width of its port
//   IMAGE              file with its contents
//   BURSTS             file of 32-bit pairs: address of the first word; words - 1, with bit 31 for a write
//   WRITES, READS      files: words to write, words that were read, in order
//   STALL              of 1024 cycles, those in which no command (and no word to write) is offered
//   SEED               of those
//   LIMIT              cycles without anything happening after which it gives up
// stdout: a JSON line; the model's own messages before it.

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "Vdram.h"
#include "memory.h"
#include "verilated.h"

namespace {

// Ports of up to 64 bits are integers, wider ones arrays of 32 bits.
template <class T> void* bits(T& port) { return &port; }
template <size_t N> void* bits(VlWide<N>& port) { return port.data(); }

template <class T> std::vector<T> contents(const char* path) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file || std::fseek(file, 0, SEEK_END)) {
        std::perror(path);
        std::exit(1);
    }
    std::vector<T> items(size_t(std::ftell(file)) / sizeof(T));
    std::rewind(file);
    if (std::fread(items.data(), sizeof(T), items.size(), file) != items.size()) {
        std::perror(path);
        std::exit(1);
    }
    std::fclose(file);
    return items;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 10) {
        std::fprintf(stderr, "dram: 9 arguments, not %d\n", argc - 1);
        return 2;
    }
    const size_t word = std::strtoull(argv[2], nullptr, 10);
    DramMemory memory{std::strtoull(argv[1], nullptr, 10), word};
    memory.load(argv[3]);
    const auto bursts = contents<uint32_t>(argv[4]);
    const auto writes = contents<uint8_t>(argv[5]);
    std::FILE* reads = std::fopen(argv[6], "wb");
    if (!reads) {
        std::perror(argv[6]);
        return 1;
    }
    const unsigned stall = unsigned(std::atoi(argv[7]));
    std::mt19937 random{unsigned(std::atoi(argv[8]))};
    const uint64_t limit = std::strtoull(argv[9], nullptr, 10);

    VerilatedContext context;
    Vdram top{&context};
    uint64_t cycle = 0, first = 0, last = 0, quiet = 0, expected = 0, got = 0, most = 0;
    size_t sent = 0, written = 0;
    bool offering = false, giving = false;
    const auto edge = [&] {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        ++cycle;
    };
    top.command_valid = top.write_valid = 0;
    top.rst = 1;
    top.clk = 0;
    for (int k = 0; k < 8; ++k) {
        top.eval();
        edge();
    }
    top.rst = 0;
    for (top.eval(); !top.ready && cycle < limit; top.eval()) edge();
    const uint64_t ready = cycle;

    while (sent < bursts.size() || written < writes.size() || got < expected) {
        if (++quiet > limit) {
            std::fprintf(stderr, "dram: nothing for %" PRIu64 " cycles after %" PRIu64 "\n", limit, cycle);
            return 3;
        }
        // An offer stands until it is taken.
        if (!offering) offering = sent < bursts.size() && random() % 1024 >= stall;
        if (!giving) giving = written < writes.size() && random() % 1024 >= stall;
        top.command_valid = offering;
        if (offering) {
            top.address = bursts[sent];
            top.last = bursts[sent + 1] & 63;
            top.write = bursts[sent + 1] >> 31;
        }
        top.write_valid = giving;
        if (giving) std::memcpy(bits(top.write_data), &writes[written], word);
        top.eval();
        if (offering && top.command_ready) {
            if (!sent) first = cycle;
            if (!(bursts[sent + 1] >> 31)) expected += (bursts[sent + 1] & 63) + 1;
            sent += 2;
            offering = false;
            quiet = 0;
        }
        if (giving && top.write_ready) {
            written += word;
            giving = false;
            quiet = 0;
        }
        if (expected - got > most) most = expected - got;
        if (top.read_valid) {
            if (got == expected) {
                std::fprintf(stderr, "dram: a word that nobody asked for, cycle %" PRIu64 "\n", cycle);
                return 3;
            }
            std::fwrite(bits(top.read_data), word, 1, reads);
            ++got;
            last = cycle;
            quiet = 0;
        }
        edge();
    }
    top.final();
    if (std::fclose(reads)) {
        std::perror(argv[6]);
        return 1;
    }
    std::printf("{\"ready\": %" PRIu64 ", \"first\": %" PRIu64 ", \"last\": %" PRIu64 ", \"cycles\": %" PRIu64
                ", \"words\": %" PRIu64 ", \"waiting\": %" PRIu64 "}\n",
                ready, first, last, cycle, got, most);
    return 0;
}
