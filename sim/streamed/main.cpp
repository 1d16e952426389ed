// SPDX-License-Identifier: Apache-2.0
// Runs a streamed core against a memory that answers every command after a fixed time, a word a cycle: as good as a
// memory can be; or, with DRAM defined, behind a memory controller. Reads a list of steps, writes what came of each.
//
// argv: a file of settings, one number a line in the order of Settings; image; steps; results; trace ("" for none).
// A step is one 32-bit word a lane: token | slot << 16 | fresh << 24 | active << 25 | logits << 26; token 0xffff is the
// lane's latest arg-max. A result is a line of JSON.

#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <string>
#include <vector>

#include "Vstreamed.h"
#include "config.h"
#include "verilated.h"
#ifdef DRAM
#include "memory.h"
#endif

namespace {

[[noreturn]] void die(const std::string& what) {
    std::fprintf(stderr, "simulated core: %s\n", what.c_str());
    std::exit(1);
}

struct Settings {
    uint64_t lanes, word_bytes, memory_bytes, latency, cycles_max, counters_at, counters, logits_at, logits_stride, vocab;
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

template <typename Port> void load_word(Port& port, const uint8_t* bytes, size_t count) {
    std::memcpy(&port, bytes, count);
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
        std::fwrite(records_.data(), 8, records_.size(), file_);
        std::fflush(file_);
        records_.clear();
    }

private:
    void put(uint64_t kind, uint32_t value) { records_.push_back(kind << 32 | value); }

    FILE* file_;
    unsigned lanes_;
    std::vector<uint64_t> records_;
};

#ifdef DRAM

class Memory {
public:
    Memory(const Settings& s, const char* image) : word_bytes_{s.word_bytes}, memory_{s.memory_bytes, s.word_bytes} {
        memory_.load(image);
    }

    uint8_t* at(uint64_t address) { return memory_.word(uint32_t(address / word_bytes_)) + address % word_bytes_; }
    bool ready(const Vstreamed& core) const { return core.ready; }
    void cycle(Vstreamed&, uint64_t) {}

private:
    uint64_t word_bytes_;
    DramMemory memory_;
};

#else

class Memory {
public:
    Memory(const Settings& s, const char* image) : s_{s} {
        void* all = mmap(nullptr, s.memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (all == MAP_FAILED) die("no room for the memory");
        bytes_ = static_cast<uint8_t*>(all);
        FILE* file = std::fopen(image, "rb");
        if (!file) die(std::string("cannot read ") + image);
        const size_t got = std::fread(bytes_, 1, s.memory_bytes, file);
        std::fclose(file);
        if (!got) die(std::string("nothing in ") + image);
    }

    uint8_t* at(uint64_t address) {
        if (address >= s_.memory_bytes) die("an address beyond the memory: " + std::to_string(address));
        return bytes_ + address;
    }

    bool ready(const Vstreamed&) const { return true; }

    // What the core sees in this cycle, then what it says in it.
    void cycle(Vstreamed& core, uint64_t now) {
        core.read_valid = 0;
        core.write_ready = 0;
        if (!queue_.empty() && queue_.front().due <= now) {
            Burst& burst = queue_.front();
            uint8_t* word = at(burst.address * s_.word_bytes);
            bool moved = false;
            if (burst.write) {
                core.write_ready = 1;
                if (core.write_valid) {
                    std::memcpy(word, &core.write_payload, s_.word_bytes);
                    moved = true;
                }
            } else {
                core.read_valid = 1;
                load_word(core.read_data, word, s_.word_bytes);
                moved = true;
            }
            if (moved) {
                ++burst.address;
                if (!burst.words--) queue_.pop_front();
            }
        }
        core.command_ready = 1;
        if (core.command_valid) {
            const uint64_t payload = core.command_payload;
            queue_.push_back({uint32_t(payload), uint32_t(payload >> 32 & 63), bool(payload >> 38 & 1), now + s_.latency});
        }
    }

private:
    struct Burst { uint32_t address, words; bool write; uint64_t due; };
    const Settings& s_;
    uint8_t* bytes_;
    std::deque<Burst> queue_;
};

#endif

class Bench {
public:
    Bench(const Settings& s, const char* image, Trace* trace) : s_{s}, memory_{s, image}, trace_{trace} {
        core_.rst = 1;
        core_.token_valid = core_.result_ready = core_.bus_read = core_.bus_write = core_.give_up = 0;
        for (int k = 0; k < 8; ++k) tick();
        core_.rst = 0;
        tick();
        tick();
        wait([&] { return memory_.ready(core_); }, "the memory does not get ready");
    }

    ~Bench() { core_.final(); }

    void tick() {
        memory_.cycle(core_, cycles_);
        core_.clk = 0;
        core_.eval();
        words_ += core_.seen_word;
        if (trace_) trace_->cycle(core_);
        core_.clk = 1;
        core_.eval();
        ++cycles_;
    }

    uint32_t counter(unsigned number) {
        uint32_t value = 0;
        for (unsigned k = 0; k < 4; ++k) {
            core_.bus_address = uint32_t(s_.counters_at + 4 * number + k);
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
        const uint64_t from = cycles_, words_before = words_;
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
        const uint64_t took = cycles_ - from, read = words_ - words_before;
        results << "{\"best\": [";
        for (unsigned k = 0; k < lanes; ++k) results << (k ? ", " : "") << latest_[k];
        results << "], \"cycles\": " << took << ", \"words\": " << read
                << ", \"seconds\": " << seconds << ", \"counters\": [";
        for (unsigned k = 0; k < s_.counters; ++k) results << (k ? ", " : "") << counter(k);
        results << "], \"logits\": {";
        bool first = true;
        for (unsigned k = 0; k < lanes; ++k) {
            if (!(lanes_words[k] >> 26 & lanes_words[k] >> 25 & 1) || !s_.logits_at) continue;
            results << (first ? "" : ", ") << "\"" << k << "\": [";
            first = false;
            for (uint64_t t = 0; t < s_.vocab; ++t) {
                int32_t value;
                std::memcpy(&value, memory_.at(s_.logits_at + k * s_.logits_stride + 4 * t), 4);
                results << (t ? ", " : "") << value;
            }
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
    Memory memory_;
    Trace* trace_;
    uint64_t cycles_ = 0, words_ = 0;
    std::vector<uint32_t> latest_;
};

}  // namespace

int main(int argc, char** argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc != 6) die("settings image steps results trace");
    Settings s{};
    std::ifstream settings(argv[1]);
    uint64_t* fields = reinterpret_cast<uint64_t*>(&s);
    for (size_t k = 0; k < sizeof s / 8; ++k)
        if (!(settings >> fields[k])) die(std::string("too few numbers in ") + argv[1]);
    std::ifstream steps(argv[3], std::ios::binary);
    std::ofstream results(argv[4]);
    FILE* trace = *argv[5] ? std::fopen(argv[5], "wb") : nullptr;
    if (!steps || !results || (*argv[5] && !trace)) die("cannot open steps, results or trace");
    Trace records(trace, unsigned(s.lanes));
    Bench bench(s, argv[2], trace ? &records : nullptr);
    std::vector<uint32_t> words(s.lanes);
    while (steps.read(reinterpret_cast<char*>(words.data()), std::streamsize(4 * s.lanes))) bench.step(words, results);
    if (trace) std::fclose(trace);
    return 0;
}
