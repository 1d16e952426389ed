// SPDX-License-Identifier: Apache-2.0
// The external memory of a Verilated core or chip: one that answers every command after a fixed time, a word a cycle, as
// good as a memory can be; or, with DRAM defined, that behind a memory controller, which is part of the model.
//
// ``Model`` has the ports of streamed.v. One object for the process.

#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <set>

#ifdef DRAM
#include "memory.h"
#endif

template <typename Model> class ExternalMemory {
public:
    ExternalMemory(uint64_t word_bytes, uint64_t bytes, uint64_t latency)
        : word_bytes_{word_bytes}, bytes_{bytes}, latency_{latency},
#ifdef DRAM
          memory_{bytes, word_bytes}
    {}
#else
          base_{static_cast<uint8_t*>(
              mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))}
    {
        if (base_ == MAP_FAILED) {
            std::perror("external memory");
            std::exit(1);
        }
    }
#endif

    uint64_t bytes() const { return bytes_; }

    // A byte; nullptr beyond the end.
    uint8_t* at(uint64_t address) {
        if (address >= bytes_) return nullptr;
#ifdef DRAM
        return memory_.word(uint32_t(address / word_bytes_)) + address % word_bytes_;
#else
        return base_ + address;
#endif
    }

    // A file from address 0 on.
    void load(const char* path) {
#ifdef DRAM
        memory_.load(path);
#else
        FILE* file = std::fopen(path, "rb");
        if (!file || !std::fread(base_, 1, bytes_, file)) {
            std::perror(path);
            std::exit(1);
        }
        std::fclose(file);
#endif
    }

    // Rows that were opened so far; a memory without controller has none.
    uint64_t activations() const {
#ifdef DRAM
        return memory_.activations;
#else
        return 0;
#endif
    }

#ifdef DRAM
    void forget() {}
    bool ready(const Model& model) const { return model.ready; }
    void cycle(Model&, uint64_t) {}
#else
    // What is on its way; contents stay.
    void forget() { queue_.clear(); }
    bool ready(const Model&) const { return true; }

    // From now on the word with this byte cannot be read or written.
    void spoil(uint64_t address) { spoilt_.insert(address / word_bytes_); }
    // From now on nothing is answered.
    void silence() { silent_ = true; }
    void mend() { spoilt_.clear(); silent_ = false; }

    // What the model sees in this cycle, then what it says in it.
    void cycle(Model& model, uint64_t now) {
        model.read_valid = model.read_error = model.write_ready = model.write_error = 0;
        if (!silent_ && !queue_.empty() && queue_.front().due <= now) {
            Burst& burst = queue_.front();
            const bool spoilt = !spoilt_.empty() && spoilt_.count(burst.address);
            uint8_t* word = at(burst.address * word_bytes_);
            bool moved = false;
            if (burst.write) {
                model.write_ready = 1;
                if (model.write_valid) {
                    if (word && !spoilt) std::memcpy(word, &model.write_payload, word_bytes_);
                    model.write_error = !word || spoilt;
                    moved = true;
                }
            } else {
                model.read_valid = 1;
                model.read_error = !word || spoilt;
                if (word) std::memcpy(&model.read_data, word, word_bytes_);
                moved = true;
            }
            if (moved) {
                ++burst.address;
                if (!burst.words--) queue_.pop_front();
            }
        }
        model.command_ready = 1;
        if (model.command_valid) {
            const uint64_t payload = model.command_payload;
            queue_.push_back({uint32_t(payload), uint32_t(payload >> 32 & 63), bool(payload >> 38 & 1), now + latency_});
        }
    }
#endif

private:
    const uint64_t word_bytes_, bytes_, latency_;
#ifdef DRAM
    DramMemory memory_;
#else
    struct Burst { uint64_t address; uint32_t words; bool write; uint64_t due; };
    uint8_t* const base_;
    std::deque<Burst> queue_;
    std::set<uint64_t> spoilt_;
    bool silent_ = false;
#endif
};
