// SPDX-License-Identifier: Apache-2.0
// Runs a streamed core against the memory of external.h. Reads a list of steps, writes what came of each.
//
// argv: a file of settings, one number a line in the order of Settings; image; steps; results; trace; VCD file ("": none).
// A step is one 32-bit word a lane: token | slot << 16 | fresh << 24 | active << 25 | logits << 26; token 0xffff is the
// lane's latest arg-max. A result is a line of JSON.

#include <sys/prctl.h>
#include <signal.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "Vstreamed.h"
#include "config.h"
#include "external.h"
#include "vcd.h"
#include "verilated.h"

namespace {

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "simulated core: %s\n", what.c_str());
    std::exit(1);
}

struct Settings {
    uint64_t lanes, word_bytes, memory_bytes, latency, cycles_max, counters_at, counters, logits_at, logits_stride, vocab,
        vcd_period;
};

// Bits of a port, whatever Verilator makes of them.
template <typename Port> void set_bits(Port& port, unsigned at, unsigned width, uint64_t value) {
    if constexpr (std::is_integral_v<Port>) {
        const uint64_t mask = (width == 64 ? ~0ull : (1ull << width) - 1) << at;
        port = Port((uint64_t(port) & ~mask) | ((value << at) & mask));
    } else {
        for (unsigned k = 0; k < width; ++k) {
            const unsigned bit = at + k;
            if (value >> k & 1) port[bit / 32] |= 1u << bit % 32;
            else port[bit / 32] &= ~(1u << bit % 32);
        }
    }
}

template <typename Port> uint64_t get_bits(const Port& port, unsigned at, unsigned width) {
    if constexpr (std::is_integral_v<Port>) {
        return uint64_t(port) >> at & (width == 64 ? ~0ull : (1ull << width) - 1);
    } else {
        uint64_t value = 0;
        for (unsigned k = 0; k < width; ++k) value |= uint64_t(port[(at + k) / 32] >> (at + k) % 32 & 1) << k;
        return value;
    }
}

// What the core stores, as records of 64 bits: kind << 32 | value. The kinds are in the order of nomul.sim.streamed.trace.
class Trace {
public:
    Trace(FILE* file, unsigned lanes) : file_{file}, lanes_{lanes} {}

    void cycle(const Vstreamed& core) {
        if (core.seen_acts) put(0, core.acts);
        if (core.seen_sums)
            for (unsigned k = 0; k < lanes_; ++k) put(1, uint32_t(get_bits(core.sums, 32 * k, 32)));
        if (core.seen_store) put(2, core.store);
        if (core.seen_keep) put(3, core.keep);
        if (core.seen_h) put(4, core.h);
        if (core.seen_activated) put(5, core.activated);
    }

    void step_ends() {
        put(0xff, 0);
        if (std::fwrite(records_.data(), 8, records_.size(), file_) != records_.size() || std::fflush(file_))
            die("the trace cannot be written; is the disk full?");
        records_.clear();
    }

private:
    void put(uint64_t kind, uint32_t value) { records_.push_back(kind << 32 | value); }

    FILE* file_;
    unsigned lanes_;
    std::vector<uint64_t> records_;
};

class Bench {
public:
    Bench(const Settings& s, const char* image, Trace* trace, const char* vcd)
        : s_{s}, memory_{s.word_bytes, s.memory_bytes, s.latency}, trace_{trace} {
        memory_.load(image);
        core_.rst = 1;
        core_.token_valid = core_.result_ready = core_.bus_read = core_.bus_write = core_.give_up = 0;
        for (int k = 0; k < 8; ++k) tick();
        core_.rst = 0;
        tick();
        tick();
        wait([&] { return memory_.ready(core_); }, "the memory does not get ready");
        if (*vcd && !vcd_.open(core_, vcd, s.vcd_period)) die(std::string(vcd) + " cannot be written, or was built without");
    }

    ~Bench() {
        vcd_.close();
        core_.final();
    }

    void tick() {
        memory_.cycle(core_, cycles_);
        core_.clk = 0;
        core_.eval();
        words_ += core_.seen_word;
        if (trace_) trace_->cycle(core_);
        core_.clk = 1;
        core_.eval();
        ++cycles_;
        if (core_.busy) vcd_.cycle(cycles_);
    }

    // Four bytes at an address of the host's.
    uint32_t peek(uint64_t address) {
        uint32_t value = 0;
        if (address >> 31) {
            const uint8_t* bytes = memory_.at(address & 0x7fffffff);
            if (!bytes) die("an address beyond the memory: " + std::to_string(address));
            std::memcpy(&value, bytes, 4);
            return value;
        }
        for (unsigned k = 0; k < 4; ++k) {
            core_.bus_address = uint32_t(address + k);
            core_.bus_read = 1;
            tick();
            core_.bus_read = 0;
            for (int wait = 0; !core_.bus_done; ++wait) {
                if (wait > 64) die("the bus does not answer");
                tick();
            }
            value |= uint32_t(core_.bus_read_data) << 8 * k;
        }
        return value;
    }

    void step(const std::vector<uint32_t>& lanes_words, std::ofstream& results) {
        const unsigned lanes = unsigned(s_.lanes);
        if (latest_.empty()) latest_.assign(lanes, 0);
        unsigned at = 0;
        auto field = [&](unsigned shift, unsigned width) {
            for (unsigned k = 0; k < lanes; ++k, at += width) {
                uint64_t value = lanes_words[k] >> shift & ((1u << width) - 1);
                if (shift == 0 && value == 0xffff) value = latest_[k];
                set_bits(core_.token_payload, at, width, value);
            }
        };
        field(0, 16); field(16, 8); field(24, 1); field(25, 1); field(26, 1);
        const auto begin = std::chrono::steady_clock::now();
        const uint64_t from = cycles_, words_before = words_, rows_before = memory_.activations();
        core_.token_valid = 1;
        wait([&] { return core_.token_ready; }, "the core takes no token");
        core_.token_valid = 0;
        core_.result_ready = 1;
        wait([&] { return core_.result_valid; }, "the core gives no result");
        for (unsigned k = 0; k < lanes; ++k) latest_[k] = uint32_t(get_bits(core_.result_payload, 16 * k, 16));
        tick();
        core_.result_ready = 0;
        wait([&] { return !core_.busy; }, "the core stays busy");
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        const uint64_t took = cycles_ - from, read = words_ - words_before, rows = memory_.activations() - rows_before;
        results << "{\"best\": [";
        for (unsigned k = 0; k < lanes; ++k) results << (k ? ", " : "") << latest_[k];
        results << "], \"cycles\": " << took << ", \"words\": " << read
                << ", \"activations\": " << rows << ", \"seconds\": " << seconds << ", \"counters\": [";
        for (unsigned k = 0; k < s_.counters; ++k) results << (k ? ", " : "") << peek(s_.counters_at + 4 * k);
        results << "], \"logits\": {";
        bool first = true;
        for (unsigned k = 0; k < lanes; ++k) {
            if (!(lanes_words[k] >> 26 & lanes_words[k] >> 25 & 1)) continue;
            results << (first ? "" : ", ") << "\"" << k << "\": [";
            first = false;
            for (uint64_t t = 0; t < s_.vocab; ++t)
                results << (t ? ", " : "") << int32_t(peek(s_.logits_at + k * s_.logits_stride + 4 * t));
            results << "]";
        }
        results << "}}" << std::endl;
        if (trace_) trace_->step_ends();
    }

private:
    // Until a register shows it. In the cycle in which it does nothing has been taken yet.
    template <typename Condition> void wait(Condition condition, const char* what) {
        const uint64_t from = cycles_;
        while (!condition()) {
            tick();
            if (cycles_ - from > s_.cycles_max) die(std::string(what) + " within the cycles allowed");
        }
        if (core_.token_valid) tick();
    }

    const Settings& s_;
    Vstreamed core_;
    ExternalMemory<Vstreamed> memory_;
    Windows<Vstreamed> vcd_;
    Trace* trace_;
    uint64_t cycles_ = 0, words_ = 0;
    std::vector<uint32_t> latest_;
};

}  // namespace

int main(int argc, char** argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 7) die("settings image steps results trace vcd");
    Settings s{};
    std::ifstream settings(argv[1]);
    uint64_t* fields = reinterpret_cast<uint64_t*>(&s);
    for (size_t k = 0; k < sizeof s / 8; ++k)
        if (!(settings >> fields[k])) die(std::string("too few numbers in ") + argv[1]);
    std::ifstream steps(argv[3], std::ios::binary);
    std::ofstream results(argv[4]);
    FILE* trace = *argv[5] ? std::fopen(argv[5], "wb") : nullptr;
    if (!steps || !results || (*argv[5] && !trace)) die("cannot open steps, results or trace");
#if VM_TRACE
    Verilated::traceEverOn(true);
#endif
    Trace records(trace, unsigned(s.lanes));
    Bench bench(s, argv[2], trace ? &records : nullptr, argv[6]);
    std::vector<uint32_t> words(s.lanes);
    while (steps.read(reinterpret_cast<char*>(words.data()), std::streamsize(4 * s.lanes))) bench.step(words, results);
    if (trace) std::fclose(trace);
    return 0;
}
